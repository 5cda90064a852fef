"""Multi-class N-pair loss (Sohn, NIPS 2016, N-pair-mc) with L2 regularisation of the embeddings."""

import torch
from torch import nn

from core.errors import InputError
from losses import LOSSES
from losses._pairs import pair_counts
from losses._shared import check_option, full_precision


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

    def __init__(self, npairs_reg_lambda=0.01, feature_scale=1.0):
        super().__init__()
        check_option("npairs_reg_lambda", npairs_reg_lambda, 0)
        check_option("feature_scale", feature_scale, 0, above=True)
        self.feature_scale = feature_scale
        self.npairs_reg_lambda = npairs_reg_lambda
        self.logs = {}

    @full_precision
    def forward(self, embeddings, labels):
        """Scalar loss of embeddings (B, D) and labels (B,). Raises InputError unless two labels have a pair each."""
        positives, _ = pair_counts(labels)
        ordered, order = labels.sort(stable=True)
        begins = torch.ones_like(ordered, dtype=torch.bool)
        begins[1:] = ordered[1:] != ordered[:-1]
        is_anchor = begins & (positives[order] > 0)
        first, later = order[is_anchor], order[~begins]
        if len(first) < 2:
            raise InputError(f"only label {labels[first].item()} occurs twice; the npairs loss needs two such labels")
        own = is_anchor.cumsum(0)[~begins] - 1  # the anchor of each positive
        counts = positives[first]
        similarities = self.feature_scale * embeddings[first] @ (self.feature_scale * embeddings[later]).T
        own_similarities = similarities.gather(0, own[None])[0]
        own_sums = torch.zeros_like(counts, dtype=similarities.dtype).index_add(0, own, own_similarities)
        cross_entropy = (similarities.logsumexp(1) - own_sums / counts).mean()
        regularisation = 0.5 * self.npairs_reg_lambda * embeddings.square().sum(1).mean()
        seen = similarities.detach()
        missed = own[seen.argmax(1)] != torch.arange(len(first), device=own.device)
        own_sum, pairs = own_sums.detach().sum(), len(later)
        self.logs = {
            "active_share": missed.float().mean(),
            "positive_similarity": own_sum / pairs,
            "negative_similarity": (seen.sum() - own_sum) / (seen.numel() - pairs),
        }
        return cross_entropy + regularisation
