"""Multi-class N-pair loss (Sohn, NIPS 2016, N-pair-mc) with L2 regularisation of the embeddings."""

import torch
from torch import nn

from errors import InputError
from losses import LOSSES
from losses._shared import check_option, full_precision, pair_masks


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
        pairs, _ = pair_masks(labels)
        later = pairs.tril().any(1)
        first = pairs.any(1) & ~later
        anchors, positives = self.feature_scale * embeddings[first], self.feature_scale * embeddings[later]
        if len(anchors) < 2:
            raise InputError(f"only label {labels[first].item()} occurs twice; the npairs loss needs two such labels")
        similarities = anchors @ positives.T
        same = labels[first][:, None] == labels[later]
        counts = same.sum(1)
        own_sums = torch.where(same, similarities, 0).sum(1)
        cross_entropy = (similarities.logsumexp(1) - own_sums / counts).mean()
        regularisation = 0.5 * self.npairs_reg_lambda * embeddings.square().sum(1).mean()
        best_is_own = same.gather(1, similarities.detach().argmax(1, keepdim=True))
        own, pairs = own_sums.detach().sum(), counts.sum()
        self.logs = {
            "active_share": 1 - best_is_own.float().mean(),
            "positive_similarity": own / pairs,
            "negative_similarity": (similarities.detach().sum() - own) / (same.numel() - pairs),
        }
        return cross_entropy + regularisation
