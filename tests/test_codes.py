"""Codes of embeddings: their bounds hold in exact arithmetic, and what is found by them is what is found without."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_index_crash import KILLER

from core.errors import InputError
from retrieval import coded_search, codes, unscaled
from retrieval.coded_search import Part, PartSearch, Reaching, left_open, search_by_codes, search_in_float32
from retrieval.codes import KINDS, Codes, on_grid
from retrieval.exact import ExactScores
from retrieval.index.index import Index
from retrieval.query_gallery import QueryGallery
from retrieval.rows import row_lengths

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def small_stages(monkeypatch):
    """Stages and blocks for a few rows, as many rows have them."""
    monkeypatch.setattr(codes, "FEWEST_ROWS", 100)
    monkeypatch.setattr(coded_search, "SAMPLE_ROWS", 64)
    monkeypatch.setattr(coded_search, "BLOCK_ROWS", 128)
    monkeypatch.setattr(coded_search, "BLOCK_ROWS_OF_FEW", 192)
    monkeypatch.setattr(coded_search, "LEAST_PENDING", 32)
    monkeypatch.setattr(coded_search, "PENDING", 16)


@pytest.fixture(params=[True, False], ids=["codes multiplied", "codes decoded"])
def either_product(request, monkeypatch):
    monkeypatch.setattr(coded_search, "has_code_product", lambda: request.param)


def lengths_of(table):
    return row_lengths(torch.from_numpy(table)).numpy()


def clustered(rows, width, seed=0, inner=16):
    """Rows (N, D) in threes around centres of a space of `inner` dimensions, and noise in all."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((-(-rows // 3), min(inner, width))).repeat(3, 0)[:rows]
    basis = np.linalg.qr(random.standard_normal((width, min(inner, width))))[0]
    noise = 0.05 * random.standard_normal((rows, width))
    return ((centres + 0.3 * random.standard_normal(centres.shape)) @ basis.T + noise).astype(np.float32)


def right_answer(queries, table, k):
    """Rows and cosines (Q, k) from exact cosines of all pairs, equal ones by the row."""
    task = QueryGallery.apart(torch.from_numpy(queries), torch.from_numpy(table))
    numbers = torch.arange(len(queries)).repeat_interleave(len(table))
    every = torch.arange(len(table)).repeat(len(queries))
    scores = ExactScores(task).exact_pairs(numbers, every).view(len(queries), len(table)).numpy()
    rows = np.lexsort((np.broadcast_to(np.arange(len(table)), scores.shape), -scores), axis=1)[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)


def assert_right(queries, table, k, kind):
    coded = Codes.of(table, lengths_of(table), kind)
    rows, scores = search_by_codes(queries, table, coded, k)
    right_rows, right_scores = right_answer(queries, table, k)
    np.testing.assert_array_equal(rows, right_rows)
    np.testing.assert_array_equal(scores, right_scores)
    # In float64 without a grid the cosines are these, too, but for rounding.
    unit = table.astype(np.float64) / np.maximum(np.linalg.norm(table.astype(np.float64), axis=1), 1e-300)[:, None]
    asked = queries.astype(np.float64)
    asked /= np.maximum(np.linalg.norm(asked, axis=1), 1e-300)[:, None]
    best = -np.sort(-(asked @ unit.T), axis=1)[:, :k]
    np.testing.assert_allclose(scores, best, atol=1e-6)


def with_duplicates():
    table = clustered(300, 64)
    table[100:200] = table[:100]
    table[250:] = table[0]
    return table


def with_zeros():
    table = clustered(300, 64)
    table[::3] = 0
    return table


def of_tiny_differences():
    random = np.random.default_rng(5)
    return (1 + 2e-7 * random.standard_normal((300, 64))).astype(np.float32)


def of_many_lengths():
    table = clustered(300, 64)
    return (table * 10.0 ** np.random.default_rng(6).uniform(-18, 18, (300, 1))).astype(np.float32)


HARD = {
    "clustered": lambda: clustered(400, 96),
    "sorted": lambda: np.sort(clustered(400, 96), axis=0),
    "isotropic": lambda: np.random.default_rng(1).standard_normal((400, 64)).astype(np.float32),
    "all equal": lambda: np.ones((300, 64), np.float32),
    "all zero": lambda: np.zeros((200, 40), np.float32),
    "duplicates": with_duplicates,
    "zeros": with_zeros,
    "tiny differences": of_tiny_differences,
    "many lengths": of_many_lengths,
    "one number": lambda: np.random.default_rng(2).standard_normal((300, 1)).astype(np.float32),
    "seven numbers": lambda: np.random.default_rng(2).standard_normal((300, 7)).astype(np.float32),
    "65 numbers": lambda: clustered(300, 65),
    "100 numbers": lambda: clustered(300, 100),
    "one row": lambda: clustered(1, 64),
    "one axis": lambda: np.eye(300, 64, dtype=np.float32)[np.arange(300) % 64],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("count, k", [(3, 1), (20, 10)])
def test_codes_find_what_exact_cosines_say(kind, case, count, k, either_product):
    table = HARD[case]()
    random = np.random.default_rng(9)
    queries = table[random.integers(0, len(table), count)] * np.float32(1.5)
    queries[::2] += 0.2 * random.standard_normal(queries[::2].shape).astype(np.float32) * np.abs(queries[::2]).mean()
    queries[-1] = 0
    assert_right(queries, table, min(k, len(table)), kind)


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("count, k", [(1, 1), (20, 7)])
def test_float32_of_few_queries_finds_what_exact_cosines_say(case, count, k, monkeypatch):
    """Rows are multiplied as they are, in blocks so small that floors rise from one to the next."""
    monkeypatch.setattr(unscaled, "LEAST_ROWS", 48)
    monkeypatch.setattr(unscaled, "MOST_ROWS", 48)
    table = HARD[case]()
    random = np.random.default_rng(9)
    queries = table[random.integers(0, len(table), count)]
    queries += 0.2 * random.standard_normal(queries.shape).astype(np.float32) * np.abs(queries).mean()
    k = min(k, len(table))
    rows, scores = search_in_float32(torch.from_numpy(queries), table, k)
    right_rows, right_scores = right_answer(queries, table, k)
    np.testing.assert_array_equal(rows, right_rows)
    np.testing.assert_array_equal(scores, right_scores)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_codes_of_any_numbers(kind, data):
    width = data.draw(st.integers(1, 9))
    numbers = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-(2.0**60), 2.0**60, width=32))
    table = data.draw(arrays(np.float32, st.tuples(st.integers(1, 12), st.just(width)), elements=numbers))
    queries = data.draw(arrays(np.float32, st.tuples(st.integers(1, 3), st.just(width)), elements=numbers))
    coded = Codes.of(table, lengths_of(table), kind)
    k = data.draw(st.integers(1, len(table)))
    rows, scores = search_by_codes(queries, table, coded, k)
    right_rows, right_scores = right_answer(queries, table, k)
    np.testing.assert_array_equal(rows, right_rows)
    np.testing.assert_array_equal(scores, right_scores)


@pytest.mark.parametrize("k", [300, 10**6])
def test_all_rows_can_be_asked_for(k, monkeypatch):
    table = clustered(300, 64)
    rows, scores = search_by_codes(table[:5], table, Codes.of(table, lengths_of(table)), k)
    right_rows, right_scores = right_answer(table[:5], table, 300)
    np.testing.assert_array_equal(rows, right_rows)
    np.testing.assert_array_equal(scores, right_scores)


def test_what_leaves_too_much_open_is_searched_in_float32(monkeypatch):
    table = with_duplicates()
    monkeypatch.setattr(coded_search, "MOST_OPEN", 20)
    coded = Codes.of(table, lengths_of(table))
    asked = on_grid(table[[0, 240]], lengths_of(table[[0, 240]]))
    pairs, given_up = left_open([Part(coded)], asked, 5)
    assert given_up.tolist() == [0] and set(pairs.queries.tolist()) == {1}  # 51 rows equal the first query
    assert_right(table[[0, 240]], table, 5, "int8")


def test_nothing_of_another_type_or_number_is_taken():
    table = clustered(20, 8)
    coded = Codes.of(table, lengths_of(table))
    with pytest.raises(InputError, match="1 of 2 query embeddings are NaN or infinite, first in rows .1."):
        search_by_codes(np.float32([[1] * 8, [np.nan] * 8]), table, coded, 1)
    with pytest.raises(InputError, match=r"queries \(2, 7\), embeddings \(20, 8\) and codes \(20, 8\) do not fit"):
        search_by_codes(table[:2, :7], table, coded, 1)
    with pytest.raises(InputError, match="codes 'int9' are none of int8, binary.*int8"):
        Codes.of(table, lengths_of(table), "int9")


# The bounds themselves, against dot products of whole numbers, which Python reckons without any rounding.

SCALE = 2**26  # numbers on the grid are whole multiples of 1 / SCALE


def exact_products(queries, rows):
    """(Q, N) array of whole numbers: products on the grid times SCALE squared."""
    left = np.array([[int(number) for number in row] for row in (queries * SCALE).tolist()], object)
    right = np.array([[int(number) for number in row] for row in (rows * SCALE).tolist()], object)
    return left @ right.T


def as_whole(ends):
    """float32 ends times SCALE squared as whole numbers; they are far from so fine that this would lose anything."""
    whole = np.vectorize(lambda number: int(number * SCALE**2 * 2**200), otypes=[object])
    return whole(ends.double().numpy())


def adversaries(table, coded):
    """Queries (Q, D) float32 along what codes leave out, either way: where the bounds come nearest to the products."""
    grid = on_grid(table, lengths_of(table))
    rows = torch.arange(0, len(table), 37)
    axes = torch.eye(table.shape[1], dtype=torch.float64)
    if coded.rotation is not None:
        axes = coded.rotation
    kept = torch.zeros(len(rows), table.shape[1], dtype=torch.float64)
    for stage in coded.full:
        kept[:, stage.columns] = stage.take(rows).double() * stage.scales[rows].double()[:, None]
    residuals = grid[rows] - kept @ axes
    first = torch.zeros_like(kept)
    first[:, coded.first.columns] = coded.first.take(rows).double() * coded.first.scales[rows].double()[:, None]
    queries = torch.cat([residuals, -residuals, grid[rows] - first @ axes])
    return (queries / queries.norm(dim=1, keepdim=True).clamp_min(1e-30)).float().numpy()


def bounds_of(coded, queries):
    """(least, greatest of the closer look, greatest of the first, of the second), of all pairs, (Q, N) each."""
    search = PartSearch(Part(coded), queries)
    everyone = torch.arange(len(queries))
    lower, upper = search.block_ends(everyone, slice(0, len(coded)))
    numbers = everyone.repeat_interleave(len(coded))
    rows = torch.arange(len(coded)).repeat(len(queries))
    pair_lower, pair_upper = search.pair_ends(numbers, rows)
    first = search.first_upper(slice(0, len(coded)))
    uppers = [upper, pair_upper.view(upper.shape), first]
    if search.looks_closer:
        uppers.append(search.closer_upper(Reaching(numbers, rows, first.flatten())).view(upper.shape))
    return [lower, pair_lower.view(upper.shape)], uppers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["clustered", "isotropic", "many lengths", "zeros", "one axis", "65 numbers"])
@pytest.mark.parametrize("few", [True, False])
def test_bounds_hold_in_exact_arithmetic(kind, case, few, either_product):
    table = HARD[case]()
    coded = Codes.of(table, lengths_of(table), kind)
    queries = np.concatenate([adversaries(table, coded), table[:6]])
    for part in np.array_split(queries, -(-len(queries) // 8)) if few else [queries]:
        asked = on_grid(part, lengths_of(part))
        truth = exact_products(asked, on_grid(table, lengths_of(table))) * 2**200
        lowers, uppers = bounds_of(coded, asked)
        assert all((as_whole(lower) <= truth).all() for lower in lowers)
        assert all((as_whole(upper) >= truth).all() for upper in uppers)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_leave_no_room(kind):
    """A tenth less than the residuals, and an adversary is beyond the bound: nothing of it can be given away."""
    table = HARD["clustered"]()
    coded = Codes.of(table, lengths_of(table), kind)
    assert kind == "binary" or coded.tails is not None
    queries = adversaries(table, coded)
    asked = on_grid(queries, lengths_of(queries))
    truth = exact_products(asked, on_grid(table, lengths_of(table))) * 2**200
    # The closer look is tried by residuals of full codes, the first one by what its stage leaves out.
    stages = list(coded.full)
    if coded.first not in stages:
        stages.append(coded.first)
    for stage in stages:
        stage.residuals.mul_(0.9)
    if coded.tails is not None:
        coded.tails.mul_(0.9)
    lowers, uppers = bounds_of(coded, asked)
    assert (as_whole(lowers[0]) > truth).any() and (as_whole(uppers[0]) < truth).any()
    assert (as_whole(uppers[2]) < truth).any()


def test_a_bound_below_the_error_loses_neighbours():
    """Rows that differ by less than codes do, of which a search that takes codes for the rows finds others."""
    random = np.random.default_rng(4)
    table = (random.standard_normal(64) + 0.02 * random.standard_normal((90, 64))).astype(np.float32)
    queries = random.standard_normal((40, 64)).astype(np.float32)
    assert_right(queries, table, 1, "int8")
    coded = Codes.of(table, lengths_of(table))
    coded.first.residuals.zero_()
    pairs, _ = left_open([Part(coded)], on_grid(queries, lengths_of(queries)), 1)
    kept = set(zip(pairs.queries.tolist(), pairs.positions.tolist()))
    right = right_answer(queries, table, 1)[0][:, 0].tolist()
    assert sum((query, row) not in kept for query, row in enumerate(right)) > 5


# In an index.


def build(folder, table, kind, **more):
    return Index.build(folder, table, [f"/{row}.jpg" for row in range(len(table))], None, None, "exact", **more)


def assert_same(one, other, queries, k=7, **more):
    """Two indexes give the same ids and cosines, to the bit."""
    for count in (1, len(queries)):
        ours, theirs = one.search(queries[:count], k, **more), other.search(queries[:count], k, **more)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_with_codes_answers_as_one_without(kind, tmp_path, monkeypatch):
    from retrieval.index.backends import exact

    monkeypatch.setattr(exact, "FEW_SELECTED", 10)
    table = clustered(500, 64)
    queries = clustered(12, 64, seed=3)
    indexes = []
    for name in ("float32", kind):
        labels = np.arange(500) % 4
        paths = [f"/{row}.jpg" for row in range(500)]
        indexes.append(Index.build(tmp_path / name, table, paths, labels, None, "exact", {"codes": name}))
    assert_same(*indexes, queries)
    assert_same(*indexes, queries, labels=[1, 3])
    # Added in small and large steps, replaced, deleted, until segments are merged.
    for seed, count in ((1, 3), (2, 200), (4, 1)):
        for index in indexes:
            index.add(clustered(count, 64, seed), [f"/{seed}/{row}.jpg" for row in range(count)], None)
        assert_same(*indexes, queries)
    for index in indexes:
        index.delete(list(range(0, 400, 3)))
        index.add(-table[1:5], [f"/{row}.jpg" for row in range(1, 5)], None)
    assert_same(*indexes, queries, 50)
    assert_same(Index.open(tmp_path / "float32"), Index.open(tmp_path / kind), queries, labels=2)
    for index in indexes:
        index.delete(index.rows.ids[: len(index) * 2 // 3].tolist())
    assert_same(*indexes, queries)
    folders = list(indexes[1].folder.glob("*/codes"))
    assert len(folders) == len(indexes[1].card["segments"])
    assert indexes[1].card["options"] == {"codes": kind}


def test_only_new_segments_are_encoded(tmp_path, monkeypatch):
    index = build(tmp_path / "index", clustered(300, 64), "int8", options={"codes": "int8"})
    first = tmp_path / "index" / "segment-000001" / "codes" / "codes.json"
    before = first.stat().st_mtime_ns
    index.add(clustered(3, 64, seed=8), ["a", "b", "c"], None)
    assert first.stat().st_mtime_ns == before and len(index.card["segments"]) == 2


def test_an_index_without_the_option_is_float32(tmp_path):
    index = build(tmp_path / "index", clustered(30, 16), "float32", options={"codes": "float32"})
    card = json.loads((tmp_path / "index" / "index.json").read_text())
    card["options"] = {}  # as before there were codes
    (tmp_path / "index" / "index.json").write_text(json.dumps(card))
    assert_same(Index.open(tmp_path / "index"), index, clustered(2, 16))
    assert not list((tmp_path / "index").glob("*/codes"))


def test_codes_that_are_none(tmp_path):
    with pytest.raises(InputError, match="codes 'int4' are none of float32, int8, binary.*int8"):
        build(tmp_path / "index", clustered(30, 16), "int4", options={"codes": "int4"})
    assert not (tmp_path / "index").exists()


def damage(folder, form):
    """Spoil an index's codes of two stages; returns what the sentence has to say."""
    match form:
        case "cut":
            path = folder / "leading.npy"
            path.write_bytes(path.read_bytes()[:-9])
        case "gone":
            (folder / "rest.npy").unlink()
            return "there is no .*rest.npy"
        case "no folder":
            folder.rename(folder.parent / "other")
            return "there is no .*codes.json"
        case "pickle":
            path = folder / "facts.npy"
            np.save(path, np.array([{}], object), allow_pickle=True)
        case "rows":
            path = folder / "facts.npy"
            np.save(path, np.load(path)[:, 1:])
        case "negative":
            path = folder / "facts.npy"
            facts = np.load(path)
            facts[0, 7] |= 0x8000
            np.save(path, facts)
        case "rotation":
            path = folder / "rotation.npy"
            np.save(path, np.load(path) * 1.001)
        case "nan":
            path = folder / "rotation.npy"
            np.save(path, np.load(path) * np.nan)
        case "card":
            path = folder / "codes.json"
            path.write_text('{"kind": "int8", "rows": 300, "width": 64, "leading": "32"}')
        case "no card":
            path = folder / "codes.json"
            path.write_text("{")
            return "cannot read .*codes.json"
    return rf"{path.name}' is (damaged|no .npy)"


@pytest.mark.parametrize(
    "form", ["cut", "gone", "no folder", "pickle", "rows", "negative", "rotation", "nan", "card", "no card"]
)
def test_damaged_codes_are_named(form, tmp_path):
    build(tmp_path / "index", clustered(300, 64), "int8", options={"codes": "int8"})
    sentence = damage(tmp_path / "index" / "segment-000001" / "codes", form)
    with pytest.raises(InputError, match=sentence):
        Index.open(tmp_path / "index").search(clustered(2, 64))


def test_codes_of_other_rows_are_named(tmp_path):
    table = clustered(300, 64)
    build(tmp_path / "index", table, "int8", options={"codes": "int8"})
    path = tmp_path / "index" / "segment-000001" / "codes" / "leading.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(InputError, match="the codes are damaged: a cosine is not within the bound of its code"):
        Index.open(tmp_path / "index").search(table[:20])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.slow
def test_killed_at_every_step(tmp_path):
    """The old index or the new one is there with its codes, as of the other backends (test_index_crash.py)."""
    killer = KILLER.replace("None, backend,", 'None, "exact", {"codes": "int8"},')
    assert killer != KILLER
    words = [sys.executable, "-c", killer, tmp_path, "exact"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7, done.stdout
