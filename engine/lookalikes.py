"""Negatives that look as if they were positives are left out: one thing under two labels, or a label that is wrong.

GISTEmbed (Solatorio, 2024, arXiv 2402.16829) and the mining of sentence-transformers drop a negative that is closer to
its anchor than 95 % of the similarity to the positive (a relative margin of 5 %).
"""

import torch

from core.errors import InputError
from core.slices import numbers_at_once, slices_within
from core.types import Share
from engine.mining import Mining
from losses import LOSSES
from losses._distances import placed
from losses._mined import Pairs, Reference, Triplets, column_labels

BLOCK = 2**20  # cosines that exist at a time


class Lookalikes:
    """Takes look-alikes out of what a miner chose, or out of all pairs where there is no miner.

    A negative is one where its cosine to the anchor is above `share` times the cosine of the anchor's nearest positive,
    among all columns. An anchor without a positive, or whose nearest has a cosine of 0 or less, has none.
    """

    def __init__(self, share: float):
        self.share = share

    @torch.no_grad()
    def __call__(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        reference: Reference | None = None,
        mined: Pairs | Triplets | None = None,
    ) -> Pairs | Triplets:
        """`mined`, or all pairs, without look-alikes; embeddings (B, D), labels (B,), columns as losses have them."""
        positives, negatives = self._pairs(embeddings, labels, reference)
        if mined is None:
            return Pairs(*positives.nonzero(as_tuple=True), *negatives.nonzero(as_tuple=True))
        if isinstance(mined, Pairs):
            kept = negatives[mined.negative_anchors, mined.negatives]
            return mined._replace(
                negative_anchors=mined.negative_anchors[kept],
                negatives=mined.negatives[kept],
            )
        kept = negatives[mined.anchors, mined.negatives]
        return Triplets(mined.anchors[kept], mined.positives[kept], mined.negatives[kept])

    def _pairs(
        self, embeddings: torch.Tensor, labels: torch.Tensor, reference: Reference | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks (B, C) of positives, and of negatives that are no look-alikes."""
        columns = placed(embeddings.float(), reference, "cosine").columns
        positives = labels[:, None] == column_labels(labels, reference)
        negatives = ~positives
        positives.fill_diagonal_(False)
        if reference is not None:
            same_image = reference.batch_images[:, None] == reference.images
            positives[:, len(labels) :].masked_fill_(same_image, False)
        for rows in slices_within(len(labels), len(columns), numbers_at_once(columns.device.type, BLOCK)):
            cosines = columns[rows] @ columns.T
            nearest = torch.where(positives[rows], cosines, 0).amax(1, keepdim=True)
            limit = torch.where(nearest > 0, self.share * nearest, torch.inf)
            negatives[rows] &= cosines <= limit
        return positives, negatives


def build_lookalikes(loss_name: str, miner: Mining | None, *, skip_lookalikes: Share = 0.0) -> Lookalikes | None:
    """What leaves look-alikes out of the pairs of the loss of that name; None where they stay.

    Options:
        skip_lookalikes: leave out negatives whose cosine is above this share of the nearest positive's, as 0.95;
            0: none

    Raises InputError for a loss that makes its pairs itself, for one of triplets without a miner, and for a miner that
    compares rows which are no images.
    """
    if not skip_lookalikes:
        return None
    form = LOSSES.fact(loss_name, "mined")
    if form is None:
        able = ", ".join(name for name in LOSSES.names(stage="pair") if LOSSES.fact(name, "mined"))
        raise InputError(
            f"skip_lookalikes is {skip_lookalikes}, but {loss_name} makes its pairs itself; able are: {able or 'none'}"
        )
    if form == "triplets" and miner is None:
        raise InputError(f"skip_lookalikes of {loss_name} leaves triplets out that a miner chose; give --miner=all")
    if miner is not None and miner.adds_rows:
        raise InputError("--skip_lookalikes does not go with a miner that compares means of labels")
    return Lookalikes(skip_lookalikes)
