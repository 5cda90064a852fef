"""The texts' modality: a text of a list to the numbers of its tokens, padded to a batch."""

from typing import Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from core.items import text_of
from data.modality import Modality
from data.records import Records
from data.text.picture import draw_text_picture

# Stands behind a text's last token where others of its batch are longer. No token has this number, so that a batch is
# one tensor, of which the network knows what is padding.
PADDING = -1


class Tokenizer(Protocol):
    """A text to the numbers of its tokens, at least one; used in loader processes, so it has to be picklable."""

    def __call__(self, text: str) -> list[int]:
        """Numbers of tokens, 0 or more each, as many as the network takes at the most."""


class TextModality(Modality):
    """Texts as a Modality. tokenizer: the one that the network was trained with."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def load(self, records: Records, index: int) -> str:
        """The text of a row."""
        return text_of(records.paths[index])

    def augment(self, sample: str, seed: int) -> torch.Tensor:
        """(L,) int64, the numbers of its tokens; nothing is random in it."""
        return torch.tensor(self.tokenizer(sample), dtype=torch.int64)

    def collate(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """(B, L) int64, L of the longest text; PADDING behind the end of shorter ones."""
        return pad_sequence(samples, batch_first=True, padding_value=PADDING)

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        """The text, drawn: (H, W, 3) uint8 RGB."""
        return draw_text_picture(text_of(records.paths[index]))
