"""Search and ranks beside a sort of all exact scores: blocks, types, duplicates, sequences, query and gallery flags."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tolerances import assert_within, score_error

from core.errors import InputError
from retrieval import candidates
from retrieval.best_positive import positive_ranks
from retrieval.product_type import multiplies_int8
from retrieval.query_gallery import QueryGallery
from retrieval.scores import DISTANCES, Scores
from retrieval.topk import search, search_in_parts

ROOT = Path(__file__).parents[1]
FAST = (torch.float32, torch.bfloat16)
INT8 = [torch.int8] if multiplies_int8() else []  # of cosines, and of counts alone
MEMORIES = (1, 2**16, 2**28)  # blocks of 16 rows and up


def clusters(count, width, labels, seed=0):
    """Rows around a centre for each label, with exact and near duplicates among them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(labels, (count,), generator=generator)
    rows = torch.randn(labels, width, generator=generator)[codes] + torch.randn(count, width, generator=generator)
    for start in range(0, count - 20, 50):
        rows[start + 10 : start + 13] = rows[start]
        rows[start + 13] = rows[start] * (1 + 2.0**-20)
    return rows, codes


def cases():
    """{name: QueryGallery} of one against the rest, flags that overlap, sequences, and two tables."""
    rows, labels = clusters(150, 8, 30)
    generator = torch.Generator().manual_seed(1)
    is_query, is_gallery = (torch.rand(150, generator=generator) < part for part in (0.4, 0.7))
    sequences = torch.randint(60, (150,), generator=generator)
    few = torch.randint(3, (150,), generator=generator)
    return {
        "rest": QueryGallery.of(rows, labels),
        "alone": QueryGallery.of(rows[:40], torch.arange(40) // 3 * (torch.arange(40) < 30) + torch.arange(40)),
        "flags": QueryGallery.of(rows, labels, is_query, is_gallery),
        "sequences": QueryGallery.of(rows, labels, sequences=sequences),
        "few sequences": QueryGallery.of(rows, labels, is_query, is_gallery, sequences=few),
        "apart": QueryGallery.apart(rows[:50], rows[40:], labels[:50], labels[40:]),
        "same": QueryGallery.of(torch.ones(70, 3), torch.arange(70) // 2),
        "one": QueryGallery.of(rows[:1], labels[:1]),
    }


CASES = cases()
DEVICES = ["cpu", "cuda"][: 1 + torch.cuda.is_available()]


@pytest.fixture(params=[*DEVICES, "as a GPU"])
def road(request, monkeypatch):
    """A function that gives a QueryGallery the device that is searched on; `as a GPU`: on the CPU, by the ways of one."""
    if request.param == "as a GPU":
        monkeypatch.setattr(candidates, "finds_best_of_rows", lambda device: True)
    return lambda query_gallery: on_device(query_gallery, "cuda" if request.param == "cuda" else "cpu")


def on_device(query_gallery, device):
    moved = {}
    for field in fields(query_gallery):
        value = getattr(query_gallery, field.name)
        if torch.is_tensor(value):
            # What is one table stays one.
            moved.setdefault(id(value), value.to(device))
            query_gallery = replace(query_gallery, **{field.name: moved[id(value)]})
    return query_gallery


def by_sorting(query_gallery, distance):
    """For each query: (score, row, right) of all it can find, best first, ties by the smaller row."""
    scores = Scores(query_gallery, distance)
    found = []
    gallery_rows = query_gallery.gallery_rows.tolist()
    others = torch.arange(len(gallery_rows))
    for place, row in enumerate(query_gallery.query_rows.tolist()):
        scores_of_query = scores.exact_pairs(torch.full_like(others, place), others).tolist()
        rights = (query_gallery.query_labels[place] == query_gallery.gallery_labels).tolist()
        items = []
        for other, gallery_row in enumerate(gallery_rows):
            own = query_gallery.one_table and gallery_row == row
            sequence = query_gallery.query_sequences is not None and bool(
                query_gallery.query_sequences[place] == query_gallery.gallery_sequences[other]
            )
            if not own and not sequence:
                items.append((-scores_of_query[other], gallery_row, rights[other]))
        found.append([(-score, row, right) for score, row, right in sorted(items)])
    return found


@pytest.fixture(scope="module")
def sorted_cases():
    return {(name, distance): by_sorting(CASES[name], distance) for name in CASES for distance in DISTANCES}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtype", FAST)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", CASES)
def test_search_equals_a_sort(sorted_cases, name, distance, dtype, memory, road):
    query_gallery, expected = CASES[name], sorted_cases[name, distance]
    error = score_error(distance, query_gallery.query_table, query_gallery.gallery_table)
    gallery = len(query_gallery.gallery_rows)
    # A query that can find less than the gallery has -1 and -inf behind what it can.
    expected_rows = torch.full((len(expected), gallery), -1)
    expected_scores = torch.full((len(expected), gallery), -torch.inf, dtype=torch.float64)
    for query, items in enumerate(expected):
        expected_rows[query, : len(items)] = torch.tensor([row for _, row, _ in items])
        expected_scores[query, : len(items)] = torch.tensor([score for score, _, _ in items], dtype=torch.float64)
    for k in (1, 3, 20, 1000):
        rows, scores = (found.cpu() for found in search(road(query_gallery), k, distance, memory, dtype))
        assert rows.shape == scores.shape == (len(query_gallery.query_rows), min(k, gallery))
        assert rows.dtype == torch.int64 and scores.dtype == torch.float32
        assert torch.equal(rows, expected_rows[:, :k])
        assert_within(scores, expected_scores[:, :k], error)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    "distance, dtype",
    [("cosine", dtype) for dtype in (*INT8, *FAST)] + [("squared_euclidean", dtype) for dtype in FAST],
)
@pytest.mark.parametrize("name", CASES)
def test_ranks_equal_a_sort(sorted_cases, name, distance, dtype, memory, device):
    query_gallery = on_device(CASES[name], device)
    if dtype == torch.int8 and device != "cpu":
        pytest.skip("its products are bfloat16's there")
    rights = [[right for _, _, right in items] for items in sorted_cases[name, distance]]
    expected = torch.tensor([items.index(True) if True in items else torch.inf for items in rights])
    assert torch.equal(positive_ranks(query_gallery, None, distance, memory, dtype).cpu(), expected.double())
    for ks in ((1,), (1, 5, 20)):
        found = positive_ranks(query_gallery, ks, distance, memory, dtype).cpu()
        assert all(torch.equal(found < k, expected < k) for k in ks)
    assert query_gallery.positives().tolist() == [sum(items) for items in rights]


@pytest.mark.parametrize("name", CASES)
def test_parts_make_up_the_whole(name):
    query_gallery = CASES[name]
    parts = list(search_in_parts(query_gallery, 5, memory=1))
    assert [part[0].start for part in parts] == [0] + [part[0].stop for part in parts[:-1]]
    assert parts[-1][0].stop == len(query_gallery.query_rows)
    rows, _ = search(query_gallery, 5)
    assert torch.equal(torch.cat([part[1] for part in parts]), rows)


@pytest.mark.parametrize("dtype", (*INT8, *FAST))
@pytest.mark.parametrize("labels", [2, 40, 3000])
def test_thousands_of_rows_in_many_blocks(labels, dtype, road):
    """Enough rows for guessed floors, full buffers and queries that are searched for again."""
    rows, codes = clusters(3000, 16, labels, seed=labels)
    rows[100:160] = rows[99]  # more duplicates than candidates are kept
    query_gallery = QueryGallery.of(rows, codes)
    if dtype == torch.int8 and road(query_gallery).device.type != "cpu":
        pytest.skip("its products are bfloat16's there")
    scores, everyone = Scores(query_gallery), torch.arange(3000)
    score = torch.cat(
        [
            scores.from_grid(
                scores.factor("query", part, torch.float64) @ scores.factor("gallery", everyone, torch.float64).T
            )
            for part in everyone.split(500)
        ]
    )
    score.fill_diagonal_(-torch.inf)
    order = torch.sort(score, dim=1, descending=True, stable=True).indices
    if dtype in FAST:
        found, _ = search(road(query_gallery), 7, memory=2**21, dtype=dtype)
        assert torch.equal(found.cpu(), order[:, :7])
    first = (codes[order] == codes[:, None]).double().argmax(1)
    first = torch.where(query_gallery.positives() > 0, first.double(), torch.inf)
    assert torch.equal(positive_ranks(road(query_gallery), None, memory=2**21, dtype=dtype).cpu(), first)


def test_the_same_on_one_thread_and_two():
    rows, codes = clusters(2000, 32, 300)
    query_gallery, threads, found = QueryGallery.of(rows, codes), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            found.append((search(query_gallery, 10)[0], positive_ranks(query_gallery)))
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found))


@pytest.mark.slow
def test_memory_stays_within_the_budget():
    """40,000 x 40,000 scores are 6.4 GB; a process of its own, since its greatest size never falls again."""
    program = """
import resource, sys, torch
from retrieval.best_positive import positive_ranks
from retrieval.product_type import multiplies_int8
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search_in_parts
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def run(count):
    query_gallery = QueryGallery.of(torch.randn(count, 16), torch.arange(count) // 5)
    positive_ranks(query_gallery, (1, 10), memory=64 * 2**20)
    for part in search_in_parts(query_gallery, 10, memory=64 * 2**20):
        pass
run(3000)
before = peak()
run(40000)
print(peak() - before)
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(finished.stdout) < 64 + 40  # the budget; embeddings, numbers a row and the allocator's leftovers


def test_bad_tables_and_columns_are_refused():
    rows, labels = torch.randn(4, 3), torch.arange(4)
    cases = {
        r"embeddings have shape \(0, 3\)": lambda: QueryGallery.of(rows[:0]),
        r"embeddings have shape \(4,\)": lambda: QueryGallery.of(rows[:, 0]),
        "embeddings are torch.int64": lambda: QueryGallery.of(rows.long()),
        r"labels have shape \(3,\); 4 embeddings need \(4,\)": lambda: QueryGallery.of(rows, labels[:3]),
        r"labels are torch.float32": lambda: QueryGallery.of(rows, labels.float()),
        r"labels are torch.bool": lambda: QueryGallery.of(rows, labels > 2),
        r"labels are object": lambda: QueryGallery.of(rows, [1, "a", None, 2.5]),
        r"sequences have shape \(5,\)": lambda: QueryGallery.of(rows, labels, sequences=torch.arange(5)),
        r"categories have shape \(1,\)": lambda: QueryGallery.of(rows, labels, categories=["a"]),
        r"is_gallery has shape \(4,\) with 0 set": lambda: QueryGallery.of(rows, labels, None, [False] * 4),
        r"is_query has shape \(4,\) with torch.int64 values set": lambda: QueryGallery.of(rows, labels, labels),
        "query embeddings have 3 columns, the gallery's have 2": lambda: QueryGallery.apart(rows, rows[:, :2]),
        "the gallery have shape": lambda: QueryGallery.apart(rows, rows[:0]),
        "labels are given for queries or gallery only": lambda: QueryGallery.apart(rows, rows, labels),
        "labels are unknown": lambda: QueryGallery.of(rows).positives(),
    }
    for sentence, call in cases.items():
        with pytest.raises(InputError, match=sentence):
            call()


def test_labels_may_be_strings():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert positive_ranks(QueryGallery.of(rows, ["cat", "cat", "dog"])).tolist() == [0, 0, torch.inf]
