"""The class head in chunks: values, gradients and shares as of the plain formula, whatever the chunk."""

import pytest
import torch
import torch.nn.functional as F
from test_losses import bounds
from tolerances import about, assert_within, share_error

from core.errors import InputError
from losses import ArcMarginLoss, SoftmaxLoss
from losses._class_scores import CHUNK, sample_classes

ROWS, CLASSES, WIDTH = 9, 23, 6
CHUNKS = ["auto", "1", "4", "22", "23", "100"]


def losses(classes=CLASSES, chunk_classes="auto", dtype=torch.float64):
    torch.manual_seed(0)
    made = {
        "softmax": SoftmaxLoss(WIDTH, classes, chunk_classes),
        "arcmargin": ArcMarginLoss(WIDTH, classes, 7.0, 0.4, chunk_classes=chunk_classes),
        "arcmargin, easy": ArcMarginLoss(WIDTH, classes, 7.0, 0.4, True, chunk_classes),
    }
    torch.nn.init.normal_(made["softmax"].bias)
    return {name: loss.to(dtype) for name, loss in made.items()}


def plain(loss, embeddings, labels):
    """All scores at once, with autograd: (loss, acc1, acc5)."""
    if isinstance(loss, SoftmaxLoss):
        shares = scores = embeddings @ loss.weight.T + loss.bias
    else:
        shares = F.normalize(embeddings) @ F.normalize(loss.weight).T
        own = F.one_hot(labels, len(loss.weight)).bool()
        scores = loss.arc_scale * torch.where(own, loss.add_margin(shares), shares)
    best = shares.topk(5, 1).indices == labels[:, None]
    return F.cross_entropy(scores, labels), best[:, 0].double().mean(), best.any(1).double().mean()


def assert_alike(loss, tensors, labels, values, slopes, factor=1):
    """Two ways to the loss of embeddings and weights: two values, two lists of slopes of `factor` times the loss."""
    error, errors = bounds(loss, tensors, labels, tensors[0].dtype)
    assert_within(*values, 2 * error)
    for one, other, error in zip(*slopes, errors, strict=True):
        assert_within(one, other, 2 * factor * error)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", losses())
def test_chunks_equal_the_plain_formula(name, chunk):
    loss = losses(chunk_classes=chunk)[name]
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 22, 5, 5, 3, 4, 21, 8, 0])
    with torch.no_grad():
        embeddings[:4] += 2 * loss.weight[labels[:4]]
    expected, acc1, acc5 = plain(loss, embeddings, labels)
    tensors = [embeddings, *loss.parameters()]
    slopes = torch.autograd.grad(3 * expected, tensors)
    value = loss(embeddings, labels)
    found = torch.autograd.grad(3 * value, tensors)
    assert_alike(loss, tensors, labels, (value, expected), (found, slopes), factor=3)
    shares = [loss.logs[name].item() for name in ("acc1", "acc5")]
    assert shares == about([acc1.item(), acc5.item()], ROWS, torch.float32)
    assert 0 < acc1 < acc5 < 1


@pytest.mark.parametrize("name", losses())
def test_more_classes_than_a_chunk_in_float32(name):
    loss = losses(CHUNK + 300, dtype=torch.float32)[name]
    embeddings, labels = torch.randn(5, WIDTH, requires_grad=True), torch.tensor([0, CHUNK - 1, CHUNK, CHUNK + 299, 7])
    tensors = [embeddings, *loss.parameters()]
    values = loss(embeddings, labels), plain(loss, embeddings, labels)[0]
    assert_alike(loss, tensors, labels, values, [torch.autograd.grad(value, tensors) for value in values])


@pytest.mark.parametrize("chunk", ["auto", "4"])
def test_a_second_pass_through_the_same_graph(chunk):
    loss = losses(chunk_classes=chunk)["arcmargin"]
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


@pytest.mark.parametrize("name", ["softmax", "arcmargin"])
def test_sampled_classes_alone_take_part(name):
    """As the plain formula on the rows that were drawn; the others get no gradient."""
    loss = losses()[name]
    loss.class_sample_rate = 0.5
    embeddings = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 22, 5, 5, 3, 4, 21, 8, 0])
    torch.manual_seed(4)
    chosen = sample_classes(labels, CLASSES, 0.5)
    assert len(chosen) == 12 and set(labels.tolist()) < set(chosen.tolist())
    few = losses(classes=12)[name]
    with torch.no_grad():
        for parameter, whole in zip(few.parameters(), loss.parameters()):
            parameter.copy_(whole[chosen])
    expected, *_ = plain(few, embeddings, torch.searchsorted(chosen, labels))
    slopes = torch.autograd.grad(expected, [embeddings, *few.parameters()])
    torch.manual_seed(4)
    value = loss(embeddings, labels)
    found = torch.autograd.grad(value, [embeddings, *loss.parameters()])
    own = [found[0], *(one[chosen] for one in found[1:])]
    places = torch.searchsorted(chosen, labels)
    assert_alike(few, [embeddings, *few.parameters()], places, (value, expected), (own, slopes))
    for one in found[1:]:
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


@pytest.mark.parametrize("kind", [SoftmaxLoss, ArcMarginLoss])
@pytest.mark.parametrize("classes", [7, CHUNK, 2 * CHUNK + 3])
def test_a_shard_begins_with_the_rows_of_the_whole(kind, classes):
    """And leaves the random numbers where the whole does."""
    torch.manual_seed(5)
    whole, after = kind(WIDTH, classes), torch.rand(3)
    for number in (1, 2, 3, 7):
        for rank in range(number):
            rows = slice(classes * rank // number, classes * (rank + 1) // number)
            torch.manual_seed(5)
            sharded = kind.sharded(rows, None, None, embedding_size=WIDTH, num_classes=classes)
            assert torch.equal(torch.rand(3), after)
            assert sharded.shard.start == rows.start and sharded.shard.classes == classes
            for name, parameter in whole.named_parameters():
                assert torch.equal(dict(sharded.named_parameters())[name], parameter[rows])
