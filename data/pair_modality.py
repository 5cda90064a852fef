"""How rows that are an image with its text are loaded, as pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from core.items import text_of
from core.pairs import ImageTextBatch
from data.image.modality import ImageModality
from data.modality import Modality
from data.records import Records
from data.text.modality import TextModality


class PairModality(Modality):
    """A Modality whose rows are an image with its text."""

    def __init__(self, images: ImageModality, texts: TextModality):
        self.images = images
        self.texts = texts

    def load(self, records: Records, index: int) -> tuple[Any, str]:
        """(what ImageModality loads, the row's text)."""
        return self.images.load(records, index), text_of(records.texts[index])

    def augment(self, sample: tuple[Any, str], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, text = sample
        return self.images.augment(image, seed), self.texts.augment(text, seed)

    def begin(self, sample: tuple[Any, str], seed: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        """As `augment`, of which the image may wait."""
        image, text = sample
        finish_image = self.images.begin(image, seed)
        tokens = self.texts.augment(text, seed)
        return lambda: (finish_image(), tokens)

    def collate(self, samples: list[tuple[torch.Tensor, torch.Tensor]]) -> ImageTextBatch:
        images, texts = zip(*samples, strict=True)
        return ImageTextBatch(self.images.collate(list(images)), self.texts.collate(list(texts)))

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        """The image."""
        return self.images.thumbnail(records, index)
