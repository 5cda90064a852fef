"""The choice of the type that a search multiplies in: by what was measured, with the same answers whichever it is."""

import itertools
import math

import pytest
import torch

from benchmarks.product_types import KINDS, embeddings_of
from core import threads
from core.threads import draw_side_by_side, side_by_side
from retrieval import best_positive, blocks, candidates, product_type, topk
from retrieval.best_positive import first_precision, in_doubt, positive_ranks
from retrieval.candidates import kept_candidates
from retrieval.product_type import in_order_, out_of_order
from retrieval.query_gallery import QueryGallery
from retrieval.scores import DISTANCES, Scores
from retrieval.topk import first_type, search

CPU = torch.device("cpu")
MANY = 2**40  # pairs


@pytest.mark.parametrize(
    "taken, types, expected",
    [
        ((1, 3, 4), product_type.TYPES, torch.int8),
        ((1, 2, 4), product_type.TYPES, torch.int8),
        ((1, 2, 4), product_type.TYPES[1:], torch.bfloat16),
        ((1.6, 2, 4), product_type.TYPES, torch.bfloat16),  # too little faster for what it leaves in doubt
        ((math.inf, 9, 4), product_type.TYPES, torch.float32),
        ((1.5, 9, 4), product_type.TYPES, torch.int8),
        ((3, 9, 4), product_type.TYPES, torch.float32),
    ],
)
def test_the_fastest_is_chosen(monkeypatch, taken, types, expected):
    monkeypatch.setattr(product_type, "seconds", lambda width: dict(zip(product_type.TYPES, taken)))
    assert product_type.fastest(CPU, 512, MANY, types) == expected
    assert product_type.fastest(CPU, 512, 1000, types) == torch.float32  # nothing to gain, nothing is tried


def test_each_type_is_tried_and_the_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    taken = product_type.seconds(32)
    assert list(taken) == list(product_type.TYPES) and all(second > 0 for second in taken.values())
    assert torch.get_num_threads() == before
    assert math.isinf(taken[torch.int8]) != product_type.multiplies_int8()


@pytest.mark.parametrize(
    "distance, spread, expected",
    [
        ("cosine", 0.3, torch.int8),
        ("cosine", 9.0, torch.bfloat16),  # positives are no closer than others, which are as close as steps of int8
        ("squared_euclidean", 0.3, torch.bfloat16),
    ],
)
def test_int8_only_where_it_tells_rows_apart(monkeypatch, distance, spread, expected):
    monkeypatch.setattr(product_type, "seconds", lambda width: dict(zip(product_type.TYPES, (1, 3, 4))))
    monkeypatch.setattr(product_type, "WORTH_TRYING", 0)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(15, 512, generator=generator).repeat(4, 1)
    rows += spread * torch.randn(60, 512, generator=generator)
    task = QueryGallery.of(rows, torch.arange(60) % 15)
    assert first_precision(task, Scores(task, distance)) == expected


def test_what_int8_leaves_in_doubt():
    """All of a small gallery is its own sample: counted are the items within the bounds of the best positive's score."""
    rows = torch.randn(40, 256, generator=torch.Generator().manual_seed(0)) + 1
    labels = torch.arange(40) // 3
    task = QueryGallery.of(rows, labels)
    scores = Scores(task)
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-1)
    is_positive = labels[:, None] == labels
    best = cosines.masked_fill(~is_positive, -1).amax(1, keepdim=True)
    move = (scores.rounding_errors("query", torch.int8)[:, None] + scores.gallery_error(torch.int8)) * 1.01
    near = ((cosines - best).abs() <= move) & ~is_positive & (best > -1)
    assert 0 < in_doubt(task, scores).mean() <= near.sum() / 40
    assert not in_doubt(QueryGallery.of(rows, torch.arange(40)), scores).any()  # where nobody has a positive
    # Whose positive is not the first for sure is not asked about k = 1; a k that no rank can reach leaves all in sight.
    surely = ((cosines > best + 1.01 * move) & ~is_positive).sum(1)
    in_doubt_at_1 = in_doubt(task, scores, (1,))
    assert (surely > 0).any() and not in_doubt_at_1[surely > 0].any()
    assert torch.equal(in_doubt_at_1[surely == 0], in_doubt(task, scores)[surely == 0])
    assert torch.allclose(in_doubt(task, scores, (40,)), best_positive.LOOKED_AT * in_doubt(task, scores))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [8, 130])
def test_every_type_finds_what_float32_finds(monkeypatch, kind, width):
    """Embeddings of all kinds that the choice is measured with (benchmarks/product_types.py)."""
    monkeypatch.setattr(product_type, "WORTH_TRYING", 0)
    table, labels = embeddings_of(kind, 150, width)
    exact = positive_ranks(QueryGallery.of(table.double(), labels), dtype=torch.float64)
    types = [dtype for dtype in product_type.TYPES if dtype != torch.int8 or product_type.multiplies_int8()]
    for dtype in (*types, None):
        task = QueryGallery.of(table, labels)
        assert torch.equal(positive_ranks(task, dtype=dtype), exact)
        found = positive_ranks(task, (1, 10), dtype=dtype)
        assert all(torch.equal(found < k, exact < k) for k in (1, 10))


def test_few_rows_are_not_tried(monkeypatch):
    """What a trial takes grows with the threads that wait for it."""
    monkeypatch.setattr(product_type, "seconds", lambda width: dict(zip(product_type.TYPES, (1, 3, 4))))
    pairs = product_type.WORTH_TRYING * torch.get_num_threads()
    assert product_type.fastest(CPU, 64, pairs, product_type.TYPES) == torch.int8
    assert product_type.fastest(CPU, 64, pairs - 1, product_type.TYPES) == torch.float32


@pytest.mark.skipif(not product_type.multiplies_int8(), reason="this processor adds products of int8 in 16 bits")
@pytest.mark.parametrize("most_listed", [0, 3, 64])
@pytest.mark.parametrize("width", [1, 3, 8, 130])
def test_what_int8_leaves_in_doubt_is_settled_exactly(monkeypatch, width, most_listed):
    """Lists that are too short and counts that are given up lead to the same ranks as float64 from the start."""
    monkeypatch.setattr(best_positive, "MOST_LISTED", most_listed)
    monkeypatch.setattr(best_positive, "MOST_IN_DOUBT", 40)
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(20, width, generator=generator)[torch.randint(20, (300,), generator=generator)]
    rows[::3] *= 1 + 2.0**-10 * torch.randn(100, width, generator=generator)  # near duplicates among equal ones
    rows[::7] *= 2.0**90
    rows[5] = 0
    task = QueryGallery.of(rows.double(), torch.randint(40, (300,), generator=generator))
    exact = positive_ranks(task, dtype=torch.float64)
    assert torch.equal(positive_ranks(task, dtype=torch.int8), exact)
    for memory in (1, 2**28):
        found = positive_ranks(task, (1, 10), memory=memory, dtype=torch.int8)
        assert all(torch.equal(found < k, exact < k) for k in (1, 10))


def test_bfloat16_as_whole_numbers_keep_their_order():
    scores = torch.arange(-(2**15), 2**15).short().view(torch.bfloat16)
    scores = scores[~scores.isnan()]
    numbers = in_order_(scores.clone())
    assert torch.equal(out_of_order(numbers), scores.float())
    order = numbers.argsort()
    assert (scores[order].float().diff() >= 0).all()
    assert in_order_(numbers.float()).dtype == torch.float32


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("spread, expected", [(1.0, torch.bfloat16), (2.0**-12, torch.float32)])
def test_rows_that_bfloat16_cannot_tell_apart_are_searched_in_float32(monkeypatch, distance, spread, expected):
    """Near ties by the hundred, some of them equal: the same answer in any type, and the type by how many there are."""
    monkeypatch.setattr(product_type, "seconds", lambda width: dict(zip(product_type.TYPES, (9, 1, 4))))
    monkeypatch.setattr(product_type, "WORTH_TRYING", 0)
    monkeypatch.setattr(topk, "CLOSE_PAIRS", 4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.ones(1, 24) + torch.tensor([1.0, -3.0]).repeat(12)
    rows = rows + spread * 4 * torch.randn(700, 24, generator=generator)
    rows[100:103] = rows[99]
    task = QueryGallery.of(rows)
    scores = Scores(task, distance)
    if distance == "cosine":
        assert first_type(task, scores, 10) == expected
    assert kept_candidates(scores, 10, torch.float32) < kept_candidates(scores, 10, torch.bfloat16) <= 700
    factors = [scores.factor(side, slice(None), torch.float64) for side in ("query", "gallery")]
    exact = scores.from_grid(factors[0] @ factors[1].T).fill_diagonal_(-torch.inf)
    order = torch.sort(exact, dim=1, descending=True, stable=True).indices
    monkeypatch.setattr(candidates, "SAMPLE", (2, 64))  # a sample that misleads costs time alone
    for dtype in (torch.bfloat16, torch.float32):
        for k in (1, 10, 100):
            assert torch.equal(search(task, k, distance, 2**17, dtype)[0], order[:, :k])


def test_pieces_run_side_by_side_in_their_order():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert side_by_side(lambda piece: (piece, torch.get_num_threads()), range(5), CPU) == [(n, 1) for n in range(5)]
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda piece: 1 / piece, (1, 0), CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pieces_that_are_drawn_reach_one_thread_each(monkeypatch):
    """Five threads empty one generator; where one fails the others stop, and its error is raised."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "workers", lambda device: 5)
    seen = []

    def work(pieces):
        for piece in pieces:
            seen.append((piece, torch.get_num_threads()))

    def fail(pieces):
        for piece in pieces:
            if piece == 7:
                raise ValueError("seven")

    draw_side_by_side(work, iter(range(1000)), CPU)
    assert sorted(seen) == [(number, 1) for number in range(1000)]
    with pytest.raises(ValueError, match="seven"):
        draw_side_by_side(fail, itertools.count(), CPU)
    # An error of the generator itself is met by the thread that draws from it.
    with pytest.raises(ZeroDivisionError):
        draw_side_by_side(work, (1 // (3 - number) for number in range(9)), CPU)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", product_type.TYPES)
def test_many_threads_find_what_one_finds(monkeypatch, dtype):
    """Blocks of 16 rows, in seven threads."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(300, 64, generator=generator))
    task = QueryGallery.of(rows, torch.arange(300) // 5)
    ranks = positive_ranks(task, None, "cosine", 2**17, dtype=dtype)
    if dtype != torch.int8:
        nearest = search(task, 10, "cosine", 2**17, dtype)
    for module in (threads, blocks, best_positive):
        monkeypatch.setattr(module, "workers", lambda device: 7)
    assert torch.equal(positive_ranks(task, None, "cosine", 2**17, dtype=dtype), ranks)
    told = positive_ranks(task, (1, 10), "cosine", 2**17, dtype=dtype)
    for k in (1, 10):
        assert torch.equal(told < k, ranks < k)
    if dtype != torch.int8:
        for found, expected in zip(search(task, 10, "cosine", 2**17, dtype), nearest):
            assert torch.equal(found, expected)
