"""Losses over class weights beside those of pytorch-metric-learning and Open Metric Learning: value and gradient.

Both compute in float64 what is one formula, so each is off by the rounding that `bounds` allows.
"""

import math

import pytest
import torch
from test_losses import bounds
from tolerances import assert_within

from losses import LOSSES

WIDTH, CLASSES = 6, 11
BATCHES = {
    "all classes apart": [3, 0, 6, 10, 1, 5],
    "some alike": [2, 2, 9, 2, 9, 4, 4, 4],
    "one class": [7, 7, 7],
    "one row": [8],
}
# name of ours: (class of theirs, our options, their options).
OF_PML = {
    "cosface": ("CosFaceLoss", {}, {}),
    "cosface, options": ("CosFaceLoss", {"margin": 0.2, "scale": 20.0}, {"margin": 0.2, "scale": 20}),
    "norm_softmax": ("NormalizedSoftmaxLoss", {}, {}),
    "norm_softmax, options": ("NormalizedSoftmaxLoss", {"temperature": 0.3}, {"temperature": 0.3}),
    "subcenter_arcmargin": ("SubCenterArcFaceLoss", {"arc_scale": 64.0, "arc_margin": math.radians(28.6)}, {}),
    "subcenter_arcmargin, options": (
        "SubCenterArcFaceLoss",
        {"arc_scale": 20.0, "arc_margin": 0.3, "sub_centers": 5},
        {"scale": 20, "margin": math.degrees(0.3), "sub_centers": 5},
    ),
    "proxy_anchor": ("ProxyAnchorLoss", {}, {}),
    "proxy_anchor, options": ("ProxyAnchorLoss", {"alpha": 10.0, "margin": 0.3}, {"alpha": 10, "margin": 0.3}),
    "proxy_nca": ("ProxyNCALoss", {}, {}),
    "proxy_nca, options": ("ProxyNCALoss", {"softmax_scale": 9.0}, {"softmax_scale": 9}),
    "soft_triple": ("SoftTripleLoss", {}, {}),
    "soft_triple, options": (
        "SoftTripleLoss",
        {"centers_per_class": 3, "la": 8.0, "gamma": 0.4, "margin": 0.2},
        {"centers_per_class": 3, "la": 8, "gamma": 0.4, "margin": 0.2},
    ),
}


def embeddings_of(labels, seed=0):
    torch.manual_seed(len(labels) + seed)
    return (3 * torch.randn(len(labels), WIDTH, dtype=torch.float64)).requires_grad_()


def ours_and_batch(name, labels, **options):
    embeddings = embeddings_of(labels)
    loss = LOSSES[name](embedding_size=WIDTH, num_classes=CLASSES, **options).double()
    return loss, embeddings, torch.tensor(labels)


def assert_alike(loss, embeddings, labels, their_value, their_slopes, slack=0.0):
    """their_slopes: by the embeddings, then by our parameters; slack: what the formulas themselves differ by."""
    tensors = [embeddings, *loss.parameters()]
    value = loss(embeddings, labels)
    slopes = torch.autograd.grad(value, tensors)
    error, errors = bounds(loss, tensors, labels)
    assert_within(value, their_value, 2 * error + slack)
    for slope, theirs, allowed in zip(slopes, their_slopes, errors, strict=True):
        assert_within(slope, theirs.reshape(slope.shape), 2 * allowed + slack)


def root_slack(loss, embeddings, labels):
    """What the 1e-6 under our root of 1 - cos^2 moves: neither peer has it (docs of ArcMarginLoss).

    The sine s becomes at most 1e-6 / 2 s larger, its slope c / s by a share of 1e-6 / 2 s^2, times scale and sin m.
    """
    with torch.no_grad():
        rows = embeddings if loss.layers is None else loss.layers(embeddings)
        weight = loss.weight.flatten(0, -2)
        cosines = torch.cosine_similarity(rows[:, None], weight, dim=-1)
        sine = (1 - cosines.square()).sqrt().min()
        shift = loss.arc_scale * math.sin(loss.arc_margin) * 0.5e-6 / sine
        # A score's shift moves shares by as much of themselves; slopes are up to scale (1 + sin m / s) / length.
        steep = loss.arc_scale * (1 + 1 / sine) / min(rows.norm(dim=1).min(), weight.norm(dim=1).min())
        stretch = 1.0
        if loss.layers is not None:
            widest = max(layer.weight.norm() for layer in loss.layers if hasattr(layer, "weight"))
            stretch = widest * max(1.0, embeddings.norm(dim=1).max()) * 4
        return (2 * shift * steep * stretch + shift / sine**2 * steep * stretch).item()


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", OF_PML)
def test_equals_pytorch_metric_learning(name, labels):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="parity with pytorch-metric-learning needs requirements/peers.txt"
    )
    theirs, our_options, their_options = OF_PML[name]
    loss, embeddings, codes = ours_and_batch(name.split(",")[0], labels, **our_options)
    peer = getattr(losses, theirs)(num_classes=CLASSES, embedding_size=WIDTH, **their_options).double()
    # Theirs stand as columns, centre by centre within a class, or as rows where they are called proxies.
    (table,) = peer.parameters()
    weight = loss.weight.detach().flatten(0, -2)
    is_rows = hasattr(peer, "proxies")
    table.data = (weight if is_rows else weight.T).clone()
    value = peer(embeddings, codes)
    to_embeddings, to_table = torch.autograd.grad(value, [embeddings, table])
    slack = root_slack(loss, embeddings, codes) if hasattr(loss, "arc_scale") else 0.0
    assert_alike(loss, embeddings, codes, value, [to_embeddings, to_table if is_rows else to_table.T], slack)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("categories", [None, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3]], ids=["no categories", "categories"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", ["arcmargin", "mlp_arcmargin"])
def test_equals_open_metric_learning(name, smoothing, categories, labels):
    """Their label smoothing, too, over all labels or within the label's category."""
    arcface = pytest.importorskip(
        "oml.losses.arcface", reason="parity with Open Metric Learning needs requirements/peers.txt"
    )
    if categories is not None and not smoothing:
        pytest.skip("categories matter to smoothing only")
    options = {"arc_scale": 20.0, "arc_margin": 0.3, "label_smoothing": smoothing}
    label2category = None
    if categories is not None:
        options["smooth_within_category"] = True
        label2category = {label: f"category {code}" for label, code in enumerate(categories)}
    theirs = {"m": 0.3, "s": 20.0, "smoothing_epsilon": smoothing, "label2category": label2category}
    if name == "mlp_arcmargin":
        options["mlp_features"] = (5, 4)
        peer = arcface.ArcFaceLossWithMLP(WIDTH, CLASSES, mlp_features=[5, 4], **theirs)
        weight = peer.arcface.weight
        layers = [parameter for key, parameter in peer.named_parameters() if key.startswith("mlp")]
    else:
        peer = arcface.ArcFaceLoss(WIDTH, CLASSES, **theirs)
        weight, layers = peer.weight, []
    loss, embeddings, codes = ours_and_batch(name, labels, **options)
    peer.double()
    tables = [weight, *layers]
    for ours, table in zip(loss.parameters(), tables, strict=True):
        table.data = ours.detach().clone()
    if categories is not None:
        loss.set_labels(torch.ones(CLASSES), torch.tensor(categories))
    # Their targets are float32: as far off as that type's rounding.
    value = peer(embeddings, codes) if not smoothing else in_float64(peer, embeddings, codes)
    slopes = torch.autograd.grad(value, [embeddings, *tables])
    assert_alike(loss, embeddings, codes, value, slopes, root_slack(loss, embeddings, codes))


def in_float64(peer, embeddings, labels):
    """Their loss with smoothed targets made in float64; they make them in float32."""
    arcface = getattr(peer, "arcface", peer)
    made = arcface.smooth_labels

    def exact(labels):
        found = made(labels).double()
        own = torch.nn.functional.one_hot(labels, CLASSES).double()
        epsilon = arcface.smoothing_epsilon
        alike = (found > 0).double()
        return own * (1 - epsilon) + epsilon * alike / alike.sum(1, True)

    arcface.smooth_labels = exact
    return peer(embeddings, labels)
