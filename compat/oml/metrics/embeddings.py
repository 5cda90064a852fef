"""OML's EmbeddingMetrics: embeddings gathered batch by batch, and figures of them at the end."""

from collections.abc import Iterable, Iterator, Sequence
from pprint import pprint
from typing import Any

import numpy as np
import torch

from compat.oml._errors import require
from compat.oml._tables import known_options
from compat.oml.const import (
    CATEGORIES_COLUMN,
    EMBEDDINGS_KEY,
    LOG_TOPK_IMAGES_PER_ROW,
    LOG_TOPK_ROWS_PER_METRIC,
    OVERALL_CATEGORIES_KEY,
)
from compat.oml.inference._ranks import gathered_portions
from compat.oml.interfaces.datasets import IQueryGalleryLabeledDataset, IVisualizableDataset
from compat.oml.interfaces.metrics import IMetricVisualisable, TIndices
from compat.oml.interfaces.retrieval import IRetrievalPostprocessor
from compat.oml.metrics.accumulation import Accumulator
from compat.oml.metrics.functions import calc_fnmr_at_fmr_rr, calc_retrieval_metrics_rr, calc_topological_metrics
from compat.oml.retrieval._figures import Figure
from compat.oml.retrieval.retrieval_results import RetrievalResults
from core.errors import InputError
from core.text import counted

Metrics = dict[str, Any]


class EmbeddingMetrics(IMetricVisualisable):
    """`setup()`, `update(embeddings, indices)` of every batch in any order, `compute_metrics()`.

    dataset: whose queries and galleries the embeddings are. fmr_vals: figures over all pairs that are retrieved, which
    are then all. postprocessor: what results go through first. Several ranks of torch.distributed may have some of the
    batches each, an item more than once: all of them get the figures of all.
    """

    metric_name = ""

    def __init__(
        self,
        dataset: IQueryGalleryLabeledDataset | None,
        cmc_top_k: Sequence[int] = (5,),
        precision_top_k: Sequence[int] = (5,),
        map_top_k: Sequence[int] = (5,),
        fmr_vals: Sequence[float] = (),
        pcf_variance: Sequence[float] = (0.5,),
        postprocessor: IRetrievalPostprocessor | None = None,
        metrics_to_exclude_from_visualization: Iterable[str] = (),
        return_only_overall_category: bool = False,
        visualize_only_overall_category: bool = True,
        verbose: bool = True,
    ) -> None:
        self.dataset = dataset
        self.cmc_top_k = cmc_top_k
        self.precision_top_k = precision_top_k
        self.map_top_k = map_top_k
        self.fmr_vals = fmr_vals
        self.pcf_variance = pcf_variance
        self.postprocessor = postprocessor
        self.metrics_to_exclude_from_visualization = ["fnmr@fmr", "pcf", *metrics_to_exclude_from_visualization]
        self.return_only_overall_category = return_only_overall_category
        self.visualize_only_overall_category = visualize_only_overall_category
        self.verbose = verbose
        self.retrieval_results: RetrievalResults | None = None
        self.metrics: Metrics | None = None
        self.metrics_unreduced: Metrics | None = None
        self.acc = Accumulator((EMBEDDINGS_KEY,))

    def setup(self, num_samples: int | None = None) -> None:
        """Forget what was gathered. num_samples: how many items there will be; None: those of the dataset."""
        self.acc.refresh(len(self.dataset) if num_samples is None else num_samples)
        self.retrieval_results = None
        self.metrics = None
        self.metrics_unreduced = None

    def update(self, embeddings: torch.Tensor, indices: TIndices) -> None:
        """Embeddings (B, D) of the items of these numbers (B,)."""
        indices = torch.as_tensor(indices).reshape(-1).cpu()
        require(
            len(indices) == len(embeddings),
            f"{counted(len(embeddings), 'embedding')} of {counted(len(indices), 'item')}",
        )
        if self.acc.num_samples is None:
            raise InputError("how many items there will be is not known; setup() says it")
        self.acc.update_data({EMBEDDINGS_KEY: embeddings}, indices.tolist())

    def update_data(self, data: dict[str, Any], indices: TIndices) -> None:
        self.update(data[EMBEDDINGS_KEY], indices)

    def compute_metrics(self) -> Metrics:
        """{OVERALL: {metric: {k: figure}}, category: ...}. Raises InputError where items are missing."""
        embeddings = self._gathered()
        self.retrieval_results = self._results(embeddings)
        self.metrics_unreduced = self._figures(embeddings, reduce=False)
        self.metrics = self._figures(embeddings, reduce=True)
        returned = self.metrics
        if self.return_only_overall_category:
            returned = {OVERALL_CATEGORIES_KEY: self.metrics[OVERALL_CATEGORIES_KEY]}
        if self.verbose and _is_first():
            print("\nMetrics:")
            pprint(returned)
        return returned

    def _gathered(self) -> torch.Tensor:
        """Embeddings (N, D) of all items, those of all ranks."""
        count = self.acc.num_samples
        if not self.acc.collected_samples:
            raise InputError(f"no embeddings of {counted(count, 'item')}; update() takes those of every batch")
        table = None
        is_there = torch.zeros(count, dtype=torch.bool)
        own_indices = torch.tensor(self.acc.indices)
        for indices, embeddings in gathered_portions(own_indices, self.acc.storage[EMBEDDINGS_KEY]):
            if table is None:
                table = embeddings.new_zeros(count, embeddings.shape[1])
            table[indices] = embeddings
            is_there[indices] = True
        if not is_there.all():
            raise InputError(
                f"embeddings of {int(is_there.sum())} of {counted(count, 'item')}; figures need all of them"
            )
        return table

    def _results(self, embeddings: torch.Tensor) -> RetrievalResults:
        gallery = len(self.dataset.get_gallery_ids())
        depth = max([1, *self.cmc_top_k, *self.precision_top_k, *self.map_top_k])
        if self.fmr_vals:
            depth = gallery
        if self.postprocessor is not None:
            # One that does not say how many it looks at may look at all.
            depth = max(depth, getattr(self.postprocessor, "top_n", gallery))
        results = RetrievalResults.from_embeddings(embeddings, self.dataset, n_items=depth)
        if self.postprocessor is not None:
            handed = {"rr": results, "dataset": self.dataset}
            results = self.postprocessor.process(**known_options(self.postprocessor.process, handed))
        return results

    def _figures(self, embeddings: torch.Tensor, reduce: bool) -> Metrics:
        """Figures by category, of each query or their means."""
        categories = self.dataset.extra_data.get(CATEGORIES_COLUMN)
        query_categories = None
        if categories is not None:
            categories = np.asarray(categories)
            query_categories = categories[np.asarray(self.dataset.get_query_ids())]
        of_queries = calc_retrieval_metrics_rr(
            self.retrieval_results,
            query_categories,
            cmc_top_k=self.cmc_top_k,
            precision_top_k=self.precision_top_k,
            map_top_k=self.map_top_k,
            reduce=reduce,
        )
        of_space = calc_topological_metrics(embeddings, self.pcf_variance, categories)
        if categories is None:
            of_queries = {OVERALL_CATEGORIES_KEY: of_queries}
            of_space = {OVERALL_CATEGORIES_KEY: of_space}
        figures = {name: {**of_queries[name], **of_space.get(name, {})} for name in of_queries}
        if self.fmr_vals:
            figures[OVERALL_CATEGORIES_KEY].update(calc_fnmr_at_fmr_rr(self.retrieval_results, self.fmr_vals))
        return figures

    def ready_to_visualize(self) -> bool:
        return isinstance(self.dataset, IVisualizableDataset)

    def visualize(self) -> tuple[list[Figure], list[str]]:
        """The worst queries by each figure, and titles."""
        figures = []
        titles = []
        for name in _flat(self.metrics, self.metrics_to_exclude_from_visualization):
            if self.visualize_only_overall_category and not name.startswith(OVERALL_CATEGORIES_KEY):
                continue
            figures.append(self.get_plot_for_worst_queries(name, LOG_TOPK_ROWS_PER_METRIC, LOG_TOPK_IMAGES_PER_ROW))
            titles.append(f"top {LOG_TOPK_ROWS_PER_METRIC} worst by {name}".replace("/", "_"))
        return figures, titles

    def get_worst_queries_ids(self, metric_name: str, n_queries: int) -> list[int]:
        """Numbers of the queries with the least of a figure such as OVERALL/cmc/5, the worst first."""
        column = _flat(self.metrics_unreduced)[metric_name]
        worst = column.argsort(stable=True)[:n_queries]
        category = metric_name.partition("/")[0]
        if category != OVERALL_CATEGORIES_KEY:
            # A category's columns are of its own queries.
            names = np.asarray(self.dataset.extra_data[CATEGORIES_COLUMN])[np.asarray(self.dataset.get_query_ids())]
            worst = torch.from_numpy(np.flatnonzero(names.astype(str) == category))[worst]
        return worst.tolist()

    def get_plot_for_worst_queries(
        self, metric_name: str, n_queries: int, n_instances: int, verbose: bool = False
    ) -> Figure:
        return self.get_plot_for_queries(self.get_worst_queries_ids(metric_name, n_queries), n_instances, verbose)

    def get_plot_for_queries(self, query_ids: Sequence[int], n_instances: int, verbose: bool = True) -> Figure:
        """Some queries with what they found."""
        require(self.retrieval_results is not None, "there are no results yet; compute_metrics() makes them")
        return self.retrieval_results.visualize(query_ids, self.dataset, n_galleries_to_show=n_instances)


def _flat(figures: Metrics, excluded: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """{a/b/c: figure} of nested dicts."""
    return dict(_flat_items(figures, excluded, prefix))


def _flat_items(figures: Metrics, excluded: Sequence[str], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if name in excluded:
            continue
        if isinstance(value, dict):
            yield from _flat_items(value, excluded, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _is_first() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


__all__ = ["EmbeddingMetrics", "calc_fnmr_at_fmr_rr", "calc_retrieval_metrics_rr"]
