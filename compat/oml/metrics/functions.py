"""OML's figures of results and of embeddings, with its definitions."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from compat.oml._errors import RefusedType
from core.errors import InputError
from core.text import counted
from retrieval.metrics.components import component_fractions
from retrieval.metrics.ranking import Ranked, values
from retrieval.results import RetrievalResults

OVERALL = "OVERALL"

Nested = dict[str, dict[int, torch.Tensor]]


def calc_retrieval_metrics_rr(
    rr: RetrievalResults,
    query_categories: Sequence | np.ndarray | None = None,
    cmc_top_k: Sequence[int] = (5,),
    precision_top_k: Sequence[int] = (5,),
    map_top_k: Sequence[int] = (5,),
    reduce: bool = True,
    verbose: bool = True,
) -> Nested | dict[str, Nested]:
    """{"cmc": {k: tensor}, "precision": {k: tensor}, "map": {k: tensor}} of RetrievalResults.

    With query_categories (Q,), one such for OVERALL and for each category. reduce False: tensors (Q,) instead of means.
    verbose is taken and has no effect. Where OML gives NaN, for a query without right items, this gives 0.
    """
    asked = {"cmc": cmc_top_k, "precision": precision_top_k, "map": map_top_k}
    names = []
    for metric, ks in asked.items():
        check_ks(ks)
        names.extend(f"{metric}@{k}" for k in ks)
    columns = {name: column.float() for name, column in values(Ranked.of(rr), names, "oml").items()}
    if query_categories is None:
        return _nested(asked, columns, reduce)
    if len(query_categories) != len(rr):
        raise InputError(f"{counted(len(query_categories), 'category')} for {counted(len(rr), 'query')}")
    found = {OVERALL: _nested(asked, columns, reduce)}
    for category, queries in _rows_by_category(query_categories).items():
        chosen = {name: column[queries] for name, column in columns.items()}
        found[category] = _nested(asked, chosen, reduce)
    return found


def calc_fnmr_at_fmr_rr(
    rr: RetrievalResults, fmr_vals: Sequence[float] = (0.1,)
) -> dict[str, dict[float, torch.Tensor]]:
    """{"fnmr@fmr": {fmr: tensor}} over the pairs that were retrieved; metrics.pairs.fnmr_at_fmr takes all pairs.

    Without retrieved wrong items (where OML crashes) or right ones, the figure is 0: nothing is known to be mixed up.
    """
    is_item = rr.padded_ids >= 0
    right = rr.padded_distances[rr.hits & is_item]
    wrong = rr.padded_distances[~rr.hits & is_item]
    return {"fnmr@fmr": fnmr_of_distances(right, wrong, fmr_vals)}


def fnmr_of_distances(right: torch.Tensor, wrong: torch.Tensor, fmr_vals: Sequence[float]) -> dict[float, torch.Tensor]:
    """{fmr: the share of the distances `right` (P,) at or above the quantile fmr of those that are `wrong` (N,)}."""
    if not all(0 <= fmr <= 1 for fmr in fmr_vals):
        raise InputError(f"fmr_vals={tuple(fmr_vals)} holds a rate outside 0 to 1")
    rates = {fmr: torch.tensor(0.0) for fmr in fmr_vals}
    if len(right) and len(wrong):
        thresholds = np.quantile(wrong.cpu().numpy(), fmr_vals)
        for fmr, threshold in zip(fmr_vals, thresholds):
            rates[fmr] = (right >= threshold).float().mean()
    return rates


def calc_topological_metrics(
    embeddings: torch.Tensor,
    pcf_variance: Sequence[float],
    categories: Sequence | np.ndarray | None = None,
    verbose: bool = False,
) -> dict[str, dict]:
    """{"pcf": {variance: tensor}} of embeddings (N, D); with categories (N,), for OVERALL and each of them."""
    if not len(pcf_variance):
        return {}
    if categories is None:
        return _fractions(embeddings, pcf_variance)
    found = {OVERALL: _fractions(embeddings, pcf_variance)}
    for category, rows in _rows_by_category(categories).items():
        found[category] = _fractions(embeddings[rows], pcf_variance)
    return found


def _fractions(embeddings: torch.Tensor, variances: Sequence[float]) -> dict[str, dict[float, torch.Tensor]]:
    fractions = component_fractions(embeddings, variances, "oml")
    return {"pcf": {variance: torch.tensor(fraction) for variance, fraction in fractions.items()}}


def check_ks(ks: Sequence[int]) -> None:
    """Raise InputError for what is no number of 1 or more, RefusedType for what is no list of them."""
    if not isinstance(ks, Iterable):
        raise RefusedType(f"top_k is {ks!r}; it is a list of numbers, such as (1, 5)")
    if not all(isinstance(k, int) and k > 0 for k in ks):
        raise InputError(f"top_k={tuple(ks)} holds something else than integers above 0")


def _rows_by_category(categories: Sequence | np.ndarray) -> dict[object, torch.Tensor]:
    """{category: its rows (n,) int64, ascending}."""
    names, codes = np.unique(np.asarray(categories), return_inverse=True)
    codes = torch.from_numpy(codes.reshape(-1))
    rows = codes.argsort(stable=True).split(codes.bincount().tolist())
    return dict(zip(names.tolist(), rows))


def _nested(asked: dict[str, Sequence[int]], columns: dict[str, torch.Tensor], reduce: bool) -> Nested:
    """Columns (Q,) by metric and k, or their means; metrics without a k are left out."""
    nested = {}
    for metric, ks in asked.items():
        if not ks:
            continue
        nested[metric] = {}
        for k in ks:
            column = columns[f"{metric}@{k}"]
            nested[metric][k] = column.mean() if reduce else column
    return nested
