"""Triplets of a label's mean, its farthest image and the nearest mean of another label (Alex et al., 2019, arXiv
1812.10325, "hard cluster")."""

import torch

from core.errors import InputError
from core.text import counted, plural
from losses._mined import Reference, Triplets
from losses._pair_distances import centred, squared_distances
from miners._blocks import nearest
from miners._mining import mining
from miners._registry import MINERS


@MINERS.register("hard_cluster", gives="triplets", adds_rows=True)
class HardClusterMiner:
    """One triplet a label (Open Metric Learning's HardClusterMiner): anchors and negatives are means of labels, which
    carry a gradient to all of their images. `extended` puts the means behind the batch, in order of labels.
    """

    @mining
    def __call__(self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None) -> Triplets:
        """Triplets of embeddings (B, D) and labels (B,), as numbers of extended rows.

        Raises InputError unless all labels have the same number of images, two at least, and there are two labels; and
        for a reference, whose labels have no means.
        """
        if reference is not None:
            raise InputError(
                "the miner hard_cluster compares means of labels of the batch, and has no use for a memory"
            )
        rows = rows_by_label(labels)
        means = embeddings[rows].mean(1)
        to_mean = (embeddings[rows] - means[:, None]).square().sum(2)
        number = torch.arange(len(rows), device=rows.device)
        positives = rows[number, to_mean.argmax(1)]
        is_other = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        points = centred(means)
        squares = points.square().sum(1)
        _, negatives = nearest(squared_distances(points, squares, points, squares), is_other)
        return Triplets(len(labels) + number, positives, len(labels) + negatives)

    def extended(self, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(embeddings (B + L, D), labels (B + L,)): the batch, and behind it the means of its L labels in order."""
        rows = rows_by_label(labels)
        return torch.cat([embeddings, embeddings[rows].mean(1)]), torch.cat([labels, labels[rows[:, 0]]])


def rows_by_label(labels: torch.Tensor) -> torch.Tensor:
    """Rows (L, K) of each label, labels in order. Raises InputError unless each of L >= 2 has the same K >= 2 rows."""
    values, counts = labels.unique(return_counts=True)
    if (counts != counts[0]).any():
        raise InputError(
            f"labels have from {counts.min()} to {counted(counts.max(), 'image')} in the batch; the miner "
            "hard_cluster needs the same number of each"
        )
    if len(values) == 1:
        raise InputError(
            f"all {counted(len(labels), 'row')} {plural(len(labels), 'has', 'have')} label {values[0]}; the miner "
            "hard_cluster needs two labels"
        )
    if counts[0] == 1:
        rows = counted(len(labels), "row")
        raise InputError(f"no label occurs twice among the {rows}; the miner hard_cluster needs two of each")
    return labels.argsort(stable=True).view(len(values), -1)
