"""Slow twins of losses over triplets, quadruplets and what a miner chose: exact.py says how.

ORACLES: {name of LOSSES: function}. BOUNDS: {name of LOSSES: function(loss, tensors, labels, dtype, tail)} that gives the
errors that test_losses.py allows; see `bounds` there.
"""

import itertools
from decimal import Decimal

from exact import dot, mean, squared_distance, unit
from tolerances import gamma


def triplets(labels):
    for a, p, n in itertools.permutations(range(len(labels)), 3):
        if labels[a] == labels[p] != labels[n]:
            yield a, p, n


def triplet_margin(embeddings, labels, margin=0.1, distance="euclidean", normalise=False):
    if normalise or distance == "cosine":
        embeddings = [unit(row) for row in embeddings]

    def between(i, j):
        if distance == "cosine":
            return 1 - dot(embeddings[i], embeddings[j])
        squared = squared_distance(embeddings[i], embeddings[j])
        return squared.sqrt() if distance == "euclidean" else squared

    losses = []
    for a, p, n in triplets(labels):
        gap = between(a, p) - between(a, n)
        losses.append((1 + gap.exp()).ln() if margin == "soft" else max(Decimal(0), gap + Decimal(margin)))
    return mean(losses)


def quadruplet_chen(embeddings, labels, margin1=1.0, margin2=0.5):
    rows = [unit(row) for row in embeddings]
    squared = {(i, j): squared_distance(rows[i], rows[j]) for i, j in itertools.permutations(range(len(rows)), 2)}

    def hinge(positive, negative, margin):
        return max(Decimal(0), squared[positive] - squared[negative] + Decimal(margin))

    of_three = [hinge((a, p), (a, n), margin1) for a, p, n in triplets(labels)]
    of_four = []
    for (a, p), (m, n) in itertools.product(squared, squared):
        if labels[a] == labels[p] and len({labels[a], labels[m], labels[n]}) == 3:
            of_four.append(hinge((a, p), (m, n), margin2))
    return mean(of_three) + (mean(of_four) if of_four else 0)


def triplet_margin_bounds(loss, tensors, labels, dtype, tail):
    """A squared distance |x|^2 + |y|^2 - 2 x.y of two rows less their mean, whose terms add up to (2 L)^2, is off by
    e = gamma 4 L^2, its root by e / d. The slope of a distance is (x - y) / d, off by e / d^2 of itself. A mean of
    losses is off by both of its distances, and by its own rounding, of sums that are taken from each other."""
    rows = tensors[0].detach().double()
    operations = rows.shape[1] + 2 * len(rows) + 20
    error, steep = gamma(operations, dtype), 1.0
    if loss.normalise or loss.distance == "cosine":
        steep = 1 / rows.norm(dim=1).min().item()
        rows = rows / rows.norm(dim=1, keepdim=True)
    longest = 2 * rows.norm(dim=1).max().item()  # less the mean of the batch
    off = 4 * longest**2 * error
    size, slope = 2 * longest, 1.0
    slope_error = error
    if loss.distance == "euclidean":
        nearest = pairwise(rows).min().item()
        off, slope_error = off / nearest, 2 * off / nearest**2 + error
    else:
        size = slope = max(size**2, 2 * size)
    # In torch's softplus the tail of the gap is left out, and in its slope.
    left_out = tail if loss.margin is None else 0
    value = 2 * off + error * (2 * size + (loss.margin or 1)) + left_out
    return value, [8 * steep * slope * (slope_error + left_out + curve(loss, off))]


def curve(loss, off):
    """How far the slope of log(1 + exp(gap)), which is no steeper than 1 / 4, is off where both distances are."""
    return off / 2 if loss.margin is None else 0


def pairwise(rows):
    """Distances (P,) of all pairs of rows, from their differences."""
    i, j = zip(*itertools.combinations(range(len(rows)), 2), strict=True)
    return (rows[list(i)] - rows[list(j)]).norm(dim=1)


def quadruplet_chen_bounds(loss, tensors, labels, dtype, tail):
    """Squared distances of unit vectors, up to 4 and of slope 4 / length, in hinges; what is taken away of all pairs of
    pairs makes the error of what is left larger by as many times as they are more."""
    rows = tensors[0].detach().double()
    error = gamma(rows.shape[1] + 2 * len(rows) + 20, dtype)
    same = labels[:, None] == labels
    every = (same.sum() - len(labels)).item() * (~same).sum().item()
    left = sum(1 for _ in quadruplets(labels.tolist()))
    more = 3 * every / left if left else 0
    size = 8 + loss.margin1 + more * (8 + loss.margin2)
    return 4 * error * size, [4 * error * 8 * (1 + more) / rows.norm(dim=1).min().item()]


def quadruplets(labels):
    pairs = list(itertools.permutations(range(len(labels)), 2))
    for (a, p), (m, n) in itertools.product(pairs, pairs):
        if labels[a] == labels[p] and len({labels[a], labels[m], labels[n]}) == 3:
            yield a, p, m, n


ORACLES = {"triplet_margin": triplet_margin, "quadruplet_chen": quadruplet_chen}
BOUNDS = {"triplet_margin": triplet_margin_bounds, "quadruplet_chen": quadruplet_chen_bounds}
