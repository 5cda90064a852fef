"""The class head in chunks: values, gradients and shares as of the plain formula, whatever the chunk."""

import copy
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from test_losses import bounds, products_in_bfloat16
from test_shards import Threads
from tolerances import about, assert_within, gamma, share_error

from core.errors import InputError
from data.records import Records
from distributed.sharded_classes import is_of_layers
from engine.objective import tell_labels
from losses import LOSSES, SoftmaxLoss
from losses._class_loss import margins_by_frequency
from losses._class_scores import CHUNK, ClassShard, sample_classes

ROWS, CLASSES, WIDTH = 9, 23, 6
CHUNKS = ["auto", "1", "4", "22", "23", "100"]
# Names of losses with options that let every part of a formula count; categories and counts are given to all.
KINDS = {
    "softmax": ("softmax", {}),
    "softmax, smoothed": ("softmax", {"label_smoothing": 0.3}),
    "arcmargin": ("arcmargin", {"arc_scale": 7.0, "arc_margin": 0.4}),
    "arcmargin, easy": ("arcmargin", {"arc_scale": 7.0, "arc_margin": 0.4, "arc_easy_margin": True}),
    "arcmargin, smoothed": ("arcmargin", {"arc_scale": 7.0, "label_smoothing": 0.2, "smooth_within_category": True}),
    "arcmargin, dynamic": ("arcmargin", {"arc_scale": 7.0, "dynamic_margin": True}),
    "cosface": ("cosface", {"scale": 7.0, "dynamic_margin": True, "label_smoothing": 0.1}),
    "norm_softmax": ("norm_softmax", {"temperature": 0.2}),
    "subcenter_arcmargin": ("subcenter_arcmargin", {"arc_scale": 7.0, "arc_margin": 0.4, "label_smoothing": 0.1}),
    "mlp_arcmargin": ("mlp_arcmargin", {"arc_scale": 7.0, "mlp_features": (5, WIDTH)}),
    "proxy_anchor": ("proxy_anchor", {"alpha": 7.0}),
    "proxy_nca": ("proxy_nca", {"softmax_scale": 3.0, "label_smoothing": 0.2, "smooth_within_category": True}),
    "soft_triple": ("soft_triple", {"centers_per_class": 4, "la": 7.0, "gamma": 0.3, "margin": 0.2, "tau": 0.3}),
}
SAMPLED = [kind for kind in KINDS if kind != "soft_triple"]  # whose regulariser is over all classes


def make(kind, classes=CLASSES, dtype=torch.float64, **options):
    torch.manual_seed(0)
    name, own = KINDS[kind]
    loss = LOSSES[name](embedding_size=WIDTH, num_classes=classes, **{**own, **options})
    if name == "softmax":
        torch.nn.init.normal_(loss.bias)
    loss.to(dtype)
    loss.set_labels(1 + torch.arange(classes) % 7, torch.arange(classes) % 4)
    return loss


def plain(loss, embeddings, labels):
    """All scores at once, with autograd: (loss, acc1, acc5)."""
    own = F.one_hot(labels, len(loss.weight)).bool()
    if loss.layers is not None:
        embeddings = loss.layers(embeddings)
    if hasattr(loss, "bias"):
        shares = scores = embeddings @ loss.weight.T + loss.bias
    else:
        shares = torch.einsum("bd,c...d->bc...", F.normalize(embeddings), F.normalize(loss.weight, dim=-1))
        if hasattr(loss, "gamma"):
            shares = ((shares / loss.gamma).softmax(2) * shares).sum(2)
        elif shares.ndim == 3:
            shares = shares.amax(2)
        scores = with_margin(loss, shares, own, labels)
    best = shares.topk(5, 1).indices == labels[:, None]
    found = best[:, 0].double().mean(), best.any(1).double().mean()
    if hasattr(loss, "alpha"):
        return proxy_anchor(loss, shares, own), *found
    if loss.smooth_within_category:
        alike = (loss.label_categories == loss.label_categories[labels][:, None]).double()
        target = own.double() * (1 - loss.label_smoothing) + loss.label_smoothing * alike / alike.sum(1, True)
        return -(target * scores.log_softmax(1)).sum(1).mean(), *found
    value = F.cross_entropy(scores, labels, label_smoothing=loss.label_smoothing)
    if getattr(loss, "tau", 0):
        directions = F.normalize(loss.weight, dim=2)
        distances = (2 - 2 * directions @ directions.mT + 1e-5).sqrt().triu(1)
        pairs = len(directions) * loss.centers_per_class * (loss.centers_per_class - 1)
        value = value + loss.tau * distances.sum() / pairs
    return value, *found


def with_margin(loss, cosines, own, labels):
    """The scores of the loss (B, C), its margin on the own cosines."""
    if hasattr(loss, "arc_margin"):
        margin = loss.margin_of(labels, loss.arc_margin)
        if loss.dynamic_margin:
            margin = margin[:, None]
        return loss.arc_scale * torch.where(own, loss.add_margin(cosines, margin), cosines)
    margin = getattr(loss, "margin", 0.0)
    if loss.dynamic_margin:
        margin = loss.label_margins[labels][:, None]
    names = {"scale": 1, "la": 1, "softmax_scale": 2}
    scale = next((factor * getattr(loss, name) for name, factor in names.items() if hasattr(loss, name)), 1)
    return (cosines - own.to(cosines.dtype) * margin) * scale / getattr(loss, "temperature", 1)


def proxy_anchor(loss, cosines, own):
    def terms(exponents, rows):
        return exponents.masked_fill(~rows, -torch.inf).exp().sum(0).log1p()

    pulls = terms(-loss.alpha * (cosines - loss.margin), own).sum() / own.any(0).sum()
    return pulls + terms(loss.alpha * (cosines + loss.margin), ~own).mean()


def assert_alike(loss, tensors, labels, values, slopes, factor=1):
    """Two ways to the loss of embeddings and weights: two values, two lists of slopes of `factor` times the loss."""
    error, errors = bounds(loss, tensors, labels, tensors[0].dtype)
    assert_within(*values, 2 * error)
    for one, other, error in zip(*slopes, errors, strict=True):
        assert_within(one, other, 2 * factor * error)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_equal_the_plain_formula(kind, chunk):
    loss = make(kind, chunk_classes=chunk)
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 22, 5, 5, 3, 4, 21, 8, 0])
    with torch.no_grad():
        towards = loss.weight[labels[:4]]
        embeddings[:4] += 2 * (towards if towards.ndim == 2 else towards[:, 0])
    expected, acc1, acc5 = plain(loss, embeddings, labels)
    tensors = [embeddings, *loss.parameters()]
    slopes = torch.autograd.grad(3 * expected, tensors)
    value = loss(embeddings, labels)
    found = torch.autograd.grad(3 * value, tensors)
    assert_alike(loss, tensors, labels, (value, expected), (found, slopes), factor=3)
    shares = [loss.logs[name].item() for name in ("acc1", "acc5")]
    assert shares == about([acc1.item(), acc5.item()], ROWS, torch.float32)
    assert (0 < acc1 < acc5 < 1) or loss.layers is not None


@pytest.mark.parametrize("kind", KINDS)
def test_more_classes_than_a_chunk_in_float32(kind):
    loss = make(kind, CHUNK + 300, dtype=torch.float32)
    embeddings, labels = torch.randn(5, WIDTH, requires_grad=True), torch.tensor([0, CHUNK - 1, CHUNK, CHUNK + 299, 7])
    tensors = [embeddings, *loss.parameters()]
    values = loss(embeddings, labels), plain(loss, embeddings, labels)[0]
    assert_alike(loss, tensors, labels, values, [torch.autograd.grad(value, tensors) for value in values])


@pytest.mark.parametrize("chunk", ["auto", "4"])
@pytest.mark.parametrize("kind", ["arcmargin", "subcenter_arcmargin", "proxy_anchor"])
def test_a_second_pass_through_the_same_graph(kind, chunk):
    loss = make(kind, chunk_classes=chunk)
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels, tensors = torch.arange(ROWS), [embeddings, loss.weight]
    value = loss(embeddings, labels)
    slopes = [torch.autograd.grad(value, tensors, retain_graph=again) for again in (True, False)]
    assert_alike(loss, tensors, labels, (value, value), slopes)


def test_large_scores_neither_overflow_nor_vanish():
    loss = SoftmaxLoss(2, 4, "2")
    loss.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    embeddings = torch.tensor([[1e4, -1e4], [-1e4, 0.0]], requires_grad=True)
    value = loss(embeddings, torch.tensor([1, 0]))
    value.backward()
    assert value.item() == about((2e4 + 2e4) / 2, 12, torch.float32)
    assert embeddings.grad.isfinite().all() and loss.weight.grad.isfinite().all()


def test_an_equal_score_counts_as_better():
    loss = SoftmaxLoss(2, 8)
    loss(torch.zeros(3, 2), torch.tensor([0, 1, 7]))
    assert loss.logs == {"acc1": 0.0, "acc5": 0.0}  # all classes score alike: nothing has been recognised


@pytest.mark.parametrize("chunk", ["0", "-3", "some", "1.5", ""])
def test_what_is_no_chunk(chunk):
    with pytest.raises(InputError, match="chunk_classes"):
        SoftmaxLoss(2, 3, chunk)


@pytest.mark.parametrize("kind", SAMPLED)
def test_sampled_classes_alone_take_part(kind):
    """As the plain formula on the rows that were drawn; the others get no gradient."""
    loss = make(kind)
    loss.class_sample_rate = 0.5
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 22, 5, 5, 3, 4, 21, 8, 0])
    torch.manual_seed(4)
    chosen = sample_classes(labels, CLASSES, 0.5)
    assert len(chosen) == 12 and set(labels.tolist()) < set(chosen.tolist())
    few = make(kind, classes=12)
    layers = {} if loss.layers is None else {id(parameter) for parameter in loss.layers.parameters()}
    with torch.no_grad():
        for parameter, whole in zip(few.parameters(), loss.parameters()):
            parameter.copy_(whole if id(whole) in layers else whole[chosen])
    if loss.dynamic_margin:
        few.label_margins = loss.label_margins[chosen]
    if loss.smooth_within_category:
        few.label_categories = loss.label_categories[chosen]
    expected, *_ = plain(few, embeddings, torch.searchsorted(chosen, labels))
    slopes = torch.autograd.grad(expected, [embeddings, *few.parameters()])
    torch.manual_seed(4)
    value = loss(embeddings, labels)
    found = torch.autograd.grad(value, [embeddings, *loss.parameters()])
    tables = [id(parameter) not in layers for parameter in loss.parameters()]
    own = [found[0], *(one[chosen] if is_table else one for one, is_table in zip(found[1:], tables))]
    places = torch.searchsorted(chosen, labels)
    assert_alike(few, [embeddings, *few.parameters()], places, (value, expected), (own, slopes))
    for one in (one for one, is_table in zip(found[1:], tables) if is_table):
        left_out = torch.ones(CLASSES, dtype=torch.bool).index_fill(0, chosen, False)
        assert left_out.sum() == 11 and (one[left_out] == 0).all()


def test_every_class_is_drawn_now_and_then_and_the_batchs_always():
    labels = torch.tensor([3, 3, 7])
    draws = [sample_classes(labels, 20, 0.25) for _ in range(200)]
    counts = torch.bincount(torch.cat(draws), minlength=20)
    assert all(len(draw) == 5 for draw in draws) and counts[3] == counts[7] == 200
    others = counts[[i for i in range(20) if i not in (3, 7)]]
    assert_within(others / 200, 3 / 18, share_error(3 / 18, 200))
    assert sample_classes(torch.arange(20), 20, 0.1).tolist() == list(range(20))


@pytest.mark.parametrize("name", LOSSES.names(stage="elem"))
@pytest.mark.parametrize("classes", [7, CHUNK, 2 * CHUNK + 3])
def test_a_shard_begins_with_the_rows_of_the_whole(name, classes):
    """And leaves the random numbers where the whole does; layers in front of the class weights are whole."""
    kind = LOSSES[name]
    torch.manual_seed(5)
    whole, after = kind(WIDTH, classes), torch.rand(3)
    for number in (1, 2, 3, 7):
        for rank in range(number):
            rows = slice(classes * rank // number, classes * (rank + 1) // number)
            torch.manual_seed(5)
            sharded = kind.sharded(rows, None, None, embedding_size=WIDTH, num_classes=classes)
            assert torch.equal(torch.rand(3), after)
            assert sharded.shard.start == rows.start and sharded.shard.classes == classes
            for table, parameter in whole.named_parameters():
                expected = parameter if is_of_layers(table) else parameter[rows]
                assert torch.equal(dict(sharded.named_parameters())[table], expected)


def shards_of(kind, count, **options):
    """The loss in `count` shards that are run in turn: sums over the ranks are made of what all have handed over."""
    whole = make(kind, **options)
    shards = []
    for rank in range(count):
        rows = slice(CLASSES * rank // count, CLASSES * (rank + 1) // count)
        shard = copy.deepcopy(whole)
        for name, parameter in list(shard.named_parameters(recurse=False)):
            setattr(shard, name, torch.nn.Parameter(parameter.detach()[rows].clone()))
        shards.append((shard, rows))
    return whole, shards


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_equal_the_whole(kind, rate):
    """Three shards in three threads, one of them without any label of the batch."""
    whole, shards = shards_of(kind, 3, class_sample_rate=rate)
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 6, 5, 5, 3, 4, 21, 18, 0])
    torch.manual_seed(4)
    drawn = torch.rand(CLASSES)
    ranks = Threads(len(shards))

    def work(rank):
        loss, rows = shards[rank]
        _, all_reduce_sum, all_reduce_max = ranks.collectives(rank)
        loss.shard = ClassShard(rows.start, CLASSES, all_reduce_sum, all_reduce_max)
        own = embeddings.detach().clone().requires_grad_()
        value = loss(own, labels)
        return value, torch.autograd.grad(value, [own, *loss.parameters()]), loss.logs

    with mock.patch.object(torch, "rand", lambda count: drawn):
        value = whole(embeddings, labels)
        with ThreadPoolExecutor(len(shards)) as pool:
            found = list(pool.map(work, range(len(shards))))
    tensors = [embeddings, *whole.parameters()]
    slopes = torch.autograd.grad(value, tensors)
    names = ["", *(name for name, _ in whole.named_parameters())]
    for rank_value, _, logs in found:
        assert_within(rank_value, value, 2 * bounds(whole, tensors, labels)[0])
        assert logs == whole.logs
    for number, (name, slope, error) in enumerate(zip(names, slopes, bounds(whole, tensors, labels)[1], strict=True)):
        parts = [own[number] for _, own, _ in found]
        if name in ("weight", "bias"):
            assert_within(torch.cat(parts), slope, 2 * error)
        else:
            for part in parts:
                assert_within(part, slope, 2 * error)


@pytest.mark.parametrize("chunk", ["auto", "4"])
@pytest.mark.parametrize("kind", ["softmax", "arcmargin", "subcenter_arcmargin", "proxy_anchor"])
def test_products_in_bfloat16(kind, chunk):
    """Whole and in shards as in float64, by what three roundings of a product allow; gradients are float32's."""
    whole, shards = shards_of(kind, 3, dtype=torch.float32, chunk_classes=chunk)
    embeddings = torch.randn(ROWS, WIDTH)
    labels = torch.tensor([0, 6, 5, 5, 3, 4, 21, 18, 0])
    ranks = Threads(len(shards))

    def slopes_of(loss, rows):
        rows = rows.clone().requires_grad_()
        tensors = [rows, *loss.parameters()]
        value = loss(rows, labels)
        return value, torch.autograd.grad(value, tensors)

    def work(rank):
        loss, rows = shards[rank]
        _, all_reduce_sum, all_reduce_max = ranks.collectives(rank)
        loss.shard = ClassShard(rows.start, CLASSES, all_reduce_sum, all_reduce_max)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # each thread has its own
            return slopes_of(loss, embeddings)

    with ThreadPoolExecutor(len(shards)) as pool:
        parts = list(pool.map(work, range(len(shards))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, slopes = slopes_of(whole, embeddings)
    in_float32 = slopes_of(whole, embeddings)
    expected, exact = slopes_of(copy.deepcopy(whole).double(), embeddings.double())
    error, errors = bounds(whole, [embeddings, *whole.parameters()], labels, torch.float32)
    # Slopes, too, are rounded three times, by less of themselves than the scores that they are of.
    factor = products_in_bfloat16(embeddings)
    assert_within(value, expected, factor * error)
    for number, (slope, of_float64, error) in enumerate(zip(slopes, exact, errors, strict=True)):
        of_ranks = [own[number] for _, own in parts]
        of_ranks = [torch.cat(of_ranks)] if number else of_ranks
        for one in (slope, *of_ranks):
            assert one.dtype == torch.float32
            assert_within(one, of_float64, 2 * factor * error)
        # By less than a fiftieth of its length, and by more than float32 is.
        length = of_float64.norm()
        assert 1e-5 * length < (slope - of_float64).norm() < 0.02 * length
        assert (in_float32[1][number] - of_float64).norm() < 1e-5 * length


@pytest.mark.parametrize("share, rate", [(1.0, 1.0), (0.3, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("kind", ["arcmargin", "norm_softmax"])
def test_classes_between_classes(kind, share, rate):
    """As the plain formula of a loss that has the mixtures among its weights, and their rows in its batch."""
    loss = make(kind, proxy_synthesis=share, synthesis_alpha=0.7, class_sample_rate=rate)
    count = round(share * ROWS)
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 22, 5, 5, 3, 4, 21, 8, 0])
    torch.manual_seed(2)
    mixture = torch.distributions.Beta(0.7, 0.7).sample().double()
    drawn = None if rate == 1 else torch.rand(CLASSES + count)

    def mixed(table):
        return torch.stack([mixture * table[i] + (1 - mixture) * table[i - 1] for i in range(count)])

    between = mixed(F.normalize(loss.weight)[labels])
    rows = torch.cat([embeddings, mixed(F.normalize(embeddings))])
    wider = make(kind, CLASSES + count)
    del wider.weight
    wider.weight = torch.cat([loss.weight, between])
    all_labels = torch.cat([labels, CLASSES + torch.arange(count)])
    if drawn is not None:
        with mock.patch.object(torch, "rand", lambda size: drawn):
            chosen = sample_classes(all_labels, CLASSES + count, rate)
        wider.weight = wider.weight[chosen]
        all_labels = torch.searchsorted(chosen, all_labels)
    expected, *_ = plain(wider, rows, all_labels)
    tensors = [embeddings, loss.weight]
    slopes = torch.autograd.grad(expected, tensors)
    torch.manual_seed(2)
    value = loss(embeddings, labels)
    found = torch.autograd.grad(value, tensors)
    # A mixture is a few roundings more on numbers of its size; its row's slope goes to two rows, over its own length.
    error, errors = bounds(wider, [rows, wider.weight], all_labels)
    steeper = 1 + 2 * (embeddings.norm(dim=1).max() / rows[ROWS:].norm(dim=1).min()).item()
    shorter = 1 + 2 * (loss.weight.norm(dim=1).max() / between.norm(dim=1).min()).item()
    assert_within(value, expected, 4 * error)
    per_row, per_weight = (2 * own.max() * CLASSES for own in errors)
    assert_within(found[0], slopes[0], steeper * shorter * per_row * ROWS)
    assert_within(found[1], slopes[1], steeper * shorter * per_weight * ROWS)


def test_margins_by_frequency():
    """0.05 for the label with most images, 0.5 for that with least, and between them by the fourth root."""
    margins = margins_by_frequency(torch.tensor([16, 1, 256]), torch.zeros(1, dtype=torch.float64))
    assert_within(margins, [0.05 + 0.45 * (0.5 - 0.25) / (1 - 0.25), 0.5, 0.05], gamma(20))
    assert margins_by_frequency(torch.tensor([3, 3]), torch.zeros(1)) is None
    loss = LOSSES["cosface"](WIDTH, 2, margin=0.2, dynamic_margin=True)
    loss.set_labels(torch.tensor([3, 3]))
    assert loss.margin_of(torch.tensor([0, 1]), 0.2) == 0.2


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"dynamic_margin": True}, "dynamic_margin needs how many images each label has"),
        (
            {"label_smoothing": 0.1, "smooth_within_category": True},
            "smooth_within_category needs the labels' categories",
        ),
    ],
)
def test_facts_of_the_list_that_are_missing(options, sentence):
    loss = LOSSES["arcmargin"](WIDTH, CLASSES, **options)
    with pytest.raises(InputError, match=sentence):
        loss(torch.randn(3, WIDTH), torch.arange(3))


def list_of(labels, categories):
    columns = {"paths": [f"{row}.jpg" for row in range(len(labels))], "labels": labels}
    if categories is not None:
        columns["categories"] = categories
    return Records.of_columns("list.csv", columns)


def test_the_train_list_says_what_labels_are():
    """A loss inside another one is told, too, by the codes of the labels."""
    loss = LOSSES["arcmargin"](WIDTH, 3, label_smoothing=0.1, smooth_within_category=True)
    tell_labels(torch.nn.ModuleList([loss]), list_of([9, 4, 4, 7], ["b", "a", "a", "b"]))
    assert loss.label_categories.tolist() == [0, 1, 1]
    frequent = LOSSES["cosface"](WIDTH, 2, dynamic_margin=True)
    tell_labels(frequent, list_of([5, 5, 3], None))
    assert_within(frequent.label_margins, [0.5, 0.05], gamma(20, torch.float32))


@pytest.mark.parametrize(
    "categories, sentence",
    [
        (None, "--smooth_within_category goes by categories, but list.csv has no column category"),
        (["b", "a", "c", "b"], "the label 4 has the category 'c' here and 'a' in"),
    ],
)
def test_lists_whose_categories_do_not_serve(categories, sentence):
    loss = LOSSES["softmax"](WIDTH, 3, label_smoothing=0.1, smooth_within_category=True)
    with pytest.raises(InputError, match=sentence):
        tell_labels(loss, list_of([9, 4, 4, 7], categories))


def test_facts_of_the_list_stay_out_of_checkpoints():
    loss = make("arcmargin, smoothed")
    assert loss.label_categories is not None and loss.state_dict().keys() == {"weight"}
    with pytest.raises(InputError, match="categories, which the train list does not have"):
        loss.set_labels(torch.ones(CLASSES))
    with pytest.raises(InputError, match="goes with neither smooth_within_category nor dynamic_margin"):
        LOSSES["arcmargin"](WIDTH, CLASSES, proxy_synthesis=1.0, dynamic_margin=True)
    with pytest.raises(InputError, match="--shard_classes does not go with --proxy_synthesis"):
        LOSSES["arcmargin"].sharded(
            slice(0, 5), None, None, embedding_size=WIDTH, num_classes=CLASSES, proxy_synthesis=1.0
        )
    with pytest.raises(InputError, match="no effect while label_smoothing is 0"):
        LOSSES["softmax"](WIDTH, CLASSES, smooth_within_category=True)
