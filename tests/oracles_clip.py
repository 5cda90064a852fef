"""The slow twin of CLIP's loss: exact.py says how. ORACLES and BOUNDS are as in the other families."""

from decimal import Decimal

from exact import dot, mean, unit
from tolerances import cross_entropy, gamma


def clip(embeddings, labels, change=((0,),), temperature=0.07, learn_temperature=True, same_label="left_out"):
    """Figure 3 of the paper, one score after the other; change: the logarithm of the scale over its first value."""
    scale = 1 / Decimal(temperature)
    if learn_temperature:
        scale = min(Decimal(change[0][0]).exp() / Decimal(temperature), max(Decimal(100), scale))
    images, texts = [unit(row) for row in embeddings[0::2]], [unit(row) for row in embeddings[1::2]]
    image_labels, text_labels = labels[0::2], labels[1::2]
    losses = {"of images": [], "of texts": []}
    for i in range(len(images)):
        for kind in losses:
            scores = {}
            for j in range(len(images)):
                image, text = (i, j) if kind == "of images" else (j, i)
                scores[j] = scale * dot(images[image], texts[text])
            if kind == "of images":
                same = {j for j in scores if text_labels[j] == image_labels[i]}
            else:
                same = {j for j in scores if image_labels[j] == text_labels[i]}
            targets = {i}
            if same_label == "positive":
                targets |= same
            if same_label == "left_out":
                scores = {j: score for j, score in scores.items() if j == i or j not in same}
            total = sum(score.exp() for score in scores.values())
            losses[kind].append(mean(-(scores[j].exp() / total).ln() for j in targets))
    return (mean(losses["of images"]) + mean(losses["of texts"])) / 2


def clip_bounds(loss, tensors, labels, dtype, tail):
    """Scores are cosines times the scale; a row's slope has a part from its own sum, and one from each other's."""
    rows = tensors[0].detach().double()
    pairs = len(rows) // 2
    scale = 1 / loss.temperature
    if len(tensors) > 1:
        scale *= tensors[1].exp().item()
    terms = 3 * rows.shape[1] + 20
    value, share = cross_entropy(scale, terms, pairs, dtype)
    slope = 2 * scale / rows.norm(dim=1, keepdim=True)
    errors = [(2 * share + gamma(terms, dtype)) * slope.expand_as(rows)]
    if len(tensors) > 1:
        errors.append((2 * share + gamma(terms, dtype)) * 2 * scale)
    return value, errors


ORACLES = {"clip": clip}
BOUNDS = {"clip": clip_bounds}
