"""Precision@k loss of Open Metric Learning, after the recall@k surrogate of Patel et al. (arXiv 2108.11179)."""

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, Rankings, SumOverRows, of_ranks
from losses._registry import LOSSES
from losses._unit_vectors import normalise


@LOSSES.register("surrogate_precision", stage="pair", batch="pk", memory=True)
class SurrogatePrecisionLoss(nn.Module):
    """1 - mean over rows of hits within k + 1 / min(k + 1, number of positives).

    The hits are the sum over the row's positives of sigmoid((k + 1 - rank) / temperature1), and a positive's rank is
    the sum over all columns, itself among them, of sigmoid((its distance - the column's) / temperature2). The row
    itself is a column and one of its positives, which is why k grows by 1. Distances are Euclidean, not squared.
    Every row has a term, also one whose label occurs once.

    Options:
        k: how many columns count as retrieved
        temperature1: width of the sigmoid that compares a rank with k, in ranks
        temperature2: width of the sigmoid that compares two columns, in distance
        normalise: scale embeddings to unit length first, which the peer leaves to the network

    `logs` after a call: active_share (rows with a negative at least as near as one of their positives).
    """

    def __init__(
        self, k: int = 5, temperature1: float = 1.0, temperature2: float = 0.01, normalise: bool = False
    ) -> None:
        super().__init__()
        check_option("k", k, 1)
        check_option("temperature1", temperature1, 0, above=True)
        check_option("temperature2", temperature2, 0, above=True)
        self.k = k
        self.temperature1 = temperature1
        self.temperature2 = temperature2
        self.normalise = normalise
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None = None
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        rankings = Rankings(labels, reference, with_self=True)
        further = None
        if reference is not None:
            further = reference.embeddings.to(embeddings.dtype)
        if self.normalise:
            embeddings = normalise(embeddings)
            further = None if further is None else normalise(further)

        # Distances stay as they are when all points move together, and are rounded least around the origin.
        middle = embeddings.detach().mean(0)
        queries, keys = nearness_factors(embeddings - middle)
        if further is not None:
            _, further = nearness_factors(further - middle)
        total, active = SumOverRows.apply(queries, keys, further, rankings, self._of_block)
        self.logs = {"active_share": active}
        return total / len(labels)

    def _of_block(self, block: Block, nearness: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distances = nearness.neg_().clamp_min_(0).sqrt_()
        distances.scatter_(1, block.rows[:, None], 0)
        scores = distances / -self.temperature2
        values, slopes = of_ranks(block, scores, scores.gather(1, block.positives), self._missing_precision)
        # nearness = -distance^2, and where a distance is 0 it has no slope.
        slopes.div_(distances.mul_(2 * self.temperature2)).masked_fill_(distances == 0, 0)
        return values, slopes

    def _missing_precision(self, _: torch.Tensor, ranks: torch.Tensor, is_positive: torch.Tensor) -> torch.Tensor:
        """1 - precision (n,) of positives with ranks (n, P)."""
        retrieved = self.k + 1
        hits = (((retrieved - ranks) / self.temperature1).sigmoid() * is_positive).sum(1)
        return 1 - hits / is_positive.sum(1).clamp_max(retrieved)


def nearness_factors(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys (B, D + 2) of points (B, D), whose products are the negative squared distances of the points."""
    squares = points.square().sum(1, keepdim=True)
    ones = torch.ones_like(squares)
    return torch.cat([2 * points, -squares, -ones], 1), torch.cat([points, ones, squares], 1)
