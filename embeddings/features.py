"""Embeddings of a file as what a head learns from, in place of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from core.errors import InputError
from core.text import counted, plural
from data.collate import Batch
from data.hold_out import held_out_mask
from data.records import Records
from data.samplers import Sample
from embeddings.files import load_table
from embeddings.table import EmbeddingTable
from models import ModelSettings
from models.trained import read_settings

OF_BACKBONE = (
    "model",
    "pooling",
    "image_shape",
    "resize_short_size",
    "resize_filter",
    "resize_mode",
    "test_scales",
    "clip_seconds",
)


@dataclass(frozen=True)
class FeatureData:
    """Features to train with and to test on, their lists, and the model that made them.

    features: (N, D) float32, a row of each record of `train`, and test_features of `test`. fingerprint: of the model
    (embeddings/fingerprint.py). tested_on: what `test` is, in words. title, more: as TrainingData
    has them; there are no further lists.
    """

    train: Records
    test: Records
    tested_on: str
    features: torch.Tensor
    test_features: torch.Tensor
    fingerprint: dict
    title: str = ""
    more: dict[str, Records] = field(default_factory=dict)

    def settings(self, settings: ModelSettings, typed: Iterable[str]) -> ModelSettings:
        """The settings with the network and the images of the file's model, where they are not typed."""
        made = read_settings(self.fingerprint, self.train.source)
        return replace(settings, **{name: made[name] for name in OF_BACKBONE if name in made and name not in typed})

    def refuse_other_model(self, fingerprint: dict, pretrained_model: str) -> None:
        """Raise InputError unless this is the fingerprint of the model that made the features."""
        if fingerprint == self.fingerprint:
            return
        names = sorted(fingerprint.keys() | self.fingerprint.keys())
        differing = [name for name in names if fingerprint.get(name) != self.fingerprint.get(name)]
        raise InputError(
            f"{self.train.source!r} was not made by {pretrained_model}: they differ in {', '.join(differing)}; a head "
            "that learned from it cannot stand behind that network"
        )


def open_features(
    val_classes: int, *, features: str | None = None, test_features: str | None = None
) -> FeatureData | None:
    """Features to train a head with instead of images, None where none are asked for.

    Options:
        features: train a head on the embeddings of this .npz (of eval.py or infer.py), without images
        test_features: test it on those of this .npz

    val_classes: labels of `features` to hold out instead. Raises InputError for what is wrong with the files, and where
    they are of two models or tell of none.
    """
    if not features:
        if test_features:
            raise InputError("--test_features go with --features")
        return None
    if bool(test_features) == bool(val_classes):
        raise InputError(
            "--features are tested on --test_features, or on --val_classes of their labels: give one of them"
        )
    table = _open(features, needs_roles=False)
    if val_classes:
        held_out = held_out_mask(table.records, val_classes)
        train, test = _take(table, ~held_out), _take(table, held_out)
        tested_on = f"{counted(val_classes, 'train label')} held out"
    else:
        train, test = table, _open(test_features)
        tested_on = f"the features {test_features}"
    if train.width != test.width:
        raise InputError(f"{features!r} has {counted(train.width, 'number')} a row, {test_features!r} has {test.width}")
    if train.fingerprint != test.fingerprint:
        raise InputError(f"{features!r} and {test_features!r} were made by two models; features have to be of one")
    return FeatureData(train.records, test.records, tested_on, train.matrix, test.matrix, train.fingerprint)


def _open(path: str, needs_roles: bool = True) -> EmbeddingTable:
    """The table of a file, float32 and finite, of a model that it tells of; needs_roles: as load_table has it."""
    table = load_table(path, needs_roles)
    if table.fingerprint is None:
        raise InputError(
            f"{path!r} does not say which network made it, so that a head of it could stand behind none; "
            "infer.py --output and eval.py --save_embeddings do"
        )
    matrix = table.matrix.float()
    bad = (~torch.isfinite(matrix).all(1)).nonzero()
    if len(bad):
        raise InputError(
            f"{path!r}: {counted(len(bad), 'row')} {plural(len(bad), 'is', 'are')} not finite, first that of "
            f"{table.records.paths[bad[0, 0]]!r}"
        )
    return replace(table, matrix=matrix)


def _take(table: EmbeddingTable, chosen: np.ndarray) -> EmbeddingTable:
    return replace(table, records=table.records.take(chosen), matrix=table.matrix[torch.from_numpy(chosen)])


class FeatureBatches:
    """Batches (features, label codes, indices) as a loader of images has them, gathered in this process.

    features: (N, D) of `records`; batches: lists of samples, as a rank has them.
    """

    def __init__(self, features: torch.Tensor, records: Records, batches: Iterable[list[Sample]]):
        self.dataset = features
        self.codes = torch.from_numpy(records.vocabulary.codes)
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            indices = torch.tensor([sample.index for sample in batch])
            yield self.dataset[indices], self.codes[indices], indices

    def __len__(self) -> int:
        """How many batches there are, or how many in an epoch."""
        return len(self.batches)
