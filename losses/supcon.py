"""Supervised contrastive loss (Khosla et al., 2020, arXiv 2004.11362, equation 2)."""

import math

import torch
from torch import nn

from losses._checks import check_option
from losses._mined import Pairs, Reference
from losses._pair_rows import Block, PairRows, log_sum_exp, mean_above_zero
from losses._precision import full_precision
from losses._registry import LOSSES


@LOSSES.register("supcon", stage="pair", batch="pk", memory=True, mined="pairs")
class SupConLoss(nn.Module):
    """Mean over rows of -mean_p log(exp(s_p / t) / sum_a exp(s_a / t)), a going through positives and negatives.

    s are cosines, t is the temperature. The mean is over the rows whose loss is above zero; a row without a positive
    has none.

    Options:
        temperature: what cosines are divided by

    `logs` after a call: active_share (rows whose positives have less than half of the sum on a geometric mean), mean
    positive_similarity and negative_similarity.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_option("temperature", temperature, 0, above=True)
        self.temperature = temperature
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        *,
        reference: Reference | None = None,
        mined: Pairs | None = None,
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        pairs = PairRows(embeddings, labels, reference, mined)
        total, values, counts = pairs.sums(self.row_terms)
        if mined is not None and not len(mined.negatives):
            total = 0 * total
        self.logs = {
            "active_share": (values > math.log(2) + counts.clamp_min(1).log()).float().mean(),
            **pairs.mean_scores(),
        }
        return mean_above_zero(total, values)

    def row_terms(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses (m,) of a block's rows, their slopes, and how many positives each row has."""
        logits = block.scores / self.temperature
        counts = block.counts[0]
        targets = block.positives / counts.clamp_min(1)[:, None]
        pulled = (logits * targets).sum(1)
        whole, shares = log_sum_exp(logits, block.positives + block.negatives)
        slopes = shares.sub_(targets).mul_(counts[:, None].clamp_max(1) / self.temperature)
        return torch.where(counts > 0, whole - pulled, 0), slopes, counts
