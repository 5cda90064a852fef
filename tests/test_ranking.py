"""Losses that rank: columns of a memory, blocks of rows, options, virtual images, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from oracles_ranking import BOUNDS, ORACLES
from test_losses import BATCHES, assert_equals_oracle, random_rows
from tolerances import about, assert_within, gamma

from core.errors import InputError
from losses import (
    LOSSES,
    FastApLoss,
    RecallAtKLoss,
    RoadmapLoss,
    SmoothApLoss,
    SurrogatePrecisionLoss,
    _rank_rows,
    _rows,
)
from losses._mined import Reference
from losses._rank_rows import RankedRows, matches

LABELS = torch.tensor([4, 1, 4, 0, 1, 4, 7, 0, 4, 1])
ITSELF = (SmoothApLoss, RoadmapLoss, SurrogatePrecisionLoss)  # rank the anchor, as one of its positives


def reference_of(rows, count=8):
    """Rows of a memory: the first two are older embeddings of rows 0 and 3 of the batch, one label is in no row."""
    return Reference(
        embeddings=random_rows(count, seed=9) + 0.1,
        labels=torch.tensor([4, 0, 4, 9, 1, 1, 0, 7])[:count],
        images=torch.tensor([100, 103, 50, 51, 52, 53, 54, 55])[:count],
        batch_images=100 + torch.arange(len(rows)),
    )


def by_definition(loss, rows, labels, reference):
    """The loss over columns of the batch and of the reference, an anchor at a time, by autograd."""
    columns = torch.cat([rows, reference.embeddings])
    column_labels = torch.cat([labels, reference.labels])
    column_images = torch.cat([reference.batch_images, reference.images])
    unit = torch.nn.functional.normalize
    terms, far, near = [], [], []
    for anchor in range(len(rows)):
        ranked = column_images != reference.batch_images[anchor]
        ranked[: len(rows)] = True
        ranked[anchor] = isinstance(loss, ITSELF)
        itself = torch.arange(len(columns))[ranked] == anchor
        positive = column_labels[ranked] == labels[anchor]
        if isinstance(loss, SurrogatePrecisionLoss):
            scores = -(rows[anchor] - columns[ranked]).square().sum(1).clamp_min(1e-30).sqrt()
        else:
            scores = unit(columns[ranked]) @ unit(rows[anchor], dim=0)
        if isinstance(loss, RoadmapLoss):
            far.append(loss.pos_margin - scores[positive & ~itself])
            near.append(scores[~positive] - loss.neg_margin)
        if isinstance(loss, SurrogatePrecisionLoss) or positive.sum() > isinstance(loss, ITSELF):
            terms.append(term(loss, scores, positive))
    value = torch.stack(terms).mean()
    for hinges in (far, near):
        across = [hinge for hinge in torch.cat(hinges) if hinge > 0] if hinges else []
        if across:
            value = value + loss.calibration_weight * torch.stack(across).mean()
    return value


def term(loss, scores, positive):
    """One anchor's part of a loss, of its columns' scores (N,) and which of them are positives (N,)."""
    ahead = scores - scores[positive][:, None]
    among = positive.sum()
    if isinstance(loss, SmoothApLoss):
        steps = (ahead / loss.temperature).sigmoid()
        return 1 - ((steps[:, positive].sum(1) + 0.5) / (steps.sum(1) + 0.5)).mean()
    if isinstance(loss, RoadmapLoss):
        line = loss.rho * (ahead - loss.delta) + loss.offset
        steps = (ahead / loss.tau).sigmoid() + 0.5 * (ahead > 0)
        negatives = torch.where(ahead > loss.delta, line, steps)[:, ~positive].sum(1)
        before = (ahead[:, positive] >= 0).sum(1)
        return 1 - (before / (before + negatives)).mean()
    if isinstance(loss, SurrogatePrecisionLoss):
        ranks = (ahead / loss.temperature2).sigmoid().sum(1)
        return 1 - ((loss.k + 1 - ranks) / loss.temperature1).sigmoid().sum() / min(loss.k + 1, among)
    if isinstance(loss, RecallAtKLoss):
        ranks = (ahead / loss.tau_rank).sigmoid().sum(1) + 0.5
        recalls = [((k - ranks) / loss.tau_k).sigmoid().sum().clamp_max(k) / min(k, among) for k in loss.ks]
        return 1 - torch.stack(recalls).mean()
    pulses = torch.relu(1 - ((1 - scores)[:, None] * loss.num_bins / 2 - torch.arange(loss.num_bins + 1)).abs())
    histogram = pulses[positive].sum(0)
    inside = histogram > 0
    return 1 - (histogram * histogram.cumsum(0) / pulses.sum(0).cumsum(0))[inside].sum() / among


def value_and_slope(function, rows):
    leaf = rows.clone().requires_grad_()
    value = function(leaf)
    return value, torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("name", ORACLES)
def test_columns_of_a_memory_are_ranked_with_the_batch(name):
    rows, loss = random_rows(len(LABELS)), LOSSES[name]()
    reference = reference_of(rows)
    value, slope = value_and_slope(lambda leaf: loss(leaf, LABELS, reference=reference), rows)
    expected, expected_slope = value_and_slope(lambda leaf: by_definition(loss, leaf, LABELS, reference), rows)
    everything = torch.cat([rows, reference.embeddings])
    error, [slope_error] = BOUNDS[name](loss, [everything], torch.cat([LABELS, reference.labels]), torch.float64, 0)
    assert_within(value, expected, 2 * error)
    assert_within(slope, expected_slope, 2 * slope_error)
    assert not torch.equal(value, loss(rows, LABELS))


@pytest.mark.parametrize("name", ORACLES)
def test_an_older_embedding_of_the_same_image_is_no_column(name):
    rows, loss = random_rows(len(LABELS)), LOSSES[name]()
    reference = reference_of(rows)
    hidden = reference._replace(images=torch.full((8,), 100), batch_images=torch.full((len(rows),), 100))
    value, slope = value_and_slope(lambda leaf: loss(leaf, LABELS, reference=hidden), rows)
    expected, expected_slope = value_and_slope(lambda leaf: loss(leaf, LABELS), rows)
    error, [slope_error] = BOUNDS[name](loss, [rows], LABELS, torch.float64, 0)
    assert_within(value, expected, 2 * error)
    assert_within(slope, expected_slope, 2 * slope_error)


@pytest.mark.parametrize("name", ORACLES)
def test_blocks_of_any_size_are_the_whole(name, monkeypatch):
    rows, loss = random_rows(len(LABELS)), LOSSES[name]()
    reference = reference_of(rows)
    value, slope = value_and_slope(lambda leaf: loss(leaf, LABELS, reference=reference), rows)
    everything = torch.cat([rows, reference.embeddings])
    error, [slope_error] = BOUNDS[name](loss, [everything], torch.cat([LABELS, reference.labels]), torch.float64, 0)
    for scores, piece in ((1, 1), (60, 100), (200, 1)):
        monkeypatch.setattr(_rows, "HELD", scores)
        monkeypatch.setattr(_rank_rows, "PIECE", piece)
        found, found_slope = value_and_slope(lambda leaf: loss(leaf, LABELS, reference=reference), rows)
        assert_within(found, value, 2 * error)
        assert_within(found_slope, slope, 2 * slope_error)


@pytest.mark.parametrize(
    "name, options",
    [
        ("fast_ap", {"num_bins": 3}),
        ("smooth_ap", {"temperature": 0.3}),
        ("recall_at_k", {"ks": (1, 3), "tau_rank": 0.2, "tau_k": 0.5}),
        ("surrogate_precision", {"k": 1, "temperature1": 0.5, "temperature2": 0.4}),
        ("surrogate_precision", {"temperature2": 0.1, "normalise": True}),
        ("roadmap", {"tau": 0.05, "rho": 10.0, "delta": 0.2, "calibration_weight": 0.0}),
        ("roadmap", {"offset": 1.44, "calibration_weight": 3.0, "pos_margin": 0.5, "neg_margin": 0.1}),
    ],
)
def test_options_reach_the_formula(name, options):
    labels = BATCHES["pk"]["uneven, one alone"]
    assert_equals_oracle(name, random_rows(len(labels), seed=5), labels, **options)


def test_pairs_of_equal_elements():
    left, right = matches(np.array([3, 1, 3, 8]), np.array([1, 3, 0, 3, 1]))
    assert left.tolist() == [0, 0, 1, 1, 2, 2] and right.tolist() == [1, 3, 0, 4, 1, 3]


def test_rows_with_most_positives_come_first_and_nothing_is_padded():
    rankings = RankedRows(random_rows(len(LABELS)), LABELS, with_self=False)
    assert rankings.paired == 9
    blocks = list(rankings.all_blocks())
    order = torch.tensor([0, 2, 5, 8, 1, 4, 9, 3, 7, 6])  # the row of label 7 has no positive, and is in no block
    labels = [[0, 2, 5, 8], [1, 4, 9], [3, 7]]
    assert [order[block.rows].tolist() for block in blocks] == labels
    for block, rows in zip(blocks, labels, strict=True):
        assert order[block.positives].tolist() == [[other for other in rows if other != row] for row in rows]


def test_a_ranking_by_hand():
    """Two labels far apart: every positive has rank 1, or 2 where the other positive stands exactly beside it."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    for loss in (SmoothApLoss(), FastApLoss(), RoadmapLoss()):
        assert loss(rows, labels).item() == about(0, 40, torch.float32, 1)
        assert loss.logs["active_share"] == 0
    sigmoid = [1 / (1 + math.exp(-number)) for number in range(16)]
    recall = RecallAtKLoss()  # with the anchor in its own ranking, the rank would be 1.5
    expected = 1 - sum(sigmoid[k - 1] for k in (1, 2, 4, 8, 16)) / 5
    assert recall(rows, labels).item() == about(expected, 40, torch.float32, 1)
    loss = SurrogatePrecisionLoss()  # the anchor and its positive, each at rank 0.5 + 0.5
    assert loss(rows, labels).item() == about(1 - sigmoid[5], 40, torch.float32, 1)
    assert SmoothApLoss()(rows, torch.tensor([0, 1, 0, 1])).item() > 0.1
    crossed = RecallAtKLoss()
    assert crossed(rows, torch.tensor([0, 1, 0, 1])) > expected and crossed.logs["active_share"] == 1


def test_simix_adds_an_image_for_each_pair_of_a_label():
    rows = random_rows(6)
    labels = torch.tensor([2, 0, 2, 2, 5, 0])
    torch.manual_seed(4)
    loss = RecallAtKLoss(simix=True, tau_rank=0.1)
    value, slope = value_and_slope(lambda leaf: loss(leaf, labels), rows)
    torch.manual_seed(4)
    shares = torch.rand(4, 1).double()
    first, second = torch.tensor([0, 0, 1, 2]), torch.tensor([2, 3, 5, 3])

    def by_hand(leaf):
        unit = torch.nn.functional.normalize(leaf)
        table = torch.cat([unit, shares * unit[first] + (1 - shares) * unit[second]])
        everyone = torch.cat([labels, labels[first]])
        others = ~torch.eye(10, dtype=torch.bool)
        cosines, terms = table @ table.T, []
        for anchor in range(10):
            positive = (everyone == everyone[anchor])[others[anchor]]
            if positive.any():
                terms.append(term(loss, cosines[anchor][others[anchor]], positive))
        return torch.stack(terms).mean()

    expected, expected_slope = value_and_slope(by_hand, rows)
    everyone = torch.cat([labels, labels[first]])
    mixed = torch.cat([rows, rows[first]])
    error, [slope_error] = BOUNDS["recall_at_k"](loss, [mixed], everyone, torch.float64, 0)
    assert_within(value, expected, 2 * error)
    assert_within(slope, expected_slope, 2 * slope_error)
    torch.manual_seed(5)
    assert loss(rows, labels) != value
    assert RecallAtKLoss(simix=True)(rows, labels, reference=reference_of(rows)).isfinite()


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: FastApLoss(num_bins=0), "num_bins=0 is outside"),
        (lambda: SmoothApLoss(temperature=0.0), "temperature=0.0 is outside"),
        (lambda: RoadmapLoss(tau=-1.0), "tau=-1.0 is outside"),
        (lambda: RoadmapLoss(pos_margin=2.0), "pos_margin=2.0 is outside"),
        (lambda: RecallAtKLoss(ks=(0, 1)), "ks=0,1 is no list of numbers of columns"),
        (lambda: RecallAtKLoss(ks=()), "ks= is no list"),
        (lambda: RecallAtKLoss(tau_k=math.nan), "tau_k=nan is outside"),
        (lambda: SurrogatePrecisionLoss(k=0), "k=0 is outside"),
    ],
)
def test_options_out_of_range_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.parametrize("name", ORACLES)
def test_a_label_may_fill_most_of_a_batch(name):
    """Positives of uneven number: 40 of one label, 2 of another, some alone; float32 against float64."""
    labels = torch.tensor([0] * 40 + [1, 1, 2, 3])
    rows, loss = random_rows(len(labels), dtype=torch.float32), LOSSES[name]()
    value, slope = value_and_slope(lambda leaf: loss(leaf, labels), rows)
    expected, _ = value_and_slope(lambda leaf: loss(leaf, labels), rows.double())
    error, _ = BOUNDS[name](loss, [rows], labels, torch.float32, 0)
    assert_within(value, expected, error + gamma(1))
    assert slope.isfinite().all() and slope.any()
