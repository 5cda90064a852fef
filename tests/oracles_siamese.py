"""The slow twin of the siamese loss: exact.py says how. ORACLES and BOUNDS are as in the other families."""

from decimal import Decimal

from exact import mean, squared_distance
from tolerances import gamma


def siamese(embeddings, labels, margin=1.0, eps=1e-9):
    losses = []
    for i in range(0, len(labels), 2):
        squared = squared_distance(embeddings[i], embeddings[i + 1])
        if labels[i] == labels[i + 1]:
            losses.append(squared)
        else:
            losses.append(max(Decimal(0), Decimal(margin) - squared + Decimal(eps)) ** 2)
    return mean(losses)


def siamese_bounds(loss, tensors, labels, dtype, tail):
    """A squared distance is off by a share of itself, what is short of the margin by that share of both."""
    rows = tensors[0].detach().double()
    squared = (rows[0::2] - rows[1::2]).square().sum(1).max().item()
    share = gamma(rows.shape[1] + len(rows) + 12, dtype)
    # Only a pair within the margin has a slope from it, and its distance is below the margin's root.
    within = min(squared, loss.margin + 1e-6)
    value = share * (squared + 3 * (loss.margin + 1e-6) * (loss.margin + within))
    slope = share * (2 * squared**0.5 + 4 * within**0.5 * (2 * loss.margin + within))
    return value, [slope]


ORACLES = {"siamese": siamese}
BOUNDS = {"siamese": siamese_bounds}
