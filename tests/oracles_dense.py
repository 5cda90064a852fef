"""Slow twins of losses over all pairs of a batch: exact.py says how. ORACLES: {name of LOSSES: function}.

BOUNDS: {name of LOSSES: function(loss, tensors, labels, dtype, tail)} that gives the errors that test_losses.py allows;
see `bounds` there. A reference's rows may be given behind the batch's: `others` are (row, label) of columns that are no
rows.
"""

import math
from decimal import Decimal

import torch
from exact import STEP, dot, mean, squared_distance, unit
from tolerances import cross_entropy, gamma


def pairs_of_rows(embeddings, labels, others, score):
    """For each row two lists of (column's number, score): of its positives and of its negatives."""
    columns = embeddings + [row for row, _ in others]
    column_labels = list(labels) + [label for _, label in others]
    for i, row in enumerate(embeddings):
        scores = [(j, score(row, column)) for j, column in enumerate(columns) if j != i]
        positives = [(j, value) for j, value in scores if column_labels[j] == labels[i]]
        negatives = [(j, value) for j, value in scores if column_labels[j] != labels[i]]
        yield positives, negatives


def cosines(embeddings, labels, others):
    """The same, without numbers, of cosines."""
    units, others = [unit(row) for row in embeddings], [(unit(row), label) for row, label in others]
    for positives, negatives in pairs_of_rows(units, labels, others, dot):
        yield [value for _, value in positives], [value for _, value in negatives]


def numbered_distances(embeddings, labels, others):
    """The same, with numbers, of Euclidean distances of unit vectors."""
    units, others = [unit(row) for row in embeddings], [(unit(row), label) for row, label in others]
    return pairs_of_rows(units, labels, others, lambda row, column: squared_distance(row, column).sqrt())


def distances(embeddings, labels, others):
    """The same, without numbers."""
    for positives, negatives in numbered_distances(embeddings, labels, others):
        yield [value for _, value in positives], [value for _, value in negatives]


def above_zero(values):
    values = [value for value in values if value > 0]
    return mean(values) if values else Decimal(0)


def contrastive(embeddings, labels, margin=1.0, eps=1e-9, normalise=False, others=()):
    if normalise:
        embeddings, others = [unit(row) for row in embeddings], [(unit(row), label) for row, label in others]
    terms = []
    rows = list(zip(embeddings, labels, strict=True))
    for i, (row, label) in enumerate(rows):
        for other, other_label in [*rows[i + 1 :], *others]:
            squared = squared_distance(row, other)
            gap = max(Decimal(margin) - squared + Decimal(eps), Decimal(0))
            terms.append(squared if label == other_label else gap**2)
    return mean(terms)


def multi_similarity(embeddings, labels, alpha=2.0, beta=50.0, base=0.5, others=()):
    alpha, beta, base = Decimal(alpha), Decimal(beta), Decimal(base)
    losses = []
    for positives, negatives in cosines(embeddings, labels, others):
        pull = (Decimal(1) + sum((alpha * (base - value)).exp() for value in positives)).ln() / alpha
        push = (Decimal(1) + sum((beta * (value - base)).exp() for value in negatives)).ln() / beta
        losses.append(pull + push)
    return mean(losses)


def circle(embeddings, labels, m=0.4, gamma=80.0, others=()):
    m, gamma = Decimal(m), Decimal(gamma)
    rows = list(cosines(embeddings, labels, others))
    losses = []
    fixed = without_slope(embeddings, (list(labels), list(others)), rows)
    for (positives, negatives), still in zip(rows, fixed, strict=True):
        pull = [max(1 + m - w, Decimal(0)) * (1 - m - s) for s, w in zip(positives, still[0], strict=True)]
        push = [max(w + m, Decimal(0)) * (s - m) for s, w in zip(negatives, still[1], strict=True)]
        if pull and push:
            sums = [sum((gamma * value).exp() for value in values) for values in (pull, push)]
            losses.append((1 + sums[0] * sums[1]).ln())
    return above_zero(losses)


LAST = {"batch": None, "numbers": [], "rows": []}


def without_slope(embeddings, batch, rows):
    """What `rows` were when embeddings were first where they are, but for the steps of exact.py's slopes."""
    numbers = [number for row in embeddings for number in row]
    pairs = zip(numbers, LAST["numbers"], strict=False)
    if LAST["batch"] != batch or any(abs(number - before) > 2 * STEP for number, before in pairs):
        LAST.update(batch=batch, numbers=numbers, rows=rows)
    return LAST["rows"]


def supcon(embeddings, labels, temperature=0.1, others=()):
    temperature = Decimal(temperature)
    losses = []
    for positives, negatives in cosines(embeddings, labels, others):
        if positives:
            whole = sum((value / temperature).exp() for value in positives + negatives).ln()
            losses.append(whole - mean(positives) / temperature)
    return above_zero(losses)


def margin(embeddings, labels, margin=0.2, beta=1.2, others=()):
    margin, beta, terms = Decimal(margin), Decimal(beta), []
    for positives, negatives in distances(embeddings, labels, others):
        for positive in positives:
            for negative in negatives:
                terms += [positive - beta + margin, beta - negative + margin]
    return above_zero(terms)


def lifted_structure(embeddings, labels, neg_margin=1.0, pos_margin=0.0, others=()):
    rows = list(numbered_distances(embeddings, labels, others))
    sums = [sum((Decimal(neg_margin) - value).exp() for _, value in negatives) for _, negatives in rows]
    sums += [Decimal(0)] * len(others)
    terms = []
    for i, (positives, _) in enumerate(rows):
        for j, distance in positives:
            terms.append(max((sums[i] + sums[j]).ln() + distance - Decimal(pos_margin), Decimal(0)) ** 2 / 2)
    return mean(terms)


def ranked_list(embeddings, labels, margin=0.4, Tn=10.0, imbalance=0.5, alpha=None, Tp=0.0, others=()):
    margin, imbalance = Decimal(margin), Decimal(imbalance)
    alpha = 1 + margin / 2 if alpha is None else Decimal(alpha)
    losses = []

    def weighted(violations, temperature):
        weights = [((Decimal(temperature) * value).exp(), value) for value in violations if value > 0]
        constant = Decimal("1e-5") * (len(embeddings) + len(others))
        return sum(weight * value for weight, value in weights) / (sum(weight for weight, _ in weights) + constant)

    for positives, negatives in distances(embeddings, labels, others):
        pull = weighted([value - (alpha - margin) for value in positives], Tp)
        push = weighted([alpha - value for value in negatives], Tn)
        losses.append((1 - imbalance) * pull + imbalance * push)
    return mean(losses)


ORACLES = {
    "contrastive": contrastive,
    "multi_similarity": multi_similarity,
    "circle": circle,
    "supcon": supcon,
    "margin": margin,
    "lifted_structure": lifted_structure,
    "ranked_list": ranked_list,
}


class Sizes:
    """What the errors of a loss over unit vectors depend on, of rows (B, D), those of a reference among them.

    rounding: of sums over D and over B, and what else there is to a number. squared: of a squared distance of rows less
    their mean, |x|^2 + |y|^2 - 2 x.y, which adds up to 16 at most; a distance is off by that over the least distance.
    direction: of (x - y) / d as a difference of sums of terms of up to 2 / d.
    """

    def __init__(self, tensors, dtype):
        rows = tensors[0].detach().double()
        self.count = len(rows)
        self.terms = 2 * rows.shape[1] + len(rows) + 30
        self.rounding = gamma(self.terms, dtype)
        self.shortest = rows.norm(dim=1).min().item()
        units = rows / rows.norm(dim=1, keepdim=True)
        self.distances = torch.cdist(units, units, compute_mode="donot_use_mm_for_euclid_dist")
        self.distances = self.distances[~torch.eye(len(rows), dtype=torch.bool)]
        self.least = self.distances.min().item()
        self.squared = 16 * self.rounding
        self.distance = self.squared / self.least
        self.direction = (self.distance + 8 * self.rounding) / self.least

    def clear_of(self, kink):
        """A distance near a hinge's kink has a slope, or a weight, on one side alone: no case may come so near."""
        assert (self.distances - kink).abs().min() > 2 * self.distance, "a distance is too near the kink"


def of_contrastive(loss, tensors, labels, dtype, tail):
    rows = tensors[0].detach().double()
    error = gamma(2 * rows.shape[1] + len(rows) + 30, dtype)
    longest, shortest = rows.norm(dim=1).max().item(), 1.0
    if loss.normalise:
        longest, shortest = 1.0, rows.norm(dim=1).min().item()
    reach = loss.margin + loss.eps
    squared = error * 16 * longest**2  # rows less their mean are twice as long at most
    gap = squared + error * reach
    value = squared + 2 * reach * gap + error * (4 * longest**2 + reach**2)
    # A slope of 1 or of 2 gaps, times 2 (x - y), made of sums of x and of y alone.
    return value, [4 * 4 * longest * (2 * gap + error * max(1, 2 * reach)) / shortest]


def of_multi_similarity(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    errors = [cross_entropy(1.5 * steep, sizes.terms, sizes.count, dtype) for steep in (loss.alpha, loss.beta)]
    value = errors[0][0] / loss.alpha + errors[1][0] / loss.beta + 4 * sizes.rounding
    share = errors[0][1] + errors[1][1]
    # The slopes of a row add up to 2, and in the mean those that others have by it, too.
    return value, [4 * (share + 2 * sizes.rounding) * 2 / sizes.shortest]


def of_supcon(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    value, share = cross_entropy(1 / loss.temperature, sizes.terms, sizes.count, dtype)
    counted = sum(label in labels[:i].tolist() + labels[i + 1 :].tolist() for i, label in enumerate(labels.tolist()))
    force = (1 + sizes.count / counted) * 2 / loss.temperature  # of a row, and of all others by it
    return value, [force * (share + 2 * sizes.rounding) * 2 / sizes.shortest]


def of_circle(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    value, share = cross_entropy(4 * loss.gamma, sizes.terms, sizes.count, dtype)
    value = 2 * value + tail
    weight = loss.gamma * (2 + loss.m)
    force = (1 + sizes.count) * 2 * weight
    return value, [force * (share + value + 4 * sizes.rounding) * 2 / sizes.shortest]


def of_margin(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    sizes.clear_of(loss.beta - loss.margin)
    sizes.clear_of(loss.beta + loss.margin)
    # A mean of terms above zero, each of slope 1 in a distance.
    return sizes.distance + 2 * sizes.rounding * (2 + loss.beta + loss.margin), [4 * sizes.direction / sizes.shortest]


def of_lifted_structure(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    value, share = cross_entropy(2 + loss.neg_margin, sizes.terms, 2 * sizes.count, dtype)
    largest = math.log(2 * sizes.count) + loss.neg_margin + 2
    violation = value + 2 * sizes.distance + sizes.rounding * (2 + loss.pos_margin)
    # A violation is the slope by its own distance, and by all of its negatives together.
    slope = violation + largest * (share + sizes.distance + sizes.rounding)
    return largest * (violation + sizes.rounding * largest), [
        2 * 2 * (slope + largest * sizes.direction) / sizes.shortest
    ]


def of_ranked_list(loss, tensors, labels, dtype, tail):
    sizes = Sizes(tensors, dtype)
    sizes.clear_of(loss.alpha)
    sizes.clear_of(loss.alpha - loss.margin)
    temperature = max(loss.temperatures)
    largest = max(loss.alpha, 2 - loss.alpha + loss.margin)
    steep = 1 + temperature * largest  # how much a mean moves when all violations move by 1
    weight = 2 * temperature * sizes.distance + sizes.rounding * steep  # of a weight, as a share of it
    value = steep * sizes.distance + 2 * largest * weight
    slope = 2 * steep * weight + temperature * (sizes.distance + value)
    return value, [2 * 2 * (slope + steep * sizes.direction) / sizes.shortest]


BOUNDS = {
    "contrastive": of_contrastive,
    "multi_similarity": of_multi_similarity,
    "circle": of_circle,
    "supcon": of_supcon,
    "margin": of_margin,
    "lifted_structure": of_lifted_structure,
    "ranked_list": of_ranked_list,
}
