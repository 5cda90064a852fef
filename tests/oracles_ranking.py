"""Slow twins of losses that approximate a rank: exact.py says how. ORACLES: {name of LOSSES: function}.

BOUNDS: {name of LOSSES: function(loss, tensors, labels, dtype, tail)} that gives the errors that test_losses.py allows;
see `bounds` there.

In all of them an anchor is a row with a positive, and the twins go through anchors, positives and columns in loops.
"""

import math
from decimal import Decimal

import torch
from exact import dot, mean, squared_distance, unit
from tolerances import gamma


def sigmoid(number):
    return 1 / (1 + (-number).exp())


def of_pairs(count, function):
    """A symmetric table of function(i, j), which is called once for a pair."""
    half = [[function(i, j) for j in range(i + 1)] for i in range(count)]
    return [[half[max(i, j)][min(i, j)] for j in range(count)] for i in range(count)]


def cosines(embeddings):
    rows = [unit(row) for row in embeddings]
    return of_pairs(len(rows), lambda i, j: dot(rows[i], rows[j]))


def powers(table, width):
    """exp(score / width) of a symmetric table: sigmoid((s - t) / width) is power(s) / (power(s) + power(t))."""
    width = Decimal(width)
    return of_pairs(len(table), lambda i, j: (table[i][j] / width).exp())


def of_label(labels, anchor, with_self):
    """Columns of the anchor's label, with or without its own."""
    return [c for c, label in enumerate(labels) if label == labels[anchor] and (with_self or c != anchor)]


def paired(labels):
    return [anchor for anchor, label in enumerate(labels) if labels.count(label) > 1]


def smooth_ap(embeddings, labels, temperature=0.01):
    losses = []
    table = powers(cosines(embeddings), temperature)
    for anchor in paired(labels):
        scores = table[anchor]
        positives = of_label(labels, anchor, with_self=True)
        shares = []
        for p in positives:
            ahead = [score / (score + scores[p]) for score in scores]
            ahead[p] = 0
            shares.append((1 + sum(ahead[q] for q in positives)) / (1 + sum(ahead)))
        losses.append(1 - mean(shares))
    return mean(losses)


def fast_ap(embeddings, labels, num_bins=10):
    losses = []
    table = cosines(embeddings)
    for anchor in paired(labels):
        positives = of_label(labels, anchor, with_self=False)
        among_positives = among_all = precision = Decimal(0)
        for middle in range(num_bins + 1):
            pulses = [max(Decimal(0), 1 - abs((2 - 2 * score) * num_bins / 4 - middle)) for score in table[anchor]]
            pulses[anchor] = 0
            inside = sum(pulses[p] for p in positives)
            among_positives += inside
            among_all += sum(pulses)
            if inside > 0:
                precision += inside * among_positives / among_all
        losses.append(1 - precision / len(positives))
    return mean(losses)


def recall_at_k(embeddings, labels, ks=(1, 2, 4, 8, 16), tau_rank=0.01, tau_k=1.0):
    losses = []
    table = powers(cosines(embeddings), tau_rank)
    limits = [(Decimal(k) / Decimal(tau_k)).exp() for k in ks]
    for anchor in paired(labels):
        scores = table[anchor]
        positives = of_label(labels, anchor, with_self=False)
        others = [column for column in range(len(labels)) if column != anchor]
        ranks = [1 + sum(scores[c] / (scores[c] + scores[p]) for c in others if c != p) for p in positives]
        behind = [(rank / Decimal(tau_k)).exp() for rank in ranks]
        recalls = []
        for k, limit in zip(ks, limits, strict=True):
            hits = sum(limit / (limit + power) for power in behind)  # sigmoid((k - rank) / tau_k)
            recalls.append(min(Decimal(k), hits) / min(k, len(positives)))
        losses.append(1 - mean(recalls))
    return mean(losses)


def surrogate_precision(embeddings, labels, k=5, temperature1=1.0, temperature2=0.01, normalise=False):
    losses = []
    rows = [unit(row) for row in embeddings] if normalise else embeddings
    distances = of_pairs(len(rows), lambda i, j: squared_distance(rows[i], rows[j]).sqrt())
    table = powers(distances, temperature2)
    for anchor, scores in enumerate(table):
        positives = of_label(labels, anchor, with_self=True)
        ranks = [sum(scores[p] / (scores[p] + score) for score in scores) for p in positives]
        hits = sum(sigmoid((k + 1 - rank) / Decimal(temperature1)) for rank in ranks)
        losses.append(1 - hits / min(k + 1, len(positives)))
    return mean(losses)


def roadmap(
    embeddings,
    labels,
    tau=0.01,
    rho=100.0,
    delta=0.05,
    offset=None,
    calibration_weight=1.0,
    pos_margin=0.9,
    neg_margin=0.6,
):
    tau, rho, delta = Decimal(tau), Decimal(rho), Decimal(delta)
    offset = Decimal("0.5") + sigmoid(delta / tau) if offset is None else Decimal(offset)

    def bound(ahead):
        if ahead <= 0:
            return sigmoid(ahead / tau)
        if ahead <= delta:
            return Decimal("0.5") + sigmoid(ahead / tau)
        return rho * (ahead - delta) + offset

    table = cosines(embeddings)
    losses = []
    for anchor in paired(labels):
        scores = table[anchor]
        positives = of_label(labels, anchor, with_self=True)
        shares = []
        for p in positives:
            among_positives = sum(scores[q] >= scores[p] for q in positives)
            negatives = sum(
                bound(s - scores[p]) for s, label in zip(scores, labels, strict=True) if label != labels[anchor]
            )
            shares.append(among_positives / (among_positives + negatives))
        losses.append(1 - mean(shares))

    far, near = [], []
    for anchor, scores in enumerate(table):
        for column, score in enumerate(scores):
            if column != anchor and labels[column] == labels[anchor]:
                far.append(Decimal(pos_margin) - score)
            elif column != anchor:
                near.append(score - Decimal(neg_margin))
    hinges = [[hinge for hinge in side if hinge > 0] or [Decimal(0)] for side in (far, near)]
    return mean(losses) + Decimal(calibration_weight) * sum(mean(side) for side in hinges)


ORACLES = {
    "fast_ap": fast_ap,
    "recall_at_k": recall_at_k,
    "roadmap": roadmap,
    "smooth_ap": smooth_ap,
    "surrogate_precision": surrogate_precision,
}


# A number of a sigmoid moves by 1/4 of its argument's move at most, and its slope by less than 1/10 of it.


def of_cosines(tensors, dtype):
    """(rows, length of the shortest, error of a cosine) of embeddings: numbers of unit rows are rounded three times."""
    rows = tensors[0].detach().double()
    return len(rows), rows.norm(dim=1).min().item(), gamma(rows.shape[1] + 10, dtype)


def of_sigmoids(count, argument, dtype):
    """(error of a sum over `count` sigmoids, of one's slope) whose arguments are off by so much."""
    return count * (argument / 4 + gamma(count + 8, dtype)), argument / 10 + gamma(6, dtype) / 4


def smooth_ap_bounds(loss, tensors, labels, dtype, tail):
    """A share is one rank over another that is no smaller, both from 1 on: it is off by no more than the two together.

    Its slope by a difference is a sigmoid's slope over the temperature, times 1 / rank and share / rank, both 1 at most
    and off by two and three times as much as a rank. An anchor's N differences for each positive, and those in which a
    row is a column of other anchors, are 2 N at most in the mean; a cosine's slope by a row is 1 / length at most.
    """
    count, shortest, cosine = of_cosines(tensors, dtype)
    argument = (2 * cosine + gamma(4, dtype) * 2) / loss.temperature
    rank, slope = of_sigmoids(count, argument, dtype)
    by_difference = 2 * slope + 5 * rank / 4 + gamma(tensors[0].shape[1] + count + 20, dtype) / 2
    return 2 * rank + gamma(count + 8, dtype), [2 * count * by_difference / loss.temperature / shortest]


def recall_at_k_bounds(loss, tensors, labels, dtype, tail):
    """A hit is a sigmoid of a rank, and a recall a sum of hits, P at most, over 1 at least."""
    _, shortest, cosine = of_cosines(tensors, dtype)
    argument = (2 * cosine + gamma(4, dtype) * 2) / loss.tau_rank
    return of_hits(loss.tau_k, loss.tau_rank, max(loss.ks), argument, 1 / shortest, 0, tensors, labels, dtype)


def surrogate_precision_bounds(loss, tensors, labels, dtype, tail):
    """Squared distances are sums whose terms add up to (|x| + |y|)^2, and a root's error is theirs over 2 roots.

    A distance's slope is the difference of two rows over it: off by its own share, and by the rounding of both rows.
    """
    rows = tensors[0].detach().double()
    slope = 1.0
    if loss.normalise:
        slope = 1 / rows.norm(dim=1).min().item()
        rows = rows / rows.norm(dim=1, keepdim=True)
    lengths = (rows - rows.mean(0)).norm(dim=1) + gamma(len(rows), dtype) * rows.norm(dim=1).max()
    distances = torch.cdist(rows, rows).fill_diagonal_(math.inf)
    rounding = gamma(rows.shape[1] + 16, dtype)
    sizes = lengths[:, None] + lengths
    distance = (rounding * sizes.square() / distances / 2).max().item() + gamma(4, dtype) * 2 * sizes.max().item()
    nearest = distances.min().item()
    unit_error = distance / nearest + gamma(rows.shape[1] + len(rows) + 20, dtype) * sizes.max().item() / nearest
    argument = 2 * distance / loss.temperature2
    return of_hits(
        loss.temperature1, loss.temperature2, loss.k + 1, argument, slope, unit_error, tensors, labels, dtype
    )


def of_hits(width, rank_width, k, argument, slope, slope_share, tensors, labels, dtype):
    """Bounds of 1 - sum of sigmoid((k - rank) / width) / at least 1, ranks being sums of sigmoids.

    argument: error of what ranks are sigmoids of, differences over rank_width; slope: of a score by a row, at most, and
    by which share of itself it is off.
    """
    count = len(labels)
    positives = max(labels.tolist().count(label) for label in labels.tolist())
    rank, rank_slope = of_sigmoids(count, argument, dtype)
    hits, hit_slope = of_sigmoids(positives, (rank + gamma(4, dtype) * (k + count)) / width, dtype)
    # Both sigmoids' slopes are 1/4 at most; a row takes part in 2 N differences of each positive.
    by_difference = hit_slope / 4 + rank_slope / 4 + (slope_share + gamma(tensors[0].shape[1] + count + 20, dtype)) / 16
    return hits + gamma(40, dtype) * positives, [2 * count * positives * by_difference / width / rank_width * slope]


def roadmap_bounds(loss, tensors, labels, dtype, tail):
    """As smooth_ap's, where the step's slope is rho at most or 1 / (4 tau), and rank+ is exact."""
    count, shortest, cosine = of_cosines(tensors, dtype)
    steepest = max(loss.rho, 1 / (4 * loss.tau))
    argument = (2 * cosine + gamma(4, dtype) * 2) / loss.tau
    rank = count * (2 * cosine * steepest + gamma(count + 8, dtype) * (2 * loss.rho + loss.offset + 2))
    _, slope = of_sigmoids(count, argument, dtype)
    rounding = gamma(tensors[0].shape[1] + count + 20, dtype)
    by_difference = slope / loss.tau + (3 * rank + rounding) * steepest
    calibration = loss.calibration_weight * rounding
    return rank + gamma(count + 8, dtype) + 2 * calibration + loss.calibration_weight * cosine, [
        2 * count * (by_difference + calibration) / shortest
    ]


def fast_ap_bounds(loss, tensors, labels, dtype, tail):
    """Sums up to a bin are off by a place's error for each column, and the shares h / H, H+ / H by that over H.

    H is 1 at least or what the data has it, the least where there is a positive.
    """
    count, shortest, cosine = of_cosines(tensors, dtype)
    rows = torch.nn.functional.normalize(tensors[0].detach().double())
    places = (1 - rows @ rows.T) * loss.num_bins / 2
    middles = torch.arange(loss.num_bins + 1)
    pulses = torch.relu(1 - (places[:, :, None] - middles).abs())
    others = ~torch.eye(count, dtype=torch.bool)
    same = (labels[:, None] == labels) & others
    histogram = (pulses * same[:, :, None]).sum(1)
    totals = (pulses * others[:, :, None]).sum(1).cumsum(1)
    least = min(1.0, totals[histogram > 0].min().item())
    place = loss.num_bins / 2 * (cosine + gamma(4, dtype) * 2)
    total = count * (place + gamma(count + 8, dtype))
    value = 3 * (loss.num_bins + 1) * total
    by_place = 4 * total / least + gamma(tensors[0].shape[1] + count + 20, dtype) * 3
    return value, [2 * count * loss.num_bins / 2 * by_place / shortest]


BOUNDS = {
    "fast_ap": fast_ap_bounds,
    "recall_at_k": recall_at_k_bounds,
    "roadmap": roadmap_bounds,
    "smooth_ap": smooth_ap_bounds,
    "surrogate_precision": surrogate_precision_bounds,
}
