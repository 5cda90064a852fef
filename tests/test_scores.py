"""Exact scores beside decimals of 50 digits, and the bands in which fast scores have to lie, on kind and hard rows."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from exact import DIGITS, dot, squared_distance, unit
from tolerances import assert_within, cosine_error, likely_gamma

from core.errors import InputError
from retrieval.blocks import Products
from retrieval.product_type import multiplies_int8
from retrieval.query_gallery import QueryGallery
from retrieval.scores import DISTANCES, RUN, Scores

FAST = (torch.float32, torch.bfloat16)
INT8 = [torch.int8] if multiplies_int8() else []  # of cosines alone
OF_DISTANCES = [("cosine", dtype) for dtype in (*INT8, *FAST)] + [("squared_euclidean", dtype) for dtype in FAST]
WIDTHS = (1, 2, 7, 64, 333)


def hard_rows(kind, width):
    """Fifty rows that make rounding work: spread lengths, near duplicates, one sign, few large numbers, a far centre."""
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(50, width, generator=generator)
    if kind == "lengths":
        return rows * 10 ** torch.linspace(-12, 12, 50)[:, None]
    if kind == "duplicates":
        return rows[:5].repeat(10, 1) * (1 + 1e-6 * torch.randn(50, width, generator=generator))
    if kind == "one sign":
        return rows.abs() + 1
    if kind == "sparse":
        return rows * (torch.rand(50, width, generator=generator) < 0.05) * 100
    if kind == "far":
        return rows + 1000
    return rows


KINDS = ("plain", "lengths", "duplicates", "one sign", "sparse", "far")


def all_exact(scores, count):
    left, right = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    return scores.exact_pairs(left.flatten(), right.flatten()).view(count, count)


@pytest.mark.parametrize("width", [1, 3, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_cosine_is_right_to_the_last_digit_of_float32(kind, width):
    rows = hard_rows(kind, width)[:6]
    found = all_exact(Scores(QueryGallery.of(rows)), 6)
    with localcontext(DIGITS):
        exact = [[Decimal(value) for value in row] for row in rows.tolist()]
        for i, left in enumerate(exact):
            for j, right in enumerate(exact):
                zero = not any(left) or not any(right)
                expected = 0.0 if zero else float(dot(unit(left), unit(right)))
                assert_within(found[i, j], expected, cosine_error(width))


@pytest.mark.parametrize("width", [1, 3, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_squared_distance_is_right_to_what_the_grid_allows(kind, width):
    rows = hard_rows(kind, width)[:6]
    scores = Scores(QueryGallery.of(rows), "squared_euclidean")
    found = all_exact(scores, 6)
    with localcontext(DIGITS):
        exact = [[Decimal(value) for value in row] for row in rows.tolist()]
        for i, left in enumerate(exact):
            for j, right in enumerate(exact):
                expected = float(squared_distance(left, right))
                grid = scores.scale * math.sqrt(width) * 2.0**-25
                allowed = 2 * math.sqrt(expected) * grid + grid**2 + 2.0**-24 * expected
                assert_within(-found[i, j], expected, allowed * 1.0001)


@pytest.mark.parametrize("distance", DISTANCES)
def test_exact_scores_do_not_depend_on_the_way(distance):
    """Pair by pair, in blocks of any size, in any order of rows, on one thread or two: the same bits."""
    rows = hard_rows("plain", 100)
    pairs = all_exact(Scores(QueryGallery.of(rows), distance), 50)
    assert torch.equal(pairs, pairs.T)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    shuffled = all_exact(Scores(QueryGallery.of(rows[order]), distance), 50)
    assert torch.equal(shuffled, pairs[order][:, order])
    threads = torch.get_num_threads()
    for memory, count in ((1, 1), (2**20, 2), (2**28, 2)):
        torch.set_num_threads(count)
        try:
            scores, everyone = Scores(QueryGallery.of(rows), distance), torch.arange(50)
            for block in Products(scores, everyone, everyone, torch.float64, memory):
                assert torch.equal(block.scores, pairs[block.rows, block.columns])
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("distance, dtype", OF_DISTANCES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_fast_scores_lie_in_their_band(kind, width, dtype, distance):
    rows = hard_rows(kind, width)
    scores, everyone = Scores(QueryGallery.of(rows), distance), torch.arange(50)
    exact = scores.to_fast_units(all_exact(scores, 50).double())
    errors = scores.rounding_errors("query", dtype)
    worst = scores.rounding_errors("gallery", dtype).max()
    for block in Products(scores, everyone, everyone, dtype, 2**14):
        asked = errors[block.rows, None]
        low, high = scores.fast_range(exact[block.rows, block.columns], asked, worst, dtype)
        assert (low <= block.scores).all() and (block.scores <= high).all()
        low, high = scores.exact_range(block.scores, asked, worst, dtype)
        assert (low <= exact[block.rows, block.columns]).all() and (exact[block.rows, block.columns] <= high).all()


@pytest.mark.parametrize(
    "dtype, widest", [*((dtype, 0.05) for dtype in INT8), (torch.bfloat16, 0.016), (torch.float32, 2e-4)]
)
def test_the_band_of_cosine_is_narrow(dtype, widest):
    """A band that held everything would prove nothing: each at 512 columns."""
    rows = torch.randn(50, 512, generator=torch.Generator().manual_seed(0))
    scores = Scores(QueryGallery.of(rows))
    errors = scores.rounding_errors("query", dtype)
    low, high = scores.fast_range(torch.full((50,), 0.5), errors, errors.max(), dtype)
    unit = scores.int8_step() ** 2 if dtype == torch.int8 else 1
    assert unit * (high - low).max() < widest


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", (*WIDTHS, 640))
@pytest.mark.parametrize("kind", KINDS)
def test_close_scores_lie_in_their_narrower_band(kind, width, distance):
    rows = hard_rows(kind, width)
    scores = Scores(QueryGallery.of(rows), distance)
    places = torch.randint(50, (50, 9), generator=torch.Generator().manual_seed(0))
    found = scores.close_pairs(torch.arange(50), places)
    expected = scores.to_fast_units(all_exact(scores, 50).double()).gather(1, places)
    errors = scores.rounding_errors("query", torch.float32)
    low, high = scores.exact_range(found, errors[:, None], errors.max(), torch.float32, terms=RUN)
    assert (low <= expected).all() and (expected <= high).all()
    if distance == "cosine":
        assert (high - low).max() < 1.5e-5


def test_equal_rows_score_equally_and_a_zero_row_has_cosine_zero():
    rows = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [-0.1, -0.2, -0.3], [0.2, 0.4, 0.6]])
    found = all_exact(Scores(QueryGallery.of(rows)), 5)
    assert found[0].tolist() == found[1].tolist() == [1, 1, 0, -1, 1]
    assert found[2].tolist() == [0, 0, 0, 0, 0]
    assert all_exact(Scores(QueryGallery.of(rows), "squared_euclidean"), 5)[0, 1] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_are_taken_as_they_come(dtype):
    rows = torch.tensor([[3.0, 4.0], [4.0, 3.0], [-3.0, 4.0]], dtype=dtype)
    assert_within(all_exact(Scores(QueryGallery.of(rows)), 3)[0], [1, 0.96, 0.28], cosine_error(2))
    assert all_exact(Scores(QueryGallery.of(rows), "squared_euclidean"), 3)[0].tolist() == [0, -2, -36]


def test_broken_embeddings_are_named():
    rows = torch.ones(9, 4)
    rows[3, 1], rows[7, 0] = math.nan, -math.inf
    for distance in DISTANCES:
        with pytest.raises(InputError, match=r"2 of 9 embeddings are NaN or infinite, first in rows \[3, 7\]"):
            Scores(QueryGallery.of(rows), distance)
    with pytest.raises(InputError, match=r"2 of 9 query embeddings are NaN or infinite"):
        Scores(QueryGallery.apart(rows, torch.ones(2, 4)))
    with pytest.raises(InputError, match="unknown distance 'cosin'; there are: cosine, squared_euclidean"):
        Scores(QueryGallery.of(torch.ones(2, 2)), "cosin")


def test_the_callers_precision_is_left_as_it_was():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        rows = hard_rows("plain", 333)
        scores, everyone = Scores(QueryGallery.of(rows)), torch.arange(50)
        exact = all_exact(scores, 50)
        for block in Products(scores, everyone, everyone, torch.float32, 2**28):
            assert_within(block.scores, exact[block.rows, block.columns], likely_gamma(333 + 8))  # bfloat16: 4e-4
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
