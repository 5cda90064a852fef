"""Every registered loss: value and gradient against its oracle, cases by hand, extremes, half precision."""

import copy
import math

import pytest
import torch
from oracles import LOSS_ORACLES, value_and_gradients

from losses import LOSSES, ArcMarginLoss, EmlLoss, NpairsLoss, QuadrupletLoss, SoftmaxLoss, TripletLoss
from losses._shared import unit

FACTS = {"embedding_size": 4, "num_classes": 7}
BATCHES = {
    "shuffled": {"mixed": [3, 0, 6, 3, 1, 5]},
    "triplet": {"two": [5, 5, 2, 2, 2, 5], "four": [1, 1, 0, 0, 0, 1, -8, -8, 1, 2, 2, 3]},
    "pk": {
        "K=2": [4, 4, 1, 1, 0, 0],
        "K=3": [0, 0, 0, 6, 6, 6],
        "K=4, any order": [2, 9, 2, 9, 9, 2, 2, 9],
        "uneven, one alone": [1, 5, 5, 1, 7, 1, -3, -3],
    },
}
CASES = [
    pytest.param(name, labels, id=f"{name} {title}")
    for name in LOSSES.names()
    for title, labels in BATCHES[LOSSES.fact(name, "batch")].items()
]


def make(name, **options):
    return LOSSES[name](**{fact: FACTS[fact] for fact in LOSSES.requirements(name)}, **options)


def random_rows(count, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(count, FACTS["embedding_size"], generator=generator, dtype=torch.float64)).to(dtype)


def assert_equals_oracle(name, embeddings, labels, **options):
    loss = make(name, **options).double()
    embeddings = embeddings.clone().requires_grad_()
    tensors = [embeddings, *loss.parameters()]
    value = loss(embeddings, torch.tensor(labels))
    gradients = torch.autograd.grad(value, tensors)
    matrices = [tensor.detach().reshape(len(tensor), -1).tolist() for tensor in tensors]
    expected, slopes = value_and_gradients(LOSS_ORACLES[name], matrices, labels, options)
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    for tensor, gradient, slope in zip(tensors, gradients, slopes, strict=True):
        slope = torch.tensor(slope, dtype=torch.float64).reshape(tensor.shape)
        torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-10 * (1 + slope.abs().max().item()))


def test_every_loss_has_an_oracle():
    assert set(LOSS_ORACLES) == set(LOSSES.names())


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("name, labels", CASES)
def test_value_and_gradient_equal_the_oracle(name, labels, scale):
    torch.manual_seed(1)
    assert_equals_oracle(name, random_rows(len(labels), scale, seed=len(labels)), labels)


@pytest.mark.parametrize(
    "name, options",
    [
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5}),
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 2.0}),
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5, "arc_easy_margin": True}),
        ("triplet", {"margin": 2.0}),
        ("triplet", {"margin": 0.0}),
        ("quadruplet", {"margin": 1.5}),
        ("eml", {"feature_scale": 0.3}),
        ("npairs", {"npairs_reg_lambda": 3.0}),
        ("npairs", {"feature_scale": 0.5}),
    ],
)
def test_options_reach_the_formula(name, options):
    torch.manual_seed(2)
    labels = list(BATCHES[LOSSES.fact(name, "batch")].values())[-1]
    assert_equals_oracle(name, random_rows(len(labels), seed=5), labels, **options)


def test_arcmargin_takes_both_branches_of_the_oracle():
    loss = ArcMarginLoss(2, 2, arc_scale=1.0, arc_margin=0.5).double()
    cosines = torch.tensor([[0.5], [-0.5], [-0.99]], dtype=torch.float64)
    turned = torch.cos(cosines.arccos() + 0.5)
    turned[2] = cosines[2] - 0.5 * math.sin(0.5)
    torch.testing.assert_close(loss.put_off(cosines), turned, rtol=0, atol=5e-6)
    assert loss.put_off(torch.tensor([[1.00001]])).isfinite()  # rounding can carry a cosine beyond one
    loss.arc_easy_margin = True
    turned[1:] = cosines[1:]
    torch.testing.assert_close(loss.put_off(cosines), turned, rtol=0, atol=5e-6)


def test_values_by_hand():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert TripletLoss(margin=0.1)(square, torch.tensor([1, 1, 0])).item() == 0  # 2 - 4 + 0.1 < 0
    assert TripletLoss(margin=2.5)(square, torch.tensor([1, 1, 0])).item() == pytest.approx(0.5)
    pairs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert QuadrupletLoss(margin=0.1)(pairs, labels).item() == pytest.approx(0.1)  # 2 - 2 + 0.1
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    rows = [(1, 9, 9), (1, 4, 4), (0, 9, 4), (0, 9, 4)]  # squared distances: positive, two negatives
    by_hand = [math.log1p(1e5 * math.exp(p) * (math.exp(-n) + math.exp(-m)) / 2) for p, n, m in rows]
    assert EmlLoss()(line, labels).item() == pytest.approx(sum(by_hand) / 4 / math.log(100001), rel=1e-6)
    products = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    by_hand = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 2 + 0.05 * (1 + 4 + 1 + 9) / 4
    assert NpairsLoss(npairs_reg_lambda=0.1)(products, labels).item() == pytest.approx(by_hand, rel=1e-6)


def test_element_losses_start_from_the_promised_weights():
    softmax, arcmargin = SoftmaxLoss(16, 500), ArcMarginLoss(16, 500)
    assert softmax.weight.shape == arcmargin.weight.shape == (500, 16)
    assert softmax.bias.shape == (500,) and not softmax.bias.any()
    assert 0.24 < softmax.weight.abs().max() <= 0.25 and abs(softmax.weight.mean()) < 0.01
    assert 0.1 < arcmargin.weight.abs().max() <= math.sqrt(6 / 516)


def test_scores_are_linear_or_scaled_cosines():
    embeddings = random_rows(5)
    softmax, arcmargin = SoftmaxLoss(4, 7).double(), ArcMarginLoss(4, 7, arc_scale=10.0).double()
    torch.testing.assert_close(softmax.scores(embeddings), embeddings @ softmax.weight.T + softmax.bias)
    cosines = torch.cosine_similarity(embeddings[:, None], arcmargin.weight, dim=-1)
    torch.testing.assert_close(arcmargin.scores(embeddings), 10 * cosines)


@pytest.mark.parametrize("name", LOSSES.names())
def test_logs_are_detached_finite_figures(name):
    labels = next(iter(BATCHES[LOSSES.fact(name, "batch")].values()))
    loss = make(name)
    assert loss.logs == {}
    loss(random_rows(len(labels), dtype=torch.float32).requires_grad_(), torch.tensor(labels))
    wanted = {"acc1", "acc5"} if LOSSES.fact(name, "stage") == "elem" else {"active_share"}
    assert wanted <= set(loss.logs)
    for figure in loss.logs.values():
        assert figure.ndim == 0 and not figure.requires_grad and figure.isfinite()


def test_logged_figures_by_hand():
    arcmargin = ArcMarginLoss(2, 2, arc_margin=1.0)
    arcmargin.weight.data = torch.eye(2)
    # The second row's cosine to its own class is the larger one, but not after the margin.
    arcmargin(torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 1, 1, 1]))
    assert arcmargin.logs == {"acc1": 0.75, "acc5": 1.0}
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    for loss in (EmlLoss(), QuadrupletLoss()):
        loss(square, labels)
        assert loss.logs["positive_distance"] == pytest.approx(1.0)  # 2 and 0
        assert loss.logs["negative_distance"] == pytest.approx(3.0)  # 4, 4, 2, 2
    eml = EmlLoss()
    eml(torch.tensor([[0.0], [3.0], [4.0], [4.0]]), labels)
    assert eml.logs["active_share"] == 0.25  # only the row at 3 has its positive (9) beyond a negative (1)
    triplet = TripletLoss()
    triplet(torch.cat([square[:3], square[[0, 2, 1]]]), torch.tensor([0, 0, 1, 5, 5, 1]))
    assert triplet.logs == {"active_share": 0.5, "positive_distance": 3.0, "negative_distance": 3.0}
    npairs = NpairsLoss()
    npairs(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), labels)
    assert npairs.logs == {"active_share": 0.5, "positive_similarity": 0.5, "negative_similarity": 0.5}


@pytest.mark.parametrize("labels", BATCHES["pk"].values(), ids=BATCHES["pk"])
@pytest.mark.parametrize("name", LOSSES.names(batch="pk"))
def test_the_order_of_rows_and_the_names_of_labels_do_not_matter(name, labels):
    embeddings, labels, loss = random_rows(len(labels)), torch.tensor(labels), make(name)
    value = loss(embeddings, labels)
    interleaved = torch.tensor([labels[:row].eq(labels[row]).sum() for row in range(len(labels))]).argsort(stable=True)
    orders = [interleaved, labels.argsort(stable=True, descending=True)]  # both keep the order within a label
    if name != "npairs":  # whose anchor is the first image of a label
        orders.append(torch.randperm(len(labels), generator=torch.Generator().manual_seed(3)))
    for order in orders:
        torch.testing.assert_close(loss(embeddings[order], labels[order]), value)
    torch.testing.assert_close(loss(embeddings, labels * 2**60 - 11), value)


def extremes(count):
    direction = random_rows(1)
    signs = torch.ones(count, 1, dtype=torch.float64)
    signs[::2] = -1
    mixed = random_rows(count)
    mixed[0] = 0
    return {
        "zero": torch.zeros(count, FACTS["embedding_size"]),
        "one zero": mixed,
        "identical": direction.expand(count, -1),
        "parallel": direction * torch.arange(1, count + 1)[:, None],
        "opposite": direction * signs,
        "huge": 1e4 * random_rows(count),
        "tiny": 1e-20 * random_rows(count),
    }


@pytest.mark.parametrize("kind", extremes(2))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name, labels", CASES)
def test_values_and_gradients_stay_finite(name, labels, dtype, kind):
    loss = make(name).to(dtype)
    embeddings = extremes(len(labels))[kind].to(dtype).contiguous().requires_grad_()
    if kind == "parallel" and name == "arcmargin":
        loss.weight.data = embeddings.detach()[:1].repeat(FACTS["num_classes"], 1)
    value = loss(embeddings, torch.tensor(labels))
    value.backward()
    for tensor in (value, embeddings.grad, *(parameter.grad for parameter in loss.parameters())):
        assert tensor.isfinite().all()
    assert all(figure.isfinite() for figure in loss.logs.values())


@pytest.mark.parametrize("name, labels", CASES)
def test_half_types_are_computed_in_float32(name, labels):
    loss = make(name)
    exact = random_rows(len(labels), scale=3.0, dtype=torch.bfloat16).float()
    value = copy.deepcopy(loss).double()(exact.double(), torch.tensor(labels)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            embeddings = exact.to(dtype, copy=True).requires_grad_()
            under_autocast = loss(embeddings, torch.tensor(labels))
            under_autocast.backward()
            assert under_autocast.dtype == torch.float32 and embeddings.grad.dtype == dtype
            torch.testing.assert_close(under_autocast, value, rtol=1e-5, atol=1e-5)


def test_zero_rows_have_no_direction_and_no_gradient():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(unit(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    unit(rows).sum().backward()
    assert not rows.grad[1].any() and rows.grad[0].any()


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_option_has_a_help_text(name):
    assert all(option.help for option in LOSSES.options(name))
