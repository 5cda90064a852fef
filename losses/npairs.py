"""Multi-class N-pair loss (Sohn, NIPS 2016, N-pair-mc) with L2 regularisation of the embeddings."""

import torch
from torch import nn

from core.errors import InputError
from losses._checks import check_option
from losses._pair_distances import check_pairs, pair_counts
from losses._precision import full_precision
from losses._registry import LOSSES


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
        # How many rows are anchors decides the shapes of all that follows.
        labels = labels.cpu()
        check_pairs(labels)
        positives, _ = pair_counts(labels)
        # Rows by label: the first of each is its anchor if others follow, and these are its positives.
        ordered, order = labels.sort(stable=True)
        begins = torch.ones_like(ordered, dtype=torch.bool)
        begins[1:] = ordered[1:] != ordered[:-1]
        is_anchor = begins & (positives[order] > 0)
        first = order[is_anchor]
        later = order[~begins]
        if len(first) < 2:
            raise InputError(f"only label {labels[first].item()} occurs twice; the npairs loss needs two such labels")
        anchor_of = is_anchor.cumsum(0)[~begins] - 1  # each positive's row among the anchors
        first, later, anchor_of, counts = (
            numbers.to(embeddings.device, non_blocking=True) for numbers in (first, later, anchor_of, positives[first])
        )

        similarities = self.feature_scale * embeddings[first] @ (self.feature_scale * embeddings[later]).T
        to_own_anchor = similarities.gather(0, anchor_of[None])[0]
        own_sums = torch.zeros_like(counts, dtype=similarities.dtype).index_add(0, anchor_of, to_own_anchor)
        cross_entropy = (similarities.logsumexp(1) - own_sums / counts).mean()
        regularisation = 0.5 * self.npairs_reg_lambda * embeddings.square().sum(1).mean()

        detached = similarities.detach()
        missed = anchor_of[detached.argmax(1)] != torch.arange(len(first), device=anchor_of.device)
        own_sum = own_sums.detach().sum()
        pairs = len(later)
        self.logs = {
            "active_share": missed.float().mean(),
            "positive_similarity": own_sum / pairs,
            "negative_similarity": (detached.sum() - own_sum) / (detached.numel() - pairs),
        }
        return cross_entropy + regularisation
