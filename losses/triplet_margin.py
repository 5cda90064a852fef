"""Triplet loss over all triplets of a batch, or over mined ones (Schroff et al., 2015, arXiv 1503.03832; with a soft
margin Hermans et al., 2017, arXiv 1703.07737, section 2)."""

from typing import Literal

import torch
from torch import nn

from core.types import Margin
from losses._checks import check_option
from losses._listed_triplets import sum_over_list
from losses._mined import Reference, TripletRule, Triplets
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._triplets import sum_over_triplets


@LOSSES.register("triplet_margin", stage="pair", batch="pk", memory=True, mined="triplets", rule=True)
class TripletMarginLoss(nn.Module):
    """Mean over triplets of max(0, d(a, p) - d(a, n) + margin), those without a loss included.

    With the soft margin a triplet's loss is log(1 + exp(d(a, p) - d(a, n))). Without a miner these are all triplets of
    the batch, of which no list is made.

    Options:
        margin: gap wanted between the two distances, or soft
        distance: one of euclidean, squared, cosine (1 - cosine)
        normalise: scale embeddings to unit length first (cosine always does)

    `logs` after a call: active_share of the triplets (loss above zero), and mean distances over triplets, pos_dist and
    neg_dist; active_tri is active_share under the name that Open Metric Learning gives it.
    """

    reads_labels = True

    def __init__(
        self,
        margin: Margin | None = 0.1,
        distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        # None is the soft margin's name in Python; on a command line, a flag that is None is one that was left out.
        self.margin = None if margin == "soft" else margin
        if self.margin is not None:
            check_option("margin", self.margin, 0)
        self.distance = distance
        self.normalise = normalise
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None = None,
        mined: Triplets | TripletRule | None = None,
    ) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError without a positive or negative pair."""
        if isinstance(mined, Triplets):
            sums = sum_over_list(mined, embeddings, reference, self.margin, self.distance, self.normalise)
        else:
            sums = sum_over_triplets(
                embeddings, labels, reference, self.margin, self.distance, self.normalise, rule=mined
            )
        count = sums.count.clamp_min(1)
        active_share = sums.active / count
        self.logs = {
            "active_share": active_share,
            "active_tri": active_share,
            "pos_dist": sums.positive_distance / count,
            "neg_dist": sums.negative_distance / count,
        }
        return sums.loss / count
