"""What 8 bits cost: the images that they are calibrated on, and Recall@1 before and after."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from data.records import Records
from embeddings.embed import embed
from embeddings.encoder import Encoder
from embeddings.golden import spaced_rows
from embeddings.table import EmbeddingTable
from retrieval.metrics.evaluation import evaluate
from core.text import counted

CALIBRATED_ON = 256  # images
BATCH = 32


@dataclass(frozen=True)
class Recalls:
    """Recall@1 of a list, 0 to 1, by a network in float32 and by its 8-bit copy."""

    source: str
    images: int
    before: float
    after: float

    def as_facts(self) -> dict[str, object]:
        """For a card."""
        return {
            "calibrated_on": min(self.images, CALIBRATED_ON),
            "tested_on": self.source,
            "recall@1_before": self.before,
            "recall@1_after": self.after,
        }

    def as_text(self) -> str:
        """In words."""
        return (
            f"Recall@1 on {counted(self.images, 'image')} of {self.source}: {100 * self.before:.2f} % before, "
            f"{100 * self.after:.2f} % after"
        )


def calibration_batches(records: Records, encoder: Encoder) -> Iterator[np.ndarray]:
    """Crops of evenly spaced images of a list, (B, 3, height, width) uint8."""
    chosen = records.take(np.array(spaced_rows(len(records), CALIBRATED_ON)))
    for images, _, _ in replace(encoder, batch_size=BATCH).open_loader(chosen):
        yield np.ascontiguousarray(images.numpy())


def recalls(records: Records, encoder: Encoder, before: nn.Module, after: nn.Module) -> Recalls:
    """Recall@1 of the whole list by two networks. Raises InputError for a list that has no labels to be found."""
    opened = [replace(encoder, open_network=lambda net=net: net, batch_size=BATCH) for net in (before, after)]
    figures = [_recall(records, each) for each in opened]
    return Recalls(records.source, len(records), *figures)


def _recall(records: Records, encoder: Encoder) -> float:
    cpu = torch.device("cpu")
    table = EmbeddingTable(records, embed(encoder.network, encoder.open_loader(records), cpu))
    evaluation = evaluate(table.query_gallery(cpu), table.matrix, records, metrics=("recall@1",))
    return evaluation.figures["recall@1"]
