"""Every registered loss: value and gradient against its oracle, cases by hand, extremes, half precision."""

import copy
import math

import oracles_classes
import oracles_clip
import oracles_dense
import oracles_ranking
import oracles_siamese
import oracles_triplets
import pytest
import torch
from exact import value_and_gradients
from oracles import LOSS_ORACLES
from tolerances import about, assert_within, cross_entropy, gamma

from losses import LOSSES, ArcMarginLoss, CosFaceLoss, EmlLoss, NpairsLoss, QuadrupletLoss, SoftmaxLoss, TripletLoss
from losses._class_loss import ClassLoss
from losses._unit_vectors import normalise

FACTS = {"embedding_size": 4, "num_classes": 7}
BOUNDS = {
    **oracles_classes.BOUNDS,
    **oracles_clip.BOUNDS,
    **oracles_dense.BOUNDS,
    **oracles_ranking.BOUNDS,
    **oracles_siamese.BOUNDS,
    **oracles_triplets.BOUNDS,
}
FEW_NUMBERS = {"soft_triple": {"centers_per_class": 2}, "subcenter_arcmargin": {"sub_centers": 2}}  # the oracles' work
BATCHES = {
    "shuffled": {"mixed": [3, 0, 6, 3, 1, 5]},
    "triplet": {"two": [5, 5, 2, 2, 2, 5], "four": [1, 1, 0, 0, 0, 1, -8, -8, 1, 2, 2, 3]},
    "siamese_pairs": {"of both kinds": [5, 5, 2, 1, 0, 0], "one": [3, 4], "the same twice": [1, 1, 0, 1, 1, 0, 2, 2]},
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


def bounds(loss, tensors, labels, dtype=torch.float64, tail=math.exp(-20)):
    """(error of a loss's value, [error of its slopes by each tensor]) in `dtype`; tensors: embeddings, class weights.

    Each loss is a mean of hinges or of log-sum-exps of scores, so what counts is how large a score is, and how steep.
    tail: what torch's softplus leaves out, which is linear from 20 on; 0 where both ways leave it out.
    """
    for name, of_family in BOUNDS.items():
        if type(loss) is LOSSES[name]:
            return of_family(loss, tensors, labels, dtype, tail)
    rows, *weights = (tensor.detach().double() for tensor in tensors)
    lengths = rows.norm(dim=1)
    longest, shortest, factor = lengths.max().item(), lengths.min().item(), getattr(loss, "feature_scale", 1.0)
    terms = rows.shape[1] + len(rows) + 20  # a dot product, a mean of the batch, and what else there is to a score
    error = gamma(terms, dtype)
    if weights:
        return class_bounds(loss, rows, *weights, labels=labels, terms=terms, dtype=dtype)
    if isinstance(loss, EmlLoss):  # squared distances as |x|^2 + |y|^2 - 2 x.y
        size = (2 * factor * longest) ** 2 + math.log(1e5)
        value, share = cross_entropy(size, terms, len(rows), dtype)
        tail, slope = tail if size > 20 else 0, 2 * 4 * factor**2 * longest  # as itself, and as a partner
        return (value + tail) / math.log(1e5), [(2 * share + tail) * slope / math.log(1e5)]
    if isinstance(loss, NpairsLoss):
        value, share = cross_entropy((factor * longest) ** 2, terms, len(rows), dtype)
        pull = error * loss.npairs_reg_lambda * longest
        return value + pull * longest / 2, [2 * share * 2 * factor**2 * longest + pull]
    # Two squared distances of unit vectors, up to 4 and of slope 4 / length, and a hinge.
    return error * (8 + loss.margin), [error * 8 / shortest]


def products_in_bfloat16(rows):
    """What `bounds` in float32 is to be multiplied by where products of rows (B, D) and class weights are in bfloat16.

    A product's two factors are rounded and it is itself, which is all that there is to it but for the sum in float32,
    so a score's error is gamma(3) of bfloat16 beside gamma(terms) of float32, of the same size.
    """
    terms = rows.shape[1] + len(rows) + 20
    return 1 + gamma(3, torch.bfloat16) / gamma(terms, torch.float32)


def class_bounds(loss, rows, weight, *others, labels, terms, dtype):
    """What `bounds` says of rows (B, D), class weights (C, D), for softmax its bias (C,), and labels (B,)."""
    own = torch.nn.functional.one_hot(labels, len(weight)).double()
    if others:
        scores, size = rows @ weight.T + others[0], (rows.abs() @ weight.abs().T + others[0].abs()).max().item()
        by_row, by_weight, curve = weight.abs().max(), rows.abs().max(), 0
    else:
        # An own cosine c becomes c cos m - sqrt(1 - c^2 + 1e-6) sin m, which is steep and curved near 1 and -1.
        lengths, sizes = rows.norm(dim=1, keepdim=True), weight.norm(dim=1, keepdim=True)
        cosines = rows / lengths @ (weight / sizes).T
        scale, turn = loss.arc_scale, math.sin(loss.arc_margin)
        sine = (1 - cosines[own > 0].square() + 1e-6).sqrt().min().item()
        scores, size = scale * torch.where(own > 0, loss.add_margin(cosines), cosines), scale * (2 + turn / sine)
        by_row, by_weight = (2 * scale * (1 + turn / sine) / one for one in (lengths, sizes))
        curve = gamma(terms, dtype) * turn / sine**3 / (1 + turn / sine)
    value, share = cross_entropy(size, terms, len(weight), dtype)
    both = (scores.softmax(1) + own) / len(rows)
    if loss.label_smoothing:
        # A sum of all scores besides, and a class gets no more of a row than that.
        value += 2 * gamma(len(weight) + 8, dtype) * size
        both += loss.label_smoothing / len(rows)
    errors = [(share + curve) * part for part in (both.sum(1, True) * by_row, both.sum(0)[:, None] * by_weight)]
    errors = [one.expand_as(table) for one, table in zip(errors, (rows, weight))]
    return value, errors + [(share + curve) * both.sum(0) for _ in others]


def assert_equals_oracle(name, embeddings, labels, **options):
    loss = make(name, **options).double()
    embeddings = embeddings.clone().requires_grad_()
    tensors = [embeddings, *loss.parameters()]
    value = loss(embeddings, torch.tensor(labels))
    gradients = torch.autograd.grad(value, tensors)
    matrices = [tensor.detach().reshape(len(tensor), -1).tolist() for tensor in tensors]
    expected, slopes = value_and_gradients(LOSS_ORACLES[name], matrices, labels, options)
    value_error, errors = bounds(loss, tensors, torch.tensor(labels))
    assert_within(value, expected, value_error)
    for tensor, gradient, slope, error in zip(tensors, gradients, slopes, errors, strict=True):
        assert_within(gradient, torch.tensor(slope, dtype=torch.float64).reshape(tensor.shape), error)


def test_every_loss_has_an_oracle():
    assert set(LOSS_ORACLES) == set(LOSSES.names())


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("name, labels", CASES)
def test_value_and_gradient_equal_the_oracle(name, labels, scale):
    torch.manual_seed(1)
    options = FEW_NUMBERS.get(name, {})
    assert_equals_oracle(name, random_rows(len(labels), scale, seed=len(labels)), labels, **options)


@pytest.mark.parametrize(
    "name, options",
    [
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5}),
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 2.0}),
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5, "arc_easy_margin": True}),
        ("siamese", {"margin": 9.0, "eps": 0.25}),
        ("clip", {"temperature": 0.5, "same_label": "positive"}),
        ("clip", {"learn_temperature": False, "same_label": "negative"}),
        ("clip", {"temperature": 0.015}),
        ("triplet", {"margin": 2.0}),
        ("triplet", {"margin": 0.0}),
        ("quadruplet", {"margin": 1.5}),
        ("eml", {"feature_scale": 0.3}),
        ("npairs", {"npairs_reg_lambda": 3.0}),
        ("npairs", {"feature_scale": 0.5}),
        ("softmax", {"label_smoothing": 0.2}),
        ("arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5, "label_smoothing": 0.3}),
        ("cosface", {"margin": 0.2, "scale": 5.0, "label_smoothing": 0.1}),
        ("norm_softmax", {"temperature": 0.5}),
        ("proxy_nca", {"softmax_scale": 4.0}),
        ("proxy_anchor", {"alpha": 5.0, "margin": 0.4}),
        ("subcenter_arcmargin", {"arc_scale": 5.0, "arc_margin": 0.5, "sub_centers": 2, "label_smoothing": 0.1}),
        ("mlp_arcmargin", {"arc_scale": 5.0, "mlp_features": (3,)}),
        ("soft_triple", {"centers_per_class": 2, "la": 5.0, "gamma": 0.5, "margin": 0.2, "tau": 0.3}),
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
    # sqrt(s^2 + 1e-6) is at most 1e-6 / 2 s larger than the sine s, which is taken sin m times.
    shift = 0.5e-6 / (1 - cosines.square()).sqrt() * math.sin(0.5) + gamma(20)
    assert_within(loss.add_margin(cosines), turned, shift)
    assert loss.add_margin(torch.tensor([[1.00001]])).isfinite()  # rounding can carry a cosine beyond one
    loss.arc_easy_margin = True
    turned[1:] = cosines[1:]
    assert_within(loss.add_margin(cosines), turned, shift)


def test_values_by_hand():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert TripletLoss(margin=0.1)(square, torch.tensor([1, 1, 0])).item() == 0  # 2 - 4 + 0.1 < 0
    assert TripletLoss(margin=2.5)(square, torch.tensor([1, 1, 0])).item() == about(0.5, 12, torch.float32, 8.5)
    pairs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert QuadrupletLoss(margin=0.1)(pairs, labels).item() == about(0.1, 12, torch.float32, 8.1)  # 2 - 2 + 0.1
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    rows = [(1, 9, 9), (1, 4, 4), (0, 9, 4), (0, 9, 4)]  # squared distances: positive, two negatives
    by_hand = [math.log1p(1e5 * math.exp(p) * (math.exp(-n) + math.exp(-m)) / 2) for p, n, m in rows]
    scores = 9 + 9 + math.log(1e5)  # what a row's exponents add up to
    assert EmlLoss()(line, labels).item() == about(sum(by_hand) / 4 / math.log(100001), 30, torch.float32, scores / 11)
    products = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    by_hand = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 2 + 0.05 * (1 + 4 + 1 + 9) / 4
    assert NpairsLoss(npairs_reg_lambda=0.1)(products, labels).item() == about(by_hand, 20, torch.float32, 6)


def test_element_losses_start_from_the_promised_weights():
    softmax, arcmargin = SoftmaxLoss(16, 500), ArcMarginLoss(16, 500)
    assert softmax.weight.shape == arcmargin.weight.shape == (500, 16)
    assert softmax.bias.shape == (500,) and not softmax.bias.any()
    assert 0.24 < softmax.weight.abs().max() <= 0.25
    assert_within(softmax.weight.mean(), 0, 5 * 0.25 / math.sqrt(3 * 16 * 500))  # five deviations of a mean of draws
    assert 0.1 < arcmargin.weight.abs().max() <= math.sqrt(6 / 516)


def test_scores_are_linear_or_scaled_cosines():
    embeddings = random_rows(5)
    softmax, arcmargin = SoftmaxLoss(4, 7).double(), ArcMarginLoss(4, 7, arc_scale=10.0).double()
    sizes = embeddings.abs() @ softmax.weight.abs().T + softmax.bias.abs()
    assert_within(softmax.scores(embeddings), embeddings @ softmax.weight.T + softmax.bias, 2 * gamma(5) * sizes)
    cosines = torch.cosine_similarity(embeddings[:, None], arcmargin.weight, dim=-1)
    assert_within(arcmargin.scores(embeddings), 10 * cosines, 10 * 2 * gamma(3 * 4 + 4))


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
        assert loss.logs["positive_distance"] == about(1.0, 20, torch.float32, 4)  # 2 and 0
        assert loss.logs["negative_distance"] == about(3.0, 20, torch.float32, 4)  # 4, 4, 2, 2
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
    value, error = loss(embeddings, labels), 2 * bounds(loss, [embeddings], labels, tail=0)[0]
    interleaved = torch.tensor([labels[:row].eq(labels[row]).sum() for row in range(len(labels))]).argsort(stable=True)
    orders = [interleaved, labels.argsort(stable=True, descending=True)]  # both keep the order within a label
    if name != "npairs":  # whose anchor is the first image of a label
        orders.append(torch.randperm(len(labels), generator=torch.Generator().manual_seed(3)))
    for order in orders:
        assert_within(loss(embeddings[order], labels[order]), value, error)
    assert_within(loss(embeddings, labels * 2**60 - 11), value, error)


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
    if kind == "parallel" and loss.__class__ in (ArcMarginLoss, CosFaceLoss):
        loss.weight.data = embeddings.detach()[:1].repeat(FACTS["num_classes"], 1)
    value = loss(embeddings, torch.tensor(labels))
    value.backward()
    for tensor in (value, embeddings.grad, *(parameter.grad for parameter in loss.parameters())):
        assert tensor.isfinite().all()
    assert all(figure.isfinite() for figure in loss.logs.values())


@pytest.mark.parametrize("name, labels", CASES)
def test_half_types_are_computed_in_float32(name, labels):
    """But for the scores of class weights, which are products in autocast's type."""
    loss = make(name)
    exact = random_rows(len(labels), scale=3.0, dtype=torch.bfloat16).float()
    value = copy.deepcopy(loss).double()(exact.double(), torch.tensor(labels))
    error, _ = bounds(loss, [exact, *loss.parameters()], torch.tensor(labels), torch.float32)
    if isinstance(loss, ClassLoss):
        error *= products_in_bfloat16(exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            embeddings = exact.to(dtype, copy=True).requires_grad_()
            under_autocast = loss(embeddings, torch.tensor(labels))
            under_autocast.backward()
            assert under_autocast.dtype == torch.float32 and embeddings.grad.dtype == dtype
            assert_within(under_autocast, value, error)


def test_zero_rows_have_no_direction_and_no_gradient():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    assert_within(normalise(rows), [[0.6, 0.8], [0.0, 0.0]], gamma(6, torch.float32))
    normalise(rows).sum().backward()
    assert not rows.grad[1].any() and rows.grad[0].any()


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_option_has_a_help_text(name):
    assert all(option.help for option in LOSSES.options(name))
