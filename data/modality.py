"""What a modality is asked for: how one row of a list becomes what a network takes, and what a report shows of it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from core.errors import InputError
from core.items import modality_of
from data.records import Records


class Modality(Protocol):
    """One kind of data: images (data/image/modality.py), texts (data/text/modality.py), sounds
    (data/audio/modality.py).

    All else in data/ does not know which kind it loads.

    Instances are used in loader processes, so they have to be picklable.
    """

    def load(self, records: Records, index: int) -> Any:
        """Row `index` of a list as `augment` takes it. Raises InputError, naming the file, for what cannot be read."""

    def augment(self, sample: Any, seed: int) -> torch.Tensor:
        """The network's input of one row; everything random in it follows from `seed`."""

    def begin(self, sample: Any, seed: int) -> Callable[[], Any]:
        """As `augment` in two halves: what is random is drawn now, what comes back does the rest, and returns that.

        The rows of a batch are begun one after the other, so what waits has to be small: unless a modality says
        otherwise, everything is done now.
        """
        inputs = self.augment(sample, seed)
        return lambda: inputs

    def collate(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """Inputs of B rows as a batch. In a loader process it goes into the memory shared with the training process."""

    def thumbnail(self, records: Records, index: int) -> np.ndarray:
        """What a report shows of row `index`, (H, W, 3) uint8 RGB. Raises InputError as `load` does."""


# What networks of a modality take, in words.
WORDS = {"image": "images", "text": "texts", "audio": "sounds"}


def refuse_other_modality(records: Records, *modalities: str) -> None:
    """Raise InputError for the first row that is of no modality that a model takes."""
    if records.modalities <= set(modalities):
        return
    for row, path in enumerate(records.paths.tolist()):
        if modality_of(path) not in modalities:
            words = " and ".join(WORDS[modality] for modality in modalities)
            raise InputError(f"{records.location(row)}: {records.name_of(row)}, but the model takes {words}")
