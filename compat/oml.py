"""Open Metric Learning's functions under their names and with its definitions, so that scripts written for it run.

from retrieval import RetrievalResults
from retrieval.oml import calc_retrieval_metrics_rr
"""

import numpy as np
import torch

from core.errors import InputError
from retrieval.metrics.components import component_fractions
from retrieval.metrics.ranking import Ranked, values

OVERALL = "OVERALL"


def calc_retrieval_metrics_rr(
    rr, query_categories=None, cmc_top_k=(5,), precision_top_k=(5,), map_top_k=(5,), reduce=True, verbose=True
):
    """{"cmc": {k: tensor}, "precision": {k: tensor}, "map": {k: tensor}} of RetrievalResults.

    With query_categories (Q,), one such for OVERALL and for each category. reduce False: tensors (Q,) instead of means.
    verbose is taken and has no effect. Where OML gives NaN, for a query without right items, this gives 0.
    """
    found = Ranked.of(rr)
    asked = {"cmc": cmc_top_k, "precision": precision_top_k, "map": map_top_k}
    names = [f"{kind}@{k}" for kind, ks in asked.items() for k in _positive(ks)]
    columns = {name: column.float() for name, column in values(found, names, "oml").items()}
    return _by_category(asked, columns, query_categories, reduce, len(rr))


def calc_fnmr_at_fmr_rr(rr, fmr_vals=(0.1,)):
    """{"fnmr@fmr": {fmr: tensor}} over the pairs that were retrieved; retrieval.pairs.fnmr_at_fmr takes all pairs.

    Without retrieved wrong items (where OML crashes) or right ones, the figure is 0: nothing is known to be mixed up.
    """
    found = rr.padded_ids >= 0
    right, wrong = (rr.padded_distances[kind & found] for kind in (rr.hits, ~rr.hits))
    if not all(0 <= fmr <= 1 for fmr in fmr_vals):
        raise InputError(f"fmr_vals={tuple(fmr_vals)} holds a rate outside 0 to 1")
    rates = {fmr: torch.tensor(0.0) for fmr in fmr_vals}
    if len(right) and len(wrong):
        thresholds = np.quantile(wrong.cpu().numpy(), fmr_vals)
        rates = {fmr: (right >= limit).float().mean() for fmr, limit in zip(fmr_vals, thresholds)}
    return {"fnmr@fmr": rates}


def calc_topological_metrics(embeddings, pcf_variance, categories=None, verbose=False):
    """{"pcf": {variance: tensor}} of embeddings (N, D); with categories (N,), for OVERALL and each of them."""

    def fractions(rows):
        return {"pcf": {v: torch.tensor(f) for v, f in component_fractions(rows, pcf_variance, "oml").items()}}

    if categories is None or not len(pcf_variance):
        return fractions(embeddings) if len(pcf_variance) else {}
    categories = np.asarray(categories)
    chosen = {category: torch.from_numpy(categories == category) for category in np.unique(categories)}
    return {OVERALL: fractions(embeddings), **{name: fractions(embeddings[rows]) for name, rows in chosen.items()}}


def _positive(ks):
    if not all(isinstance(k, int) and k > 0 for k in ks):
        raise InputError(f"top_k={tuple(ks)} holds something else than integers above 0")
    return ks


def _by_category(asked, columns, categories, reduce, queries):
    """Columns (Q,) in OML's nested form, for everyone and for each category."""
    if categories is None:
        return _nested(asked, columns, reduce)
    categories = np.asarray(categories)
    if len(categories) != queries:
        raise InputError(f"{len(categories)} categories for {queries} queries")
    names, codes = np.unique(categories, return_inverse=True)
    codes = torch.from_numpy(codes.reshape(-1))
    parts = codes.argsort(stable=True).split(codes.bincount().tolist())
    groups = {OVERALL: columns}
    for name, part in zip(names.tolist(), parts):
        groups[name] = {key: column[part] for key, column in columns.items()}
    return {name: _nested(asked, own, reduce) for name, own in groups.items()}


def _nested(asked, columns, reduce):
    return {
        kind: {k: columns[f"{kind}@{k}"].mean() if reduce else columns[f"{kind}@{k}"] for k in ks}
        for kind, ks in asked.items()
        if ks
    }
