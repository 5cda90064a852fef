"""Tests of a pair scorer: what an earlier run found, put in order by it."""

from collections.abc import Collection, Iterable

import torch
from torch import nn

import distributed
from core.console import log
from core.errors import InputError
from core.types import Words
from data.records import Records
from embeddings.pair_distances import PairReader
from embeddings.table import EmbeddingTable
from engine.assembly import Start
from engine.best import RECALLS as RECALL_NAMES
from engine.best import Best, open_best
from engine.retrieval_run import RetrievalRun
from engine.testing import RECALLS, Pictures, Tester
from models import ModelSettings
from models.pair_scorer import PairScorer
from retrieval.metrics.ranking import Ranked, parse_metric, values
from retrieval.rerank import Pairwise, pairs_of
from retrieval.results import RetrievalResults

FOUND = 100  # items of each query that figures are over, as by eval.py


class RerankTester(Tester):
    """The list on which a pair scorer is tested, with what an earlier run finds there.

    settings: how the scorer's inputs are loaded. `find` comes first; then `embed` asks a scorer for the distances of
    each query with its first items, and figures are those of the items in that order.
    """

    def __init__(
        self,
        start: Start,
        records: Records,
        tested_on: str,
        settings: ModelSettings,
        num_workers: int | str,
        metrics: Iterable[str],
        distance: str,
        top_n: int,
        symmetric: bool,
        best: Best,
    ):
        pictures = Pictures(None, None, None)
        super().__init__(records, (), start.device, tested_on, pictures, tuple(metrics), distance, best=best)
        self.precision = start.precision
        self.batch_size = start.settings.test_batch_size
        self.settings = settings
        self.num_workers = num_workers
        self.top_n = top_n
        self.symmetric = symmetric

    def find(self, retrieval: RetrievalRun) -> None:
        """Search the list by an earlier run, and say what that finds; all ranks call it together."""
        embeddings = retrieval.embed(self.records)
        # Every rank has all embeddings, and finds the same.
        self.searched = EmbeddingTable(self.records, embeddings).query_gallery(torch.device("cpu"))
        self.found = RetrievalResults.from_query_gallery(self.searched, FOUND, self.distance)
        self.pairs = pairs_of(self.found, self.searched, self.top_n)
        self.as_found = self.recalls(self.found)
        words = ", ".join(f"Recall@{k} {100 * recall:.2f} %" for k, recall in self.as_found.items())
        log(f"{retrieval.source} finds {words}; {len(self.pairs[0])} pairs are to be put in order")

    def embed(self, model: PairScorer) -> torch.Tensor | None:
        """Distances (P,) of the pairs on the first rank, None on others; all ranks call it together."""
        distributed.broadcast_tensors(model.buffers())
        reader = PairReader(
            model,
            self.settings,
            self.records,
            self.device,
            self.precision,
            self.batch_size,
            self.num_workers,
            self.symmetric,
        )
        return reader(*self.pairs)

    def query_gallery(self, distances: torch.Tensor) -> RetrievalResults:
        """What was found, its first items in the order of distances (P,)."""
        reranker = Pairwise(lambda queries, items: distances, top_n=self.top_n)
        return reranker.process(self.found, self.searched)

    def recalls(self, results: RetrievalResults) -> dict[int, float]:
        """Recall@1, 5, 10, {k: share}, of results."""
        return {k: results.hits[:, :k].any(1).double().mean().item() for k in RECALLS}

    def further_figures(self, results: RetrievalResults, loss: nn.Module) -> dict[str, float]:
        """Recall@1 of what was found before it was put in order, and the `metrics`, over the items that were found."""
        figures = {"recall_as_found": self.as_found[1]}
        if self.metrics:
            columns = values(Ranked.of(results), self.metrics)
            figures |= {name: column.mean().item() for name, column in columns.items()}
        return figures


def open_rerank_tester(
    start: Start,
    records: Records,
    tested_on: str,
    settings: ModelSettings,
    num_workers: int | str,
    test_metrics: Words,
    test_distance: str,
    best: str | None = None,
    more: Collection[str] = (),
    *,
    top_n: int = 5,
    symmetric: bool = False,
) -> RerankTester:
    """The list to test on, as `RerankTester.find` goes on with it.

    Options:
        top_n: so many first items of each query are put in order in a test, 2 or more
        symmetric: in tests take the mean of the distances of (query, item) and (item, query)

    best: the figure that chooses best.pt; more: titles of further lists. Raises InputError for a metric that there is
    not, for one that asks more than which items are right, for further lists, and where nothing would be put in order.
    """
    if more:
        raise InputError(f"a re-ranker is tested on one list; --test_list names {len(more) + 1}")
    chosen = open_best(best, [("", records)], False)
    if chosen.category is not None:
        raise InputError(f"--best={best}: a re-ranker's figures are those of all queries; leave the category out")
    if chosen.figure not in (*test_metrics, *RECALL_NAMES):
        test_metrics = (*test_metrics, chosen.figure)
    for name in test_metrics:
        if parse_metric(name)[0].startswith("knn"):
            raise InputError(f"--test_metrics={name}: a vote of neighbours is not over what was put in order")
    if top_n < 2:
        raise InputError(f"top_n is {top_n}; at least two items have to be put in order")
    return RerankTester(
        start,
        records,
        tested_on,
        settings,
        num_workers,
        test_metrics,
        test_distance,
        top_n,
        symmetric,
        chosen,
    )
