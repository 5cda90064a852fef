"""Losses over all pairs of a batch: options, a memory's rows, chosen pairs, blocks and bands, figures by hand."""

import math
from decimal import Decimal

import oracles_dense
import pytest
import torch
from exact import value_and_gradients
from test_losses import assert_equals_oracle, random_rows
from tolerances import about, assert_within, gamma

from core.errors import InputError
from losses import LOSSES, ContrastiveLoss, MarginLoss, MultiSimilarityLoss, SupConLoss, _pair_rows, _rows
from losses._mined import Pairs, Reference
from losses._pair_distances import pair_counts

NAMES = sorted(oracles_dense.ORACLES)
LABELS = torch.tensor([1, 5, 5, 1, 7, 1, -3, -3])
OTHERS = torch.tensor([5, 5, 1, 7, 0])


def slope(loss, rows, **further):
    rows = rows.clone().requires_grad_()
    value = loss(rows, LABELS, **further)
    return value.detach(), torch.autograd.grad(value, rows)[0]


def reference(images=(90, 91, 92, 93, 94)):
    batch_images = torch.arange(len(LABELS))
    return Reference(random_rows(len(OTHERS), seed=11), OTHERS, torch.tensor(images), batch_images)


def no_pairs():
    return Pairs(*torch.zeros(4, 0, dtype=torch.int64))


def all_pairs():
    same = LABELS[:, None] == LABELS
    return Pairs(*(same & ~torch.eye(len(LABELS), dtype=torch.bool)).nonzero().T, *(~same).nonzero().T)


@pytest.mark.parametrize(
    "name, options",
    [
        ("contrastive", {"margin": 9.0}),
        ("contrastive", {"eps": 0.3}),
        ("contrastive", {"normalise": True, "margin": 1.5}),
        ("multi_similarity", {"alpha": 5.0, "beta": 3.0, "base": -0.2}),
        ("multi_similarity", {"beta": 500.0}),
        ("circle", {"m": 0.25, "gamma": 256.0}),
        ("supcon", {"temperature": 0.02}),
        ("margin", {"margin": 0.5, "beta": 0.7}),
        ("lifted_structure", {"neg_margin": 2.0, "pos_margin": 0.5}),
        ("ranked_list", {"margin": 0.3, "Tn": 30.0, "imbalance": 0.2, "alpha": 1.4, "Tp": 5.0}),
    ],
)
def test_options_reach_the_formula(name, options):
    assert_equals_oracle(name, random_rows(len(LABELS), seed=5), LABELS.tolist(), **options)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_memory_are_columns_without_a_slope(name):
    loss, rows, memory = LOSSES[name](), random_rows(len(LABELS), seed=8), reference()
    memory.embeddings.requires_grad_()
    value, gradient = slope(loss, rows, reference=memory)
    assert memory.embeddings.grad is None
    others = [[Decimal(number) for number in row] for row in memory.embeddings.tolist()]
    options = {"others": list(zip(others, OTHERS.tolist(), strict=True))}
    expected, slopes = value_and_gradients(oracles_dense.ORACLES[name], [rows.tolist()], LABELS.tolist(), options)
    everything = torch.cat([rows, memory.embeddings])
    labels = torch.cat([LABELS, OTHERS])
    error, [slope_error] = oracles_dense.BOUNDS[name](loss, [everything], labels, torch.float64, math.exp(-20))
    assert_within(value, expected, error)
    assert_within(gradient, slopes[0], slope_error)
    assert all(figure.isfinite() for figure in loss.logs.values())


@pytest.mark.parametrize("name", NAMES)
def test_an_older_embedding_of_the_same_image_is_no_pair(name):
    """The memory's third row, of label 1, shows the image of the batch's first row and takes part with other rows."""
    rows, memory = random_rows(len(LABELS), seed=8), reference(images=(90, 91, 0, 93, 94))
    memory.embeddings[2] = -rows[0]  # the farthest positive that there could be
    same = torch.cat([LABELS, OTHERS]) == LABELS[:, None]
    others = torch.ones_like(same)
    others[:, : len(LABELS)].fill_diagonal_(False)
    others[0, len(LABELS) + 2] = False
    pairs = Pairs(*(same & others).nonzero().T, *(~same & others).nonzero().T)
    value, gradient = slope(LOSSES[name](), rows, reference=memory)
    if name == "contrastive":  # which takes a pair of the batch once, and from both ends if a miner says so
        earlier = [pairs.positive_anchors < pairs.positives, pairs.negative_anchors < pairs.negatives]
        pairs = Pairs(*(numbers[earlier[index // 2]] for index, numbers in enumerate(pairs)))
    expected, slopes = slope(LOSSES[name](), rows, reference=memory, mined=pairs)
    bound = gamma(100) * 100
    assert_within(value, expected, bound)
    assert_within(gradient, slopes, bound * (1 + slopes.abs().max()))
    far, _ = slope(LOSSES[name](), rows, reference=memory._replace(images=memory.images + 90))
    assert abs(far - value) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_all_pairs_given_are_all_pairs(name):
    rows, loss = random_rows(len(LABELS), seed=8), LOSSES[name]()
    value, gradient = slope(loss, rows)
    figures = dict(loss.logs)
    again, slopes = slope(loss, rows, mined=all_pairs())
    bound = gamma(100) * 100
    assert_within(again, value, bound)
    assert_within(slopes, gradient, bound * (1 + gradient.abs().max()))
    for figure, logged in loss.logs.items():
        assert_within(logged, figures[figure], bound)


@pytest.mark.parametrize("name", NAMES)
def test_no_pairs_given_are_worth_nothing(name):
    """A miner may find none, and then the batch need not have any either."""
    rows, loss = random_rows(len(LABELS), seed=8).requires_grad_(), LOSSES[name]()
    for labels in (LABELS, torch.arange(len(LABELS)), torch.zeros_like(LABELS)):
        value = loss(rows, labels, mined=no_pairs())
        (gradient,) = torch.autograd.grad(value, rows)
        assert value == 0 and not gradient.any()
        assert all(figure.isfinite() for figure in loss.logs.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_kind_of_pairs_alone_is_finite(name):
    rows, pairs, none = random_rows(len(LABELS), seed=8), all_pairs(), torch.zeros(0, dtype=torch.int64)
    for kind in (Pairs(*pairs[:2], none, none), Pairs(none, none, *pairs[2:])):
        value, gradient = slope(LOSSES[name](), rows, mined=kind)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    "further", [{}, {"reference": reference()}, {"mined": all_pairs()}], ids=["", "memory", "mined"]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_blocks_and_bands_is_the_batch(name, further, monkeypatch):
    rows = random_rows(len(LABELS), seed=8)
    value, gradient = slope(LOSSES[name](), rows, **further)
    monkeypatch.setattr(_rows, "TILE", 3)
    bound = gamma(100) * 100
    for block, held in ((30, 2**24), (30, 45), (1, 1)):
        monkeypatch.setattr(_pair_rows, "BLOCK", block)
        monkeypatch.setattr(_rows, "HELD", held)
        again, slopes = slope(LOSSES[name](), rows, **further)
        assert_within(again, value, bound)
        assert_within(slopes, gradient, bound * (1 + gradient.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_for_without_a_gradient(name):
    rows = random_rows(len(LABELS), seed=8)
    with torch.no_grad():
        value = LOSSES[name]()(rows, LABELS)
    assert_within(value, slope(LOSSES[name](), rows)[0], gamma(100) * 100)


@pytest.mark.parametrize("name", NAMES)
def test_a_memory_of_other_types(name):
    memory = reference()._replace(embeddings=random_rows(len(OTHERS), seed=11).half(), labels=OTHERS.int())
    rows = random_rows(len(LABELS), seed=8).half().requires_grad_()
    value = LOSSES[name]()(rows, LABELS, reference=memory)
    value.backward()
    assert value.dtype == torch.float32 and rows.grad.dtype == torch.float16 and rows.grad.isfinite().all()


@pytest.mark.parametrize(
    "name, options",
    [
        ("contrastive", {"margin": -0.1}),
        ("contrastive", {"eps": math.nan}),
        ("multi_similarity", {"alpha": 0}),
        ("multi_similarity", {"beta": math.inf}),
        ("multi_similarity", {"base": 1.5}),
        ("circle", {"m": 2}),
        ("circle", {"gamma": 0}),
        ("supcon", {"temperature": 0}),
        ("margin", {"beta": -1}),
        ("lifted_structure", {"neg_margin": math.inf}),
        ("ranked_list", {"imbalance": 2}),
        ("ranked_list", {"Tn": -1}),
        ("ranked_list", {"alpha": -0.5}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    [(option, value)] = options.items()
    with pytest.raises(InputError, match=f"{option}={value} is outside"):
        LOSSES[name](**options)


def test_values_by_hand():
    line = torch.tensor([[0.0], [2.0], [0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    # Squared distances 4 (positive), 0.25 and 2.25 (negatives, the latter beyond the margin).
    assert ContrastiveLoss(eps=0)(line, labels).item() == about((4 + 0.75**2) / 3, 20, size=16)
    # Cosines of 1 and, with the third row, of 0: 30 logarithms of two terms.
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    pull, push = math.log1p(math.exp(-1)) / 2, math.log1p(math.exp(-25)) / 50
    far = math.log1p(2 * math.exp(-25)) / 50
    assert MultiSimilarityLoss()(rows, labels).item() == about((2 * (pull + push) + far) / 3, 40, size=25)
    assert SupConLoss(temperature=1.0)(rows, labels).item() == about(math.log1p(math.exp(-1)), 40, size=2)
    # Distances 0, sqrt 2 and sqrt 2: two triplets, of whose terms none is above zero with a boundary of 1.
    assert MarginLoss(beta=1.0)(rows, labels).item() == 0
    # Both negatives are within 1.5 + 0.2.
    assert MarginLoss(beta=1.5)(rows, labels).item() == about(1.7 - math.sqrt(2), 60, size=4)


def test_logged_figures_by_hand():
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("multi_similarity", "circle", "supcon"):
        loss = LOSSES[name]()
        loss(rows, labels)
        assert loss.logs["positive_similarity"] == about(0.0, 40, size=1)  # 1 and -1
        assert loss.logs["negative_similarity"] == 0
        assert 0 <= loss.logs["active_share"] <= 1
    assert loss.logs["active_share"] == 0.5  # of supcon: the second label's rows are nearer to the first's
    for name in ("margin", "lifted_structure", "ranked_list"):
        loss = LOSSES[name]()
        loss(rows, labels)
        assert loss.logs["positive_distance"] == about(2.0, 40, size=16)  # squared: 0 and 4
        assert loss.logs["negative_distance"] == about(2.0, 40, size=16)
        assert 0 <= loss.logs["active_share"] <= 1


def test_contrastive_of_pairs():
    first = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0, 2.0], [0.5, 0.0], [3.0, 0.0]], dtype=torch.float64)
    loss = ContrastiveLoss(1.0, eps=0)
    value = loss.of_pairs(first, second, torch.tensor([1, 0, 0]))
    assert value.item() == about((5 + 0.75**2) / 3, 20, size=5)
    assert loss.logs == {"active_share": 0.5, "positive_distance": 5.0, "negative_distance": (0.25 + 9) / 2}
    value.backward()
    # 2 (x - y) of the positive, -2 (1 - d^2) 2 (x - y) of the negative within the margin, over 3 pairs.
    assert_within(first.grad, [[-2 / 3, -4 / 3], [2 * 0.75 * 2 * 0.5 / 3, 0], [0, 0]], gamma(20) * 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss.of_pairs(first.half(), second.half(), torch.tensor([True, False, False])).dtype == torch.float32
    unit = ContrastiveLoss(normalise=True).of_pairs(second, 2 * second, torch.ones(3))
    assert_within(unit, 0, gamma(20) * 4)


@pytest.mark.parametrize(
    "shapes, sentence",
    [
        (((3, 2), (3, 4), (3,)), r"\(3, 2\) and \(3, 4\) with targets \(3,\)"),
        (((3, 2), (3, 2), (3, 1)), r"with targets \(3, 1\); the loss takes \(P, D\), \(P, D\) and \(P,\)"),
        (((3,), (3,), (3,)), r"shape \(3,\); a loss takes \(B, D\)"),
    ],
)
def test_pairs_of_other_shapes_are_refused(shapes, sentence):
    with pytest.raises(InputError, match=sentence):
        ContrastiveLoss().of_pairs(*(torch.zeros(shape) for shape in shapes))


def test_contrastive_takes_a_pair_of_the_batch_once():
    rows = random_rows(len(LABELS), seed=8)
    first, second = torch.triu_indices(len(LABELS), len(LABELS), 1)
    loss = ContrastiveLoss(margin=20.0)
    expected = loss.of_pairs(rows[first], rows[second], LABELS[first] == LABELS[second])
    figures = dict(loss.logs)
    assert_within(loss(rows, LABELS), expected, gamma(100) * 500)
    for figure, logged in loss.logs.items():
        assert_within(logged, figures[figure], gamma(100) * 50)
    positives, negatives = pair_counts(LABELS)
    assert len(first) * 2 == positives.sum() + negatives.sum()
