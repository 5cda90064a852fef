"""Slow twins of losses over class weights: exact.py says how. ORACLES: {name of LOSSES: function}.

BOUNDS: {name of LOSSES: function(loss, tensors, labels, dtype, tail)} that gives the errors that test_losses.py allows;
see `bounds` there.
"""

import copy
import math
from decimal import Decimal

import torch
from exact import dot, mean, squared_distance, unit
from tolerances import cross_entropy, gamma, sensitivity


def units(rows):
    return [unit(row) for row in rows]


def centres_of(weight, count):
    """Rows of `count` centres each, side by side, as a list of lists of centres, all of length 1."""
    width = len(weight[0]) // count
    return [units(row[start : start + width] for start in range(0, len(row), width)) for row in weight]


def smoothed(logits, label, label_smoothing=0.0, categories=None):
    """Cross-entropy, a share of the target spread over all classes, or those of the label's category."""
    epsilon = Decimal(label_smoothing)
    alike = [i for i in range(len(logits)) if categories is None or categories[i] == categories[label]]
    target = (1 - epsilon) * logits[label] + epsilon * mean(logits[i] for i in alike)
    return sum(logit.exp() for logit in logits).ln() - target


def with_angle(cosine, margin, easy):
    cos_margin, sin_margin = Decimal(math.cos(margin)), Decimal(math.sin(margin))
    turned = cosine * cos_margin - (1 - cosine**2 + Decimal("1e-6")).sqrt() * sin_margin
    if easy:
        return turned if cosine > 0 else cosine
    return turned if cosine > -cos_margin else cosine - Decimal(margin) * sin_margin


def over_cosines(embeddings, labels, similarities, scale, margined, **smoothing):
    """Mean cross-entropy of scale times similarities(row), a list, the own one being replaced by margined(it)."""
    losses = []
    for row, label in zip(units(embeddings), labels, strict=True):
        found = similarities(row)
        found[label] = margined(found[label])
        losses.append(smoothed([Decimal(scale) * number for number in found], label, **smoothing))
    return mean(losses)


def cosface(embeddings, labels, weight, margin=0.35, scale=64.0, **smoothing):
    columns = units(weight)

    def similarities(row):
        return [dot(row, column) for column in columns]

    return over_cosines(embeddings, labels, similarities, scale, lambda own: own - Decimal(margin), **smoothing)


def norm_softmax(embeddings, labels, weight, temperature=0.05, **smoothing):
    return cosface(embeddings, labels, weight, 0.0, 1 / Decimal(temperature), **smoothing)


def proxy_nca(embeddings, labels, weight, softmax_scale=1.0, **smoothing):
    losses = []
    proxies = units(weight)
    for row, label in zip(units(embeddings), labels, strict=True):
        distances = [squared_distance(row, proxy) for proxy in proxies]
        losses.append(smoothed([-Decimal(softmax_scale) * distance for distance in distances], label, **smoothing))
    return mean(losses)


def subcenter_arcmargin(
    embeddings, labels, weight, arc_scale=80.0, arc_margin=0.15, arc_easy_margin=False, sub_centers=3, **smoothing
):
    classes = centres_of(weight, sub_centers)

    def similarities(row):
        return [max(dot(row, centre) for centre in centres) for centres in classes]

    def margined(own):
        return with_angle(own, arc_margin, arc_easy_margin)

    return over_cosines(embeddings, labels, similarities, arc_scale, margined, **smoothing)


def mlp_arcmargin(embeddings, labels, weight, *layers, arc_scale=80.0, arc_margin=0.15, mlp_features=None, **smoothing):
    rows = embeddings
    for number in range(0, len(layers), 2):
        matrix, bias = layers[number : number + 2]
        if number:
            rows = [[max(value, Decimal(0)) for value in row] for row in rows]
        rows = [[dot(row, column) + offset for column, [offset] in zip(matrix, bias, strict=True)] for row in rows]
    return subcenter_arcmargin(rows, labels, weight, arc_scale, arc_margin, False, 1, **smoothing)


def soft_triple(
    embeddings, labels, weight, centers_per_class=10, la=20.0, gamma=0.1, margin=0.01, tau=0.0, **smoothing
):
    classes = centres_of(weight, centers_per_class)

    def similarity(row, centres):
        cosines = [dot(row, centre) for centre in centres]
        weights = [(number / Decimal(gamma)).exp() for number in cosines]
        return dot(weights, cosines) / sum(weights)

    def similarities(row):
        return [similarity(row, centres) for centres in classes]

    loss = over_cosines(embeddings, labels, similarities, la, lambda own: own - Decimal(margin), **smoothing)
    spread = 0
    if tau:
        for centres in classes:
            for i, centre in enumerate(centres):
                for other in centres[:i]:
                    spread += (2 - 2 * dot(centre, other) + Decimal("1e-5")).sqrt()
        spread /= len(classes) * centers_per_class * (centers_per_class - 1)
    return loss + Decimal(tau) * spread


def proxy_anchor(embeddings, labels, weight, alpha=32.0, margin=0.1):
    alpha, margin = Decimal(alpha), Decimal(margin)
    pulls, pushes = [], []
    rows = units(embeddings)
    for number, proxy in enumerate(units(weight)):
        cosines = [dot(row, proxy) for row in rows]
        own = [(-alpha * (c - margin)).exp() for c, label in zip(cosines, labels, strict=True) if label == number]
        others = [(alpha * (c + margin)).exp() for c, label in zip(cosines, labels, strict=True) if label != number]
        if own:
            pulls.append((1 + sum(own)).ln())
        pushes.append((1 + sum(others)).ln())
    return mean(pulls) + mean(pushes)


ORACLES = {
    "cosface": cosface,
    "norm_softmax": norm_softmax,
    "subcenter_arcmargin": subcenter_arcmargin,
    "mlp_arcmargin": mlp_arcmargin,
    "proxy_anchor": proxy_anchor,
    "proxy_nca": proxy_nca,
    "soft_triple": soft_triple,
}


def _unit_rows(rows, weight):
    """(lengths of rows (B, 1), of weights (C, K, 1), cosines (B, C, K)) in float64."""
    lengths, sizes = rows.norm(dim=-1, keepdim=True), weight.norm(dim=-1, keepdim=True)
    return lengths, sizes, torch.einsum("bd,ckd->bck", rows / lengths, weight / sizes)


def _with_class_axis(tensors):
    rows, weight = (tensor.detach().double() for tensor in tensors[:2])
    return rows, weight if weight.ndim == 3 else weight[:, None]


def over_cosines_bound(loss, tensors, labels, dtype, tail):
    """Cross-entropy over cosines, as class_bounds of test_losses.py has it for arcmargin.

    A cosine is off by e = gamma(terms); a similarity mixed of K of them by a softmax over gamma by
    e (1 + 2 / gamma) and the softmax's own rounding, and its slopes, which add up to 1 + 2 / gamma at most, by a share
    of themselves.
    """
    rows, weight = _with_class_axis(tensors)
    lengths, sizes, cosines = _unit_rows(rows, weight)
    centres = weight.shape[1]
    terms = rows.shape[1] + len(rows) + 20
    error = gamma(terms, dtype)
    own = torch.nn.functional.one_hot(labels, len(weight)).double()
    scale, margin, turn, easy, steep, mixing = 1.0, 0.0, 0.0, 1.0, 1.0, 0.0
    similarities = cosines.amax(2)
    if hasattr(loss, "arc_scale"):
        # An own cosine c becomes c cos m - sqrt(1 - c^2 + 1e-6) sin m, which is steep and curved near 1 and -1.
        scale, turn = loss.arc_scale, math.sin(loss.arc_margin)
        easy = (1 - similarities[own > 0].square() + 1e-6).sqrt().min().item()
        in_loss = torch.where(own > 0, loss.add_margin(similarities), similarities)
    else:
        if hasattr(loss, "la"):
            scale, margin, steep = loss.la, loss.margin, 1 + 2 / loss.gamma
            weights = (cosines / loss.gamma).softmax(2)
            similarities = (weights * cosines).sum(2)
            rounding = gamma(centres + 12, dtype)
            mixing = rounding / error + 2 / loss.gamma  # a similarity, in multiples of e
            shares_off = (4 * error / loss.gamma + rounding) * steep  # its slopes
        elif hasattr(loss, "softmax_scale"):
            scale = 2 * loss.softmax_scale
        elif hasattr(loss, "temperature"):
            scale = 1 / loss.temperature
        else:
            scale, margin = loss.scale, loss.margin
        in_loss = similarities - own * margin
    size = scale * (2 + turn / easy + margin + mixing)
    value, share = cross_entropy(size, terms, len(weight), dtype)
    both = ((scale * in_loss).softmax(1) + own) / len(rows)
    if loss.label_smoothing:
        value += 2 * gamma(len(weight) + 8, dtype) * size
        both += loss.label_smoothing / len(rows)  # no more than that to a class
    curve = error * turn / easy**3 / (1 + turn / easy)
    if mixing:
        curve += shares_off / steep
    by_row, by_weight = (2 * scale * (1 + turn / easy) * steep / one for one in (lengths, sizes))
    to_rows = (share + curve) * both.sum(1, True) * by_row
    to_weight = (share + curve) * both.sum(0)[:, None, None] * by_weight
    if getattr(loss, "tau", 0):
        # Distances of slope up to 1 / sqrt(1e-5) and as curved, over pairs of which each centre has K - 1.
        steepest = 1e-5**-0.5
        value += loss.tau * error * steepest * 2
        to_weight = to_weight + loss.tau * 4 * error * steepest**3 / len(weight) / centres / sizes
    return value, [to_rows.expand_as(rows), to_weight.expand_as(weight).reshape(tensors[1].shape)]


def mlp_bound(loss, tensors, labels, dtype, tail):
    """That of the cosines of what comes out of the layers, carried back, and what the layers' rounding moves."""
    loss = copy.deepcopy(loss).double()
    embeddings = tensors[0].detach().double().requires_grad_()
    parameters = list(loss.parameters())
    rows = loss.layers(embeddings)
    value, (to_rows, to_weight) = over_cosines_bound(loss, [rows, loss.weight], labels, dtype, tail)

    def compute():
        result = loss(embeddings, labels)
        slopes = torch.autograd.grad(result, [embeddings, *parameters])
        return {"value": result, **{str(number): slope for number, slope in enumerate(slopes)}}

    moves = sensitivity(loss, compute)
    error = gamma(max(layer.in_features for layer in loss.layers if hasattr(layer, "in_features")) + 8, dtype)
    # Each row's slopes go back through matrices that lengthen them no more than their norms say.
    stretch = math.prod(max(1.0, layer.weight.norm().item()) for layer in loss.layers if hasattr(layer, "weight"))
    carried = to_rows.norm(dim=1).sum().item() * stretch
    inputs = max(1.0, embeddings.norm(dim=1).max().item(), rows.detach().norm(dim=1).max().item()) * stretch
    errors = [to_weight + error * moves["1"].max()]
    errors += [carried * inputs + error * moves[str(number)].max() for number in range(2, len(parameters) + 1)]
    return value + error * moves["value"].item(), [carried + error * moves["0"].max(), *errors]


def proxy_anchor_bound(loss, tensors, labels, dtype, tail):
    """Exponents are off by e = gamma(terms) alpha (1 + margin), a sum of B of their exponentials by gamma(B + 8)."""
    rows, weight = _with_class_axis(tensors)
    lengths, sizes, cosines = _unit_rows(rows, weight)
    cosines = cosines[:, :, 0]
    own = torch.nn.functional.one_hot(labels, len(weight)).double()
    terms = rows.shape[1] + len(rows) + 20
    size = loss.alpha * (2 + loss.margin)
    exponent, total = gamma(terms, dtype) * size, gamma(len(rows) + 8, dtype)
    value = 2 * (exponent + total * (1 + size + math.log(len(rows) + 1))) + 2 * gamma(len(weight) + 8, dtype) * size

    def slopes(scores, chosen):
        exponents = torch.where(chosen > 0, scores, -torch.inf)
        with_one = torch.cat([exponents, torch.zeros(1, len(weight), dtype=torch.float64)])
        return with_one.softmax(0)[:-1]

    pulls = slopes(-loss.alpha * (cosines - loss.margin), own) / (own.sum(0) > 0).sum()
    pushes = slopes(loss.alpha * (cosines + loss.margin), 1 - own) / len(weight)
    relative = 2 * exponent + total + 4 * gamma(terms, dtype)
    both = loss.alpha * 2 * relative * (pulls + pushes)
    by_weight = both.sum(0)[:, None] / sizes[:, 0]
    return value, [(both.sum(1, True) / lengths).expand_as(rows), by_weight.expand_as(weight[:, 0])]


BOUNDS = {
    "cosface": over_cosines_bound,
    "norm_softmax": over_cosines_bound,
    "subcenter_arcmargin": over_cosines_bound,
    "mlp_arcmargin": mlp_bound,
    "proxy_anchor": proxy_anchor_bound,
    "proxy_nca": over_cosines_bound,
    "soft_triple": over_cosines_bound,
}
