"""Precision@k loss of Open Metric Learning, after the recall@k surrogate of Patel et al. (arXiv 2108.11179)."""

import torch
import torch.nn.functional as F
from torch import nn

from losses._checks import check_option
from losses._mined import Reference
from losses._precision import full_precision
from losses._rank_rows import Block, RankedRows, of_ranks
from losses._registry import LOSSES


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

    reads_labels = True

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
        rankings = RankedRows(embeddings, labels, reference, with_self=True, unit=self.normalise, distances=True)
        total, _, active = rankings.sums(self.row_terms)
        self.logs = {"active_share": active.sum() / rankings.paired}
        return total / len(labels)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block's rows: 1 - precision (m,), slopes (m, C), and which are active (m,)."""
        distances = block.scores.sqrt_()
        block.place_itself(distances, 0)
        scores = distances / -self.temperature2
        own = block.own(scores)
        values, slopes = of_ranks(block, scores, own, self.missing_precision)
        # Of the square of a distance, which has no slope where it is 0.
        slopes.div_(F.threshold(distances, 0, torch.inf)).mul_(-0.5 / self.temperature2)
        return values, slopes, block.is_active(scores, own)

    def missing_precision(self, own: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        """1 - precision (m,) of positives with ranks (m, P). Scores make no difference; slopes by ranks."""
        retrieved = self.k + 1
        most = min(retrieved, own.shape[1])
        hits = ((retrieved - ranks) / self.temperature1).sigmoid_()
        values = 1 - hits.sum(1) / most
        return values, None, hits.addcmul_(hits, hits, value=-1).div_(self.temperature1 * most)
