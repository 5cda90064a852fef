"""OML's figures of what each query found, given as lists."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from compat.oml.metrics.functions import (
    calc_retrieval_metrics_rr,
    calc_topological_metrics,
    check_ks,
    fnmr_of_distances,
)
from core.errors import InputError
from retrieval.metrics.components import component_fractions
from retrieval.metrics.ranking import Ranked, values
from retrieval.results import RetrievalResults

TMetricsDict = dict[str, Any]


def calc_retrieval_metrics(
    retrieved_ids: Sequence[torch.Tensor],
    gt_ids: Sequence[torch.Tensor],
    query_categories: Sequence | np.ndarray | None = None,
    cmc_top_k: Sequence[int] = (5,),
    precision_top_k: Sequence[int] = (5,),
    map_top_k: Sequence[int] = (5,),
    reduce: bool = True,
    verbose: bool = True,
) -> dict[str, Any]:
    """calc_retrieval_metrics_rr of ids that are found and ids that are right, lists for each query."""
    # Their order is what counts.
    places = [torch.arange(len(ids), dtype=torch.float32) for ids in retrieved_ids]
    results = RetrievalResults(places, retrieved_ids, gt_ids)
    return calc_retrieval_metrics_rr(results, query_categories, cmc_top_k, precision_top_k, map_top_k, reduce, verbose)


def calc_cmc(
    gt_tops: Sequence[torch.Tensor], n_gts: Sequence[int], top_k: Sequence[int], verbose: bool = False
) -> list[torch.Tensor]:
    """cmc@k (Q,) for each k. gt_tops: whether each item found is right, nearest first; n_gts: how many would be."""
    return _by_k("cmc", gt_tops, n_gts, top_k)


def calc_precision(
    gt_tops: Sequence[torch.Tensor], n_gts: Sequence[int], top_k: Sequence[int], verbose: bool = False
) -> list[torch.Tensor]:
    """precision@k (Q,) for each k, as calc_cmc."""
    return _by_k("precision", gt_tops, n_gts, top_k)


def calc_map(
    gt_tops: Sequence[torch.Tensor], n_gts: Sequence[int], top_k: Sequence[int], verbose: bool = False
) -> list[torch.Tensor]:
    """map@k (Q,) for each k, as calc_cmc."""
    return _by_k("map", gt_tops, n_gts, top_k)


def calc_fnmr_at_fmr(
    pos_dist: np.ndarray | torch.Tensor, neg_dist: np.ndarray | torch.Tensor, fmr_vals: Sequence[float] = (0.1,)
) -> torch.Tensor:
    """Share of the distances of equal things that are at or above the quantile fmr of those of others, for each fmr."""
    if not len(fmr_vals):
        raise InputError("fmr_vals names no rate")
    return torch.stack(list(fnmr_of_distances(torch.as_tensor(pos_dist), torch.as_tensor(neg_dist), fmr_vals).values()))


def calc_fnmr_at_fmr_by_distances(
    pos_dist: np.ndarray, neg_dist: np.ndarray, fmr_vals: Sequence[float]
) -> dict[str, dict[float, torch.Tensor]]:
    """{"fnmr@fmr": {fmr: figure}}, as calc_fnmr_at_fmr; {} where no rate is asked for."""
    if not len(fmr_vals):
        return {}
    return {"fnmr@fmr": dict(zip(fmr_vals, calc_fnmr_at_fmr(pos_dist, neg_dist, fmr_vals)))}


def reduce_metrics(metrics_to_reduce: dict[str, Any]) -> dict[str, Any]:
    """Nested figures of each query to their means."""
    return _changed(metrics_to_reduce, lambda column: column.mean())


def take_unreduced_metrics_by_mask(metrics: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """Nested figures of each query, those of some queries alone; a figure of all is as it was."""
    return _changed(metrics, lambda column: column[mask] if np.size(column) > 1 else column)


def calc_pcf(embeddings: torch.Tensor, pcf_variance: Sequence[float]) -> torch.Tensor:
    """Share of the dimensions (V,) that hold so much of the variance, as calc_topological_metrics."""
    if not len(pcf_variance):
        raise InputError("pcf_variance names no share of the variance")
    return torch.tensor(list(component_fractions(embeddings, pcf_variance, "oml").values()))


def _changed(metrics: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    changed = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            changed[name] = _changed(value, change)
        else:
            changed[name] = change(value) if isinstance(value, (torch.Tensor, np.ndarray)) else value
    return changed


def _by_k(
    metric: str, gt_tops: Sequence[torch.Tensor], n_gts: Sequence[int], top_k: Sequence[int]
) -> list[torch.Tensor]:
    check_ks(top_k)
    if not len(top_k):
        raise InputError("top_k names no number")
    counts = torch.tensor([len(hits) for hits in gt_tops])
    padded = torch.zeros(len(gt_tops), max(1, int(counts.max())), dtype=torch.bool)
    for row, hits in zip(padded, gt_tops):
        row[: len(hits)] = hits
    ranked = Ranked(padded, counts, torch.as_tensor(n_gts))
    return [column.float() for column in values(ranked, [f"{metric}@{k}" for k in top_k], "oml").values()]


__all__ = [
    "calc_cmc",
    "calc_fnmr_at_fmr",
    "calc_fnmr_at_fmr_by_distances",
    "calc_map",
    "calc_pcf",
    "calc_precision",
    "calc_retrieval_metrics",
    "calc_topological_metrics",
    "reduce_metrics",
    "take_unreduced_metrics_by_mask",
]
