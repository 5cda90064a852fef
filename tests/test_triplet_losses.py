"""Losses over triplets and quadruplets: options against the oracles, what a memory and a miner hand over, by hand."""

import itertools

import pytest
import torch
from test_losses import assert_equals_oracle, random_rows
from tolerances import about, assert_within, gamma

from core.errors import InputError
from losses import QuadrupletChenLoss, TripletMarginLoss, _rank_rows, _rows, _triplets
from losses._mined import Reference, Triplets
from miners import SemihardMiner

LABELS = [1, 5, 5, 1, 7, 1, -3, -3]


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 1.5},
        {"margin": 0.0},
        {"margin": "soft"},
        {"margin": "soft", "distance": "cosine"},
        {"margin": 0.3, "distance": "squared"},
        {"margin": 0.3, "distance": "cosine"},
        {"margin": 0.3, "normalise": True},
        {"margin": 0.3, "distance": "squared", "normalise": True},
    ],
)
def test_options_of_triplet_margin_reach_the_formula(options):
    assert_equals_oracle("triplet_margin", random_rows(len(LABELS), seed=5), LABELS, **options)


@pytest.mark.parametrize("options", [{"margin1": 0.1, "margin2": 0.0}, {"margin1": 0.0, "margin2": 2.0}])
def test_options_of_quadruplet_chen_reach_the_formula(options):
    assert_equals_oracle("quadruplet_chen", random_rows(len(LABELS), seed=5), LABELS, **options)


def reference(count=9):
    """Rows of a memory with labels of the batch and others, the first two of which show images of the batch."""
    labels = torch.tensor([1, 5, 5, 7, 2, 1, 1, -3, 9])[:count]
    images = torch.arange(10, 10 + count)
    images[:2] = torch.tensor([3, 1])
    return Reference(random_rows(count, seed=8), labels, images, torch.arange(len(LABELS)))


def listed(memory):
    """All triplets of LABELS and a memory, by loops."""
    labels, images = LABELS + memory.labels.tolist(), memory.batch_images.tolist() + memory.images.tolist()
    found = []
    for a, p, n in itertools.product(range(len(LABELS)), range(len(labels)), range(len(labels))):
        if labels[a] == labels[p] != labels[n] and images[a] != images[p]:
            found.append((a, p, n))
    return Triplets(*torch.tensor(found).T)


@pytest.mark.parametrize("margin", [0.1, 1.0, None])
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_sums_over_all_triplets_are_sums_over_the_list(distance, margin):
    """With a memory and its rows of the same image; value, gradient and logged figures, which are means, too."""
    memory, labels = reference(), torch.tensor(LABELS)
    rows = random_rows(len(LABELS), seed=1).requires_grad_()
    columns = torch.cat([rows, memory.embeddings])
    if distance == "cosine":
        columns = torch.nn.functional.normalize(columns)
    loss = TripletMarginLoss(margin, distance)
    value = loss(rows, labels, reference=memory)
    (slope,) = torch.autograd.grad(value, rows)
    logs = loss.logs
    a, p, n = listed(memory)
    measure = {
        "euclidean": lambda x, y: (x - y).norm(dim=1),
        "squared": lambda x, y: (x - y).square().sum(1),
        "cosine": lambda x, y: 1 - (x * y).sum(1),
    }[distance]
    to_positives, to_negatives = measure(columns[a], columns[p]), measure(columns[a], columns[n])
    gaps = to_positives - to_negatives
    # torch's softplus leaves out exp(-20), and so does its slope.
    losses = gaps.exp().log1p() if margin is None else torch.relu(gaps + margin)
    (expected,) = torch.autograd.grad(losses.mean(), rows)
    # Distances and slopes of up to 100, from differences of squares; nearest rows are far from equal.
    error = gamma(100) * 1000 + (2e-9 * 100 if margin is None else 0)
    assert_within(value, losses.mean(), error)
    assert_within(slope, expected, error)
    assert_within(logs["active_tri"], (losses > 0).double().mean(), gamma(100))
    assert_within(logs["pos_dist"], to_positives.mean(), error)
    assert_within(logs["neg_dist"], to_negatives.mean(), error)
    mined = loss(rows, labels, reference=memory, mined=Triplets(a, p, n))
    assert_within(mined, losses.mean(), error)
    assert_within(torch.autograd.grad(mined, rows)[0], expected, error)


@pytest.mark.parametrize("margin", [0.4, None])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_a_rule_is_the_list_of_what_it_chooses(distance, unit, margin):
    """By the miner's distance, whichever the loss's is; with a memory."""
    memory, labels = reference(), torch.tensor(LABELS)
    rows = random_rows(len(LABELS), seed=1).requires_grad_()
    miner = SemihardMiner(0.5, distance, unit)
    loss = TripletMarginLoss(margin, "euclidean")
    chosen = miner(rows, labels, memory)
    expected = loss(rows, labels, reference=memory, mined=chosen)
    (slope,) = torch.autograd.grad(expected, rows)
    logs = loss.logs
    value = loss(rows, labels, reference=memory, mined=miner.rule)
    error = gamma(100) * 1000 + (2e-9 * 100 if margin is None else 0)
    assert 0 < len(chosen.anchors) < len(listed(memory).anchors)
    assert_within(value, expected, error)
    assert_within(torch.autograd.grad(value, rows)[0], slope, error)
    for name, figure in logs.items():
        assert_within(loss.logs[name], figure, error)


@pytest.mark.parametrize("copies, numbers", [(1, 2**19), (500, 1)])
def test_few_and_many_mined_triplets_have_one_value(monkeypatch, copies, numbers):
    """Taken one by one, and out of a table of all distances; numbers: as many as are always taken one by one."""
    monkeypatch.setattr("losses._distances.BLOCK", numbers)
    rows = random_rows(len(LABELS), seed=1).requires_grad_()
    chosen = torch.tensor([[0, 3, 2], [1, 2, 4], [6, 7, 0]]).repeat(copies, 1)
    loss = TripletMarginLoss(margin=1.0)
    value = loss(rows, torch.tensor(LABELS), mined=Triplets(*chosen.T))
    (slope,) = torch.autograd.grad(value, rows)
    a, p, n = chosen[:3].T
    gaps = (rows[a] - rows[p]).norm(dim=1) - (rows[a] - rows[n]).norm(dim=1) + 1
    assert_within(value, gaps.relu().mean(), gamma(2000) * 20)
    assert_within(slope, torch.autograd.grad(gaps.relu().mean(), rows)[0], gamma(2000) * 20)


def test_no_mined_triplet_is_no_loss_with_a_gradient():
    rows = random_rows(len(LABELS)).requires_grad_()
    nothing = torch.empty(0, dtype=torch.int64)
    loss = TripletMarginLoss()
    value = loss(rows, torch.tensor(LABELS), mined=Triplets(nothing, nothing, nothing))
    value.backward()
    assert value == 0 and not rows.grad.any()
    assert all(figure == 0 for figure in loss.logs.values())


def test_two_labels_make_no_quadruplet():
    rows = random_rows(6).float().requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    loss = QuadrupletChenLoss()
    loss(rows, labels).backward()
    of_triplets = TripletMarginLoss(margin=1.0, distance="squared", normalise=True)
    other = rows.detach().requires_grad_()
    value = of_triplets(other, labels)
    value.backward()
    assert loss.logs["quadruplet_active_share"] == 0
    assert loss(rows, labels) == value and torch.equal(rows.grad, other.grad)


def test_figures_by_hand():
    """On a line: 0 and 1 of one label, 3 of another."""
    loss = TripletMarginLoss(margin=1.5)
    value = loss(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([4, 4, 2]))
    # Anchor 0: 1 - 3 + 1.5 < 0; anchor 1: 1 - 2 + 1.5 = 0.5.
    assert value.item() == about(0.25, 20, torch.float32, 5)
    assert loss.logs["active_share"] == 0.5 == loss.logs["active_tri"]
    assert loss.logs["pos_dist"].item() == about(1.0, 20, torch.float32, 5)
    assert loss.logs["neg_dist"].item() == about(2.5, 20, torch.float32, 5)


def test_many_edges_by_order_are_few_one_by_one(monkeypatch):
    """Labels of uneven size, one image alone."""
    rows = random_rows(len(LABELS), seed=1).requires_grad_()
    losses = (TripletMarginLoss(margin=1.0), QuadrupletChenLoss())
    values = [loss(rows, torch.tensor(LABELS)) for loss in losses]
    slopes = [torch.autograd.grad(value, rows)[0] for value in values]
    monkeypatch.setattr(_triplets, "FEW", 1)
    for loss, value, slope in zip(losses, values, slopes, strict=True):
        again = loss(rows, torch.tensor(LABELS))
        assert_within(again, value, gamma(100) * 1000)
        assert_within(torch.autograd.grad(again, rows)[0], slope, gamma(100) * 1000)


@pytest.mark.parametrize("scores, piece", [(1, 1), (20, 30)])
def test_anchors_in_blocks_and_bands_are_the_batch(monkeypatch, scores, piece):
    rows = random_rows(len(LABELS), seed=1).requires_grad_()
    losses = (TripletMarginLoss(margin=1.0), QuadrupletChenLoss())
    values = [loss(rows, torch.tensor(LABELS)) for loss in losses]
    slopes = [torch.autograd.grad(value, rows)[0] for value in values]
    monkeypatch.setattr(_rows, "HELD", scores)
    monkeypatch.setattr(_rank_rows, "PIECE", piece)
    for loss, value, slope in zip(losses, values, slopes, strict=True):
        again = loss(rows, torch.tensor(LABELS))
        assert_within(again, value, gamma(100) * 1000)
        assert_within(torch.autograd.grad(again, rows)[0], slope, gamma(100) * 1000)


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": float("nan")}])
def test_margins_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="margin=.* is outside what the loss allows"):
        TripletMarginLoss(**options)
    with pytest.raises(InputError, match="margin1=.* is outside what the loss allows"):
        QuadrupletChenLoss(margin1=options["margin"])
