"""Tests of a pair scorer: what an earlier run found, put in order by it."""

from collections.abc import Sequence

import torch
from torch import nn

import distributed
from core.console import log
from core.errors import InputError
from core.types import Words
from core.text import counted, plural
from data.records import Records
from embeddings.pair_distances import PairReader
from embeddings.table import EmbeddingTable
from engine.assembly import Start
from engine.best import Best, open_best
from engine.figures import FNMR, PCF
from engine.retrieval_run import RetrievalRun
from engine.testing import RECALLS, Pictures, Tester
from models import ModelSettings
from models.pair_scorer import PairScorer
from retrieval.metrics.per_query import summary
from retrieval.metrics.ranking import Ranked, parse_metric, values
from retrieval.rerank import Pairwise, pairs_of
from retrieval.results import RetrievalResults

FOUND = 100  # items of each query that figures are over, as by eval.py; more where more are put in order


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
        metrics: Sequence[str],
        distance: str,
        top_n: int,
        symmetric: bool,
        title: str = "",
        others: Sequence["RerankTester"] = (),
        best: Best | None = None,
    ):
        pictures = Pictures(None, None, None)
        super().__init__(
            records, (), start.device, tested_on, pictures, metrics, distance, title=title, others=others, best=best
        )
        self.precision = start.precision
        self.batch_size = start.settings.test_batch_size
        self.settings = settings
        self.num_workers = num_workers
        self.top_n = top_n
        self.symmetric = symmetric

    def find(self, retrieval: RetrievalRun, number: int = 0) -> None:
        """Search the lists by an earlier run, and say what that finds; all ranks call it together.

        number: of this one among the lists.
        """
        # The first list's go by the name that eval.py gives them.
        embeddings = retrieval.embed(self.records, f"embeddings_{number + 1}.npz" if number else "embeddings.npz")
        # Every rank has all embeddings, and finds the same.
        self.searched = EmbeddingTable(self.records, embeddings).query_gallery(torch.device("cpu"))
        self.found = RetrievalResults.from_query_gallery(self.searched, max(FOUND, self.top_n), self.distance)
        self.pairs = pairs_of(self.found, self.searched, self.top_n)
        self.as_found = self.recalls(self.found)
        words = ", ".join(f"Recall@{k} {100 * recall:.2f} %" for k, recall in self.as_found.items())
        log(
            f"{retrieval.source} finds {words}; {counted(len(self.pairs[0]), 'pair')} "
            f"{plural(len(self.pairs[0]), 'is', 'are')} to be put in order"
        )
        for number, other in enumerate(self.others, 1):
            other.find(retrieval, number)

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

    def choosing_figure(self, results: Sequence[RetrievalResults], figures: Sequence[dict[str, float]]) -> float | None:
        """As of a Tester, of what was put in order."""
        best = self.best
        if best.category is None:
            return figures[best.list_number].get(best.figure)
        chosen = results[best.list_number]
        tester = (self, *self.others)[best.list_number]
        columns = values(Ranked.of(chosen), (best.figure,))
        means = summary(columns, chosen.positives, tester.searched.query_categories)["categories"]
        return means[best.category][best.figure] if best.category in means else None


def open_rerank_tester(
    start: Start,
    lists: Sequence[tuple[str, Records, str]],
    settings: ModelSettings,
    num_workers: int | str,
    test_metrics: Words,
    test_distance: str,
    best: str | None,
    *,
    top_n: int = 5,
    symmetric: bool = False,
) -> RerankTester:
    """The lists to test on, as `RerankTester.find` goes on with them.

    Options:
        top_n: so many first items of each query are put in order in a test, 2 or more
        symmetric: in tests take the mean of the distances of (query, item) and (item, query)

    lists: (title, list, what it is in words) of each. Raises InputError for a figure that there is not, for one that
    asks more than which items are right, and where nothing would be put in order.
    """
    chosen = open_best(best, [(title, records) for title, records, _ in lists], has_loss=False)
    for flag, name in [*(("test_metrics", name) for name in test_metrics), ("best", chosen.figure)]:
        if name.startswith((FNMR, PCF, "knn")):
            raise InputError(f"--{flag}={name} asks for embeddings, and what was put in order has none of its own")
        parse_metric(name)
    if top_n < 2:
        raise InputError(f"top_n is {top_n}; at least two items have to be put in order")
    testers: list[RerankTester] = []
    # The first list comes last, since it knows the others.
    for number, (title, records, tested_on) in reversed(list(enumerate(lists))):
        tester = RerankTester(
            start,
            records,
            tested_on,
            settings,
            num_workers,
            chosen.measured(test_metrics, number),
            test_distance,
            top_n,
            symmetric,
            title if number else "",
            list(testers) if number == 0 else (),
            chosen if number == 0 else None,
        )
        testers.insert(0, tester)
    return testers[0]
