"""A network with its way of reading images: what a program that uses the library asks for embeddings.

It stands here and not in models/, since it needs both networks and images (data/).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InputError
from data.image.reading import Source, smart_read_image
from data.image.transforms import TestTransform
from models import Embedder
from models.trained import read_settings

IMAGE_SHAPE = (3, 224, 224)
GEOMETRY = ("image_shape", "resize_short_size", "resize_filter", "resize_mode")


class ImageEmbedder(Embedder):
    """An Embedder that takes images as `smart_read_image` does (paths, addresses, PIL's, arrays), in the test geometry.

        network = ImageEmbedder.from_pretrained("output")
        network.embed_image("cat.jpg") @ network.embed_image(Image.open("dog.png"))

    image_shape: (3, height, width) of what the network sees; resize_short_size: short side before that crop, 0: its
    longer side; resize_filter: how it comes to that, area, bilinear, bicubic or linear; resize_mode: crop, or squash or
    pad for all of an image. normalises: embeddings have length 1, so that a dot product is a cosine. The rest as for
    Embedder, whose `forward` it has: what a loss is given is not normalised. Raises InputError as that does.
    """

    def __init__(
        self,
        model: str,
        embedding_size: int = 0,
        *words: Any,
        image_shape: tuple[int, int, int] = IMAGE_SHAPE,
        resize_short_size: int = 0,
        resize_filter: str = "area",
        resize_mode: str = "crop",
        normalises: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model, embedding_size, *words, **options)
        self.transform = TestTransform(*image_shape[1:], resize_short_size, resize_filter, resize_mode)
        self.normalises = normalises
        self.last: dict[str, torch.Tensor] = {}
        self.backbone.register_forward_hook(_Recorder(self.last, "pre_pooling"))
        self.pooling.register_forward_hook(_Recorder(self.last, "post_pooling"))
        self.register_forward_hook(_Recorder(self.last, "embedding"))

    @classmethod
    def options_of_card(cls, card: dict[str, Any], file: Path) -> dict[str, Any]:
        """The geometry that the network was trained in."""
        settings = read_settings(card.get("flags", {}), file)
        return {name: settings[name] for name in GEOMETRY if name in settings}

    def embed_image(self, image: Source) -> np.ndarray:
        """The embedding (D,) float32 of one image. Raises InputError where it cannot be read."""
        return self.embed_images([image])[0]

    def embed_images(self, images: Iterable[Source], batch_size: int = 32) -> np.ndarray:
        """Embeddings (N, D) float32 of images, read and embedded `batch_size` at a time. Raises InputError for one that
        cannot be read."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it is 1 or more")
        batches = [np.empty((0, self.embedding_size), np.float32)]
        crops = []
        for image in images:
            crops.append(self.transform(smart_read_image(image)))
            if len(crops) == batch_size:
                batches.append(self._embedded(crops))
                crops = []
        if crops:
            batches.append(self._embedded(crops))
        return np.concatenate(batches)

    def get_features(self, images: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """What the network made of images (B, 3, height, width) uint8, or without any of the last batch it was given.

        {"pre_pooling": what the backbone gives, such as maps (B, C, h, w); "post_pooling": (B, C); "embedding":
        (B, D)}, without gradients; of several `test_scales` the first two are the last scale's. Raises InputError
        where there has been no batch.
        """
        if images is not None:
            self._run(images)
        if not self.last:
            raise InputError("get_features() tells of the last batch, and the network has seen none: give it images")
        features = dict(self.last)
        if self.normalises:
            features["embedding"] = F.normalize(features["embedding"])
        return features

    def _embedded(self, crops: list[torch.Tensor]) -> np.ndarray:
        """Embeddings (B, D) of crops (height, width, 3) uint8."""
        embeddings = self._run(torch.stack(crops).permute(0, 3, 1, 2)).float()
        if self.normalises:
            embeddings = F.normalize(embeddings)
        return embeddings.cpu().numpy()

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        """`forward` without gradients, in evaluation mode, on the network's device; its mode is what it was."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                return self(images.to(self.mean.device))
        finally:
            # One by one: a part may have been set otherwise than the whole.
            for module, mode in modes:
                module.training = mode


class _Recorder:
    """A hook that keeps what a module has given under a name; an object, so that the network can be copied."""

    def __init__(self, kept: dict[str, torch.Tensor], name: str) -> None:
        self.kept = kept
        self.name = name

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.kept[self.name] = output.detach()
