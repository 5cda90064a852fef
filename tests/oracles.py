"""Slow twins of the losses and of recall: the formulas as published, in loops over plain numbers (exact.py).

Nothing here uses torch or anything of the repository. A family of losses has a file of its own.
"""

import math
from decimal import Decimal

import oracles_classes
import oracles_clip
import oracles_dense
import oracles_ranking
import oracles_siamese
import oracles_triplets
from exact import cross_entropy, dot, mean, squared_distance, unit
from oracles_classes import smoothed


def softmax(embeddings, labels, weight, bias, **smoothing):
    return mean(
        smoothed([dot(row, column) + offset for column, [offset] in zip(weight, bias, strict=True)], label, **smoothing)
        for row, label in zip(embeddings, labels, strict=True)
    )


def arcmargin(embeddings, labels, weight, arc_scale=80.0, arc_margin=0.15, arc_easy_margin=False, **smoothing):
    return oracles_classes.subcenter_arcmargin(
        embeddings, labels, weight, arc_scale, arc_margin, arc_easy_margin, sub_centers=1, **smoothing
    )


def triplet(embeddings, labels, margin=0.1):
    losses = []
    for start in range(0, len(labels), 3):
        anchor, positive, negative = (unit(row) for row in embeddings[start : start + 3])
        gap = squared_distance(anchor, positive) - squared_distance(anchor, negative) + Decimal(margin)
        losses.append(max(gap, Decimal(0)))
    return mean(losses)


def quadruplet(embeddings, labels, margin=0.1):
    positives, negatives = [], []
    for i in range(len(labels)):
        for j in range(i):
            distance = squared_distance(unit(embeddings[i]), unit(embeddings[j]))
            (positives if labels[i] == labels[j] else negatives).append(distance)
    return max(Decimal(0), max(positives) - min(negatives) + Decimal(margin))


def eml(embeddings, labels, feature_scale=1.0):
    beta = Decimal(100000)
    embeddings = [[Decimal(feature_scale) * value for value in row] for row in embeddings]
    losses = []
    for i, row in enumerate(embeddings):
        far, near = [], []
        for j, other in enumerate(embeddings):
            if j != i and labels[j] == labels[i]:
                far.append(squared_distance(row, other).exp())
            elif j != i:
                near.append((-squared_distance(row, other)).exp())
        if far:
            losses.append((1 + beta * mean(far) * mean(near)).ln() / (1 + beta).ln())
    return mean(losses)


def npairs(embeddings, labels, npairs_reg_lambda=0.01, feature_scale=1.0):
    scaled = [[Decimal(feature_scale) * number for number in row] for row in embeddings]
    images = {}
    for row, label in zip(scaled, labels, strict=True):
        images.setdefault(label, []).append(row)
    images = {label: rows for label, rows in images.items() if len(rows) > 1}
    columns = [(row, label) for label, rows in images.items() for row in rows[1:]]
    losses = []
    for label, rows in images.items():
        logits = [dot(rows[0], column) for column, _ in columns]
        own = [number for number, (_, other) in enumerate(columns) if other == label]
        losses.append(mean(cross_entropy(logits, number) for number in own))
    return mean(losses) + Decimal(npairs_reg_lambda) / 2 * mean(dot(row, row) for row in embeddings)


LOSS_ORACLES = {
    "softmax": softmax,
    "arcmargin": arcmargin,
    "triplet": triplet,
    "quadruplet": quadruplet,
    "eml": eml,
    "npairs": npairs,
    **oracles_classes.ORACLES,
    **oracles_clip.ORACLES,
    **oracles_dense.ORACLES,
    **oracles_ranking.ORACLES,
    **oracles_siamese.ORACLES,
    **oracles_triplets.ORACLES,
}


def recall(embeddings, labels, k):
    """Recall@k by sorting all others of each row by (cosine, index); embeddings are lists of floats."""
    hits = 0
    for query, row in enumerate(embeddings):
        others = [index for index in range(len(labels)) if index != query]
        others.sort(key=lambda index: (-cosine(row, embeddings[index]), index))
        hits += any(labels[index] == labels[query] for index in others[:k])
    return hits / len(labels)


def cosine(left, right):
    lengths = math.sqrt(math.fsum(a * a for a in left) * math.fsum(b * b for b in right))
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / lengths if lengths else 0.0
