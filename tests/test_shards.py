"""A gallery cut over ranks: the merge beside naive float64, figures beside those of one process, and the script."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from processes import run_in_ranks
from runs import read_json, run, tiny_backbone
from tolerances import assert_within, gamma, score_error

import distributed
from benchmarks import ranks as bench
from core.errors import InputError
from data.samplers import InOrder
from embeddings.shard import open_shard
from retrieval.best_positive import positive_ranks
from retrieval.candidates import NOWHERE, pack, unpack
from retrieval.metrics.per_query import query_values, summary
from retrieval.metrics.ranking import METRICS
from retrieval.metrics.spread import collapse_notes, spread_of
from retrieval.query_gallery import QueryGallery
from retrieval.scores import DISTANCES
from retrieval.sharded import GalleryShard, merged_keys
from retrieval.topk import search

NAMES = tuple(name.replace("@k", f"@{k}") for name in METRICS.names() for k in ((1, 3, 70) if "@k" in name else (0,)))


class Threads:
    """Threads of one process in the place of ranks: what each gives, all are handed."""

    def __init__(self, number):
        self.number, self.barrier, self.given = number, threading.Barrier(number, timeout=20), [None] * number

    def _all(self, rank, tensor):
        self.given[rank] = tensor
        self.barrier.wait()
        given = list(self.given)
        self.barrier.wait()
        return given

    def collectives(self, rank):
        """all_gather, all_reduce_sum, all_reduce_max as GalleryShard has them."""
        return (
            lambda rows: torch.cat(self._all(rank, rows)),
            lambda numbers: torch.stack(self._all(rank, numbers)).sum(0),
            lambda numbers: torch.stack(self._all(rank, numbers)).amax(0),
        )

    def run(self, embeddings, parts, work):
        """What work(shard) returns on each rank that has these rows (a list of index arrays) of the embeddings."""

        def one(rank):
            rows = torch.from_numpy(parts[rank])
            return work(GalleryShard(embeddings[rows], rows, len(embeddings), self.number, *self.collectives(rank)))

        with ThreadPoolExecutor(self.number) as pool:
            return list(pool.map(one, range(self.number)))


def made_up(seed):
    """Embeddings and columns of a list: rows that are equal, near and far, lone labels, sequences, flags, all by seed."""
    rng = np.random.default_rng(seed)
    number, width = int(rng.integers(2, 60)), int(rng.integers(1, 40))
    table = rng.standard_normal((number, width)) if seed % 2 else rng.integers(-1, 2, (number, width))
    table = table[rng.integers(0, number, number)] + (seed % 3 == 0) * 1e-7 * rng.standard_normal((number, width))
    columns = {"labels": rng.integers(0, max(2, number // 4), number)}
    if seed % 4 > 1:
        columns["sequences"] = rng.integers(0, 6, number)
    if seed % 5 > 1:
        columns |= {name: rng.random(number) < 0.6 for name in ("is_query", "is_gallery")}
        for name in ("is_query", "is_gallery"):
            columns[name][rng.integers(number)] = True
    return torch.from_numpy(table.astype(np.float32) * 10.0 ** float(rng.integers(-3, 4))), columns


def dealt(number, batch_size, ranks):
    return [InOrder(number, batch_size, rank, ranks).rows() for rank in range(ranks)]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_every_figure_is_that_of_one_process(seed, distance):
    """To the last bit, also where some of the ranks have nothing, and in blocks of one query."""
    embeddings, columns = made_up(seed)
    query_gallery = QueryGallery.of(embeddings, **columns)
    memory = 1 if seed % 10 == 1 else 2**20
    definition = ("standard", "oml", "pml")[seed % 3]
    expected = {
        names: query_values(query_gallery, names, definition, distance) for names in (NAMES, ("recall@3",), ("mrr",))
    }
    for number in (1, 2, 3, 5):
        parts = dealt(len(embeddings), 1 + seed % 7, number)

        def figures(shard):
            whole = QueryGallery.of(shard.placeholder(), **columns)
            return [query_values(whole, names, definition, distance, memory, shard) for names in expected]

        for found in Threads(number).run(embeddings, parts, figures):
            for own, right in zip(found, expected.values()):
                assert own.keys() == right.keys()
                assert all(torch.equal(own[name], right[name]) for name in own)


@pytest.mark.parametrize("close", [False, True])
def test_all_ranks_say_where_embeddings_are_nearly_one(close):
    embeddings, _ = made_up(1)
    embeddings = embeddings.abs().mean() + 1e-4 * embeddings if close else embeddings
    parts = dealt(len(embeddings), 3, 3)
    said = Threads(3).run(embeddings, parts, collapse_notes)
    assert said == [collapse_notes(embeddings)] * 3 and bool(said[0]) == close
    # Of at most N directions, summed in another order.
    error = 4 * gamma(len(embeddings), torch.float64)
    assert_within(Threads(3).run(embeddings, parts, spread_of), [spread_of(embeddings)] * 3, error)


@pytest.mark.parametrize("distance", DISTANCES)
def test_counting_goes_on_to_exact_scores_where_items_are_equal(distance):
    """All embeddings one and the same: every rank is decided by rows that stand in different shards."""
    embeddings = torch.ones(23, 5)
    labels = torch.arange(23) % 4
    expected = positive_ranks(QueryGallery.of(embeddings, labels), None, distance)
    parts = dealt(23, 2, 3)

    def ranks(shard):
        return shard.positive_ranks(QueryGallery.of(shard.placeholder(), labels), None, distance)

    assert all(torch.equal(found, expected) for found in Threads(3).run(embeddings, parts, ranks))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_is_what_one_search_finds(seed, distance):
    embeddings, columns = made_up(seed)
    query_gallery = QueryGallery.of(embeddings, **columns)
    rows, scores = search(query_gallery, 7, distance)

    def found(shard):
        own = shard.search_in_parts(QueryGallery.of(shard.placeholder(), **columns), 7, distance)
        return [torch.cat(column) for column in zip(*(part[1:] for part in own))]

    for own_rows, own_scores in Threads(3).run(embeddings, dealt(len(embeddings), 3, 3), found):
        assert torch.equal(own_rows, rows)
        assert_within(own_scores, scores, 2 * score_error(distance, embeddings))


@pytest.mark.parametrize("seed", range(10))
def test_the_merge_is_a_sort_by_score_and_row(seed):
    """Beside a sort of (score, row) pairs in float64, equal scores in several parts and parts with nothing."""
    rng = np.random.default_rng(seed)
    queries, parts, k = (int(number) for number in rng.integers(1, 6, 3))
    scores = torch.from_numpy(rng.integers(-3, 4, (parts * queries, k)).astype(np.float32) / 2)
    rows = torch.from_numpy(rng.permuted(np.tile(np.arange(parts * k), (queries, 1)), axis=1))
    rows = rows.view(queries, parts, k).transpose(0, 1).reshape(-1, k)
    gone = torch.from_numpy(rng.random(scores.shape) < 0.3)
    scores[gone], rows[gone] = -torch.inf, NOWHERE
    found_rows, found_scores = unpack(merged_keys(pack(scores, rows), parts))
    for query in range(queries):
        pairs = [(-float(s), int(r)) for s, r in zip(scores[query::queries].flatten(), rows[query::queries].flatten())]
        best = sorted(pair for pair in pairs if pair[1] != NOWHERE)[:k]
        best += [(float("inf"), NOWHERE)] * (k - len(best))
        assert found_rows[query].tolist() == [row for _, row in best]
        assert found_scores[query].tolist() == [-score for score, _ in best]


def test_broken_embeddings_are_named_by_every_rank():
    embeddings = torch.ones(9, 2)
    embeddings[[3, 7]] = torch.tensor([[torch.nan], [torch.inf]])
    said = []

    class Told(Threads):
        def run(self, embeddings, parts, work):
            try:
                super().run(embeddings, parts, work)
            except InputError as error:
                said.append(str(error))

    Told(3).run(embeddings, dealt(9, 1, 3), lambda shard: None)
    assert said == ["2 of 9 embeddings are NaN or infinite, first in rows [3, 7]"]


def evaluated(seeds):
    """Means of all figures on this rank's share of made-up lists, as plain numbers, and what it holds of the rows."""
    found = []
    for seed in seeds:
        embeddings, columns = made_up(seed)
        rows = torch.from_numpy(dealt(len(embeddings), 4, distributed.world_size())[distributed.rank()])
        shard = open_shard(embeddings[rows], rows, len(embeddings), torch.device("cpu"))
        query_gallery = QueryGallery.of(shard.placeholder(), **columns)
        for distance in DISTANCES:
            found.append(
                summary(query_values(query_gallery, NAMES, distance=distance, shard=shard), query_gallery.positives())
            )
        found.append(len(shard.embeddings))
    return found


@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_that_talk_by_gloo_give_the_figures_of_one(number):
    seeds = range(2, 10)
    expected = evaluated(seeds)
    for rank, found in enumerate(bench.in_ranks(number, evaluated, list(seeds))):
        sizes = [len(dealt(size, 4, number)[rank]) for size in expected[2::3]]
        assert found[2::3] == sizes
        assert [found[0::3], found[1::3]] == [expected[0::3], expected[1::3]]


def result(folder):
    content = read_json(folder / "result.json")
    content.pop("seconds"), content.pop("versions")
    return json.dumps(content)


@pytest.mark.parametrize("number, flags", [(2, {}), (3, {"batch_size": 16, "distance": "squared_euclidean"})])
@pytest.mark.slow
def test_the_script_writes_what_one_process_writes(number, flags, finished_run, sop_tree, tmp_path):
    """The second with two batches for three ranks; the second time each rank has kept its own embeddings."""
    names = "recall@1,map@r,precision@3,knn@5,mrr"
    flags = {"pretrained_model": finished_run, "data_dir": sop_tree, "batch_size": 4, "metrics": names, **flags}
    line = [f"--{name}={value}" for name, value in flags.items()] + ["--num_workers=0", "--use_gpu=False"]
    alone = run("eval", [*line, f"--output_dir={tmp_path / 'one'}", "--shard_gallery=True"])
    for _ in range(2):
        printed = run_in_ranks(number, "eval", *line, f"--output_dir={tmp_path / 'many'}", "--shard_gallery=True")
        assert result(tmp_path / "many") == result(tmp_path / "one")
    assert printed.splitlines()[-1] == alone.splitlines()[-1] and printed.count("End test 30") == 1
    assert printed.count("embeddings taken from") == 1
    kept = [np.load(tmp_path / "many" / f"embeddings_{r}_of_{number}.npz")["embeddings"] for r in range(number)]
    whole = np.load(tmp_path / "one" / "embeddings.npz")["embeddings"]
    for own, rows in zip(kept, dealt(30, flags["batch_size"], number)):
        assert np.array_equal(own, whole[rows])


@pytest.mark.parametrize(
    "flag",
    [
        *("report=x.html", "picture=x.png", "save_embeddings=x.npz", "save_results=x.npz", "embeddings=x.npz"),
        *("pairs=True", "fmr=0.1", "pcf=0.5", "clustering=True", "postprocess=k_reciprocal"),
    ],
)
def test_what_needs_all_embeddings_is_refused(flag, monkeypatch, sop_tree, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    with tiny_backbone(), pytest.raises(InputError, match=f"no rank with all embeddings, as --{flag.split('=')[0]} "):
        run("eval", [f"--data_dir={sop_tree}", "--model=Tiny", "--shard_gallery=True", f"--{flag}"])
    assert not list(tmp_path.iterdir())
