"""Multi-class N-pair loss (Sohn, NIPS 2016, N-pair-mc) with L2 regularisation of the embeddings."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from core.errors import InputError
from losses._checks import check_option
from losses._pair_distances import check_pairs
from losses._precision import full_precision
from losses._registry import LOSSES
from losses._slopes import softmax_and_log_sums, wants_gradient, with_gradient


@LOSSES.register("npairs", stage="pair", batch="pk")
class NpairsLoss(nn.Module):
    """Cross-entropy of anchor-positive dot products (raw embeddings) against label equality, plus
    npairs_reg_lambda / 2 times the mean squared length of all rows.

    The first image of each label is its anchor, all later ones are positives. An anchor's target is spread evenly
    over the positives of its label: with two images a label this is the paper's loss, one column for each anchor.
    A label with one image takes part in the regularisation only.

    Options:
        npairs_reg_lambda: weight of the regularisation
        feature_scale: factor on the embeddings in the dot products; its square is the inverse temperature

    `logs` after a call: active_share (anchors that score a column of another label highest), mean positive_similarity
    and negative_similarity (dot products).
    """

    reads_labels = True

    def __init__(self, npairs_reg_lambda: float = 0.01, feature_scale: float = 1.0) -> None:
        super().__init__()
        check_option("npairs_reg_lambda", npairs_reg_lambda, 0)
        check_option("feature_scale", feature_scale, 0, above=True)
        self.feature_scale = feature_scale
        self.npairs_reg_lambda = npairs_reg_lambda
        self.logs: dict[str, torch.Tensor] = {}

    @full_precision
    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError unless two labels have a pair each."""
        # How many rows are anchors decides the shapes of all that follows, so labels are read on the host.
        labels = labels.cpu()
        check_pairs(labels)
        groups = groups_of(labels.numpy(), embeddings)
        value, gradient = self._with_slopes(embeddings.detach(), groups, wants_gradient(embeddings))
        return with_gradient(value, embeddings, gradient)

    @torch.no_grad()
    def _with_slopes(
        self, embeddings: torch.Tensor, groups: "Groups", wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss, and its gradient (B, D) where it is wanted."""
        anchors = embeddings.index_select(0, groups.anchors)
        positives = embeddings.index_select(0, groups.positives)
        similarities = (anchors @ positives.T).mul_(self.feature_scale**2)
        own = similarities.gather(0, groups.anchor_of[None])
        # What a positive weighs in the mean over anchors of the mean over their positives.
        weights = groups.share / len(anchors)
        shares, sums = softmax_and_log_sums(similarities)
        cross_entropy = sums.mean() - own[0] @ weights
        loss = cross_entropy + embeddings.square().sum() * (0.5 * self.npairs_reg_lambda / len(embeddings))

        best = groups.anchor_of.index_select(0, similarities.argmax(1))
        missed = best != torch.arange(len(anchors), device=best.device)
        own_sum, pairs = own.sum(), own.shape[1]
        self.logs = {
            "active_share": missed.sum() / len(anchors),
            "positive_similarity": own_sum / pairs,
            "negative_similarity": (similarities.sum() - own_sum) / (similarities.numel() - pairs),
        }
        if not wanted:
            return loss, None
        slopes = shares.div_(len(anchors)).scatter_add_(0, groups.anchor_of[None], -weights[None])
        slopes.mul_(self.feature_scale**2)
        gradient = embeddings * (self.npairs_reg_lambda / len(embeddings))
        gradient.index_add_(0, groups.anchors, slopes @ positives)
        return loss, gradient.index_add_(0, groups.positives, slopes.T @ anchors)


class Groups(NamedTuple):
    """Rows of a batch as labels of two rows and more have them: A anchors, each its label's first row, P positives."""

    anchors: torch.Tensor  # (A,) rows
    positives: torch.Tensor  # (P,) rows
    anchor_of: torch.Tensor  # (P,) numbers of anchors
    share: torch.Tensor  # (P,) one over the number of positives that the label has


def groups_of(labels: np.ndarray, embeddings: torch.Tensor) -> Groups:
    """Groups of labels (B,), where the embeddings are. Raises InputError unless two labels have a pair each."""
    _, first, label, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    several = counts > 1
    if several.sum() < 2:
        raise InputError(f"only label {labels[first[several][0]]} occurs twice; the npairs loss needs two such labels")
    is_positive = several[label]
    is_positive[first] = False
    positives = np.flatnonzero(is_positive)
    positives = positives[label[positives].argsort(kind="stable")]
    anchor_of = (np.cumsum(several, dtype=np.int64) - 1)[label[positives]]
    share = torch.from_numpy(1 / (counts[label[positives]] - 1)).to(embeddings.dtype)
    found = (*(torch.from_numpy(numbers) for numbers in (first[several], positives, anchor_of)), share)
    return Groups(*(numbers.to(embeddings.device, non_blocking=True) for numbers in found))
