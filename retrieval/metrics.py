"""Figures of retrieval from what each query found; every definition stands in docs/metrics.md with a worked example.

A metric takes what some queries found and gives one number a query; means are taken over all queries at once, overall
and by category. Nothing loops over queries.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch

from errors import InputError, near_match
from retrieval.ranks import MEMORY, positive_ranks
from retrieval.search import search_in_parts
from retrieval.task import Task

DEFINITIONS = ("standard", "oml", "pml")
DEFAULT = ("recall@1", "recall@5", "recall@10", "map@r", "r_precision", "mrr")


@dataclass(frozen=True)
class Found:
    """What Q queries found in their first K places.

    hits (Q, K) bool: right items. counts (Q,): how many items were found. positives (Q,): how many are right in the
    gallery. labels (Q, K) int64: the items' labels, where they are known (-1 behind the last item).
    """

    hits: torch.Tensor
    counts: torch.Tensor
    positives: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def of(cls, results):
        """From RetrievalResults. Raises InputError where labels are unknown."""
        return cls(results.hits, results.counts, results.positives)


def recall(found, k, definition):
    """1 where any of the first k items is right (also called cmc). oml: 1, too, for nothing found and nothing right."""
    value = found.hits[:, :k].any(1).double()
    return _nothing_expected(found, value) if definition == "oml" else value


def precision(found, k, definition):
    """Share of right items among the first k. oml: over the lesser of k, the items found and the right ones."""
    hits = found.hits[:, :k].sum(1).double()
    if definition == "oml":
        return _nothing_expected(found, hits / found.counts.clamp_max(k).minimum(found.positives).clamp_min(1))
    return hits / k


def average_precision(found, k, definition):
    """Sum of the precisions at the right items among the first k, over the lesser of k and the right ones there are.

    oml: over the right ones that are found, so what is missed costs nothing. pml: over all right ones, however small k.
    """
    total = _precisions(found.hits[:, :k]).sum(1)
    if definition == "oml":
        return _nothing_expected(found, total / found.hits[:, :k].sum(1).clamp_min(1))
    return total / (found.positives if definition == "pml" else found.positives.clamp_max(k)).clamp_min(1)


def average_precision_at_r(found, definition):
    """Average precision of the first R items, R being the query's right ones (arXiv 2003.08505 eq. 4)."""
    return (_precisions(found.hits) * _first_r(found)).sum(1) / found.positives.clamp_min(1)


def r_precision(found, definition):
    """Share of right items among the first R."""
    return (found.hits & _first_r(found)).sum(1).double() / found.positives.clamp_min(1)


def reciprocal_rank(found, definition):
    """One over the place of the first right item; 0 where none is among the items found."""
    first = found.hits.double().argmax(1) + 1
    return found.hits.any(1).double() / first


def knn_accuracy(found, k, definition):
    """1 where most of the k nearest items bear the query's label; of equally many, the label with the nearest item."""
    if found.labels is None:
        raise InputError("knn accuracy needs the items' labels, which these results do not hold")
    labels = found.labels[:, :k]
    votes = torch.zeros(labels.shape, dtype=torch.int64, device=labels.device)
    for column in labels.T:
        votes += labels == column[:, None]
    votes[labels < 0] = -1
    return found.hits[:, :k].gather(1, votes.argmax(1, keepdim=True))[:, 0].double()


def upper_bound(found, definition):
    """1 where anything is right at all: what recall can reach."""
    return (found.positives > 0).double()


METRICS = {
    "recall@k": recall,
    "cmc@k": recall,
    "precision@k": precision,
    "map@k": average_precision,
    "knn@k": knn_accuracy,
    "map@r": average_precision_at_r,
    "r_precision": r_precision,
    "mrr": reciprocal_rank,
    "upper_bound": upper_bound,
}
NEEDS_ALL_POSITIVES = (average_precision_at_r, r_precision)


def parse_metric(name):
    """A metric's function and its k (None for those without). Raises InputError, with the near match, for others."""
    form = name if name in METRICS else re.sub(r"@\d+$", "@k", name)
    if form not in METRICS or form == name and form.endswith("@k"):
        raise InputError(
            f"unknown metric {name!r}; there are: {', '.join(METRICS)}, with a number for k.{near_match(name, METRICS)}"
        )
    k = None if form == name else int(name.rsplit("@", 1)[1])
    if k == 0:
        raise InputError(f"metric {name!r}: k has to be 1 or more")
    return METRICS[form], k


def recall_at_k(embeddings, labels, ks=(1, 10), is_query=None, is_gallery=None, distance="cosine", memory=MEMORY):
    """Share of queries with their own label among their k nearest gallery rows, for each k: {k: float}.

    embeddings (N, D), labels (N,); without is_query and is_gallery (N,) bool, every row is both: one against the rest.
    A row never finds itself; a query without a positive is a miss; equal scores go by the smaller row; any k beyond the
    gallery means all of it. Raises InputError as Task.of does, and for k below 1.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} holds a k below 1")
    ranks = positive_ranks(Task.of(embeddings, labels, is_query, is_gallery), ks, distance, memory)
    return {k: (ranks < k).double().mean().item() for k in ks}


def values(found, names=DEFAULT, definition="standard"):
    """{name: (Q,) float64} of the metrics `names` such as recall@10 or map@r.

    definition: standard, or the peer's own where it differs: oml (Open Metric Learning), pml (pytorch-metric-learning).
    Raises InputError for an unknown metric or definition.
    """
    if definition not in DEFINITIONS:
        raise InputError(
            f"unknown definition {definition!r}; there are: {', '.join(DEFINITIONS)}."
            f"{near_match(definition, DEFINITIONS)}"
        )
    figures = {}
    for name in names:
        function, k = parse_metric(name)
        figures[name] = function(found, definition) if k is None else function(found, k, definition)
    return figures


@torch.no_grad()
def task_values(task, names=DEFAULT, definition="standard", distance="cosine", memory=MEMORY):
    """`values` of a Task, as many of the nearest items searched for as the metrics need, some queries at a time.

    Recall alone needs no search, only the rank of the best positive (retrieval/ranks.py). mrr is over the whole
    gallery. k beyond the gallery means all of it. Raises InputError where labels are unknown.
    """
    chosen, size, positives = {name: parse_metric(name) for name in names}, len(task.gallery_rows), task.positives()
    by_rank = {name for name, (function, _) in chosen.items() if function in (recall, reciprocal_rank, upper_bound)}
    if definition in ("standard", "pml") and by_rank == set(names):
        whole = any(function is reciprocal_rank for function, _ in chosen.values())
        ks = sorted({k for _, k in chosen.values() if k})
        ranks = positive_ranks(task, None if whole or not ks else ks, distance, memory)
        return {name: _of_ranks(ranks, *chosen[name]) for name in names}
    depth = max([k or 1 for _, k in chosen.values()])
    if any(function in NEEDS_ALL_POSITIVES for function, _ in chosen.values()):
        depth = max(depth, int(positives.max()))
    figures = {name: [] for name in names}
    clipped = [
        (name if k is None or k <= size else name.replace(f"@{k}", f"@{size}")) for name, (_, k) in chosen.items()
    ]
    label_of_row = torch.zeros(len(task.gallery_table), dtype=torch.int64, device=task.device)
    label_of_row[task.gallery_rows] = task.gallery_labels
    for queries, rows, _ in search_in_parts(task, depth, distance, memory):
        labels = label_of_row[rows.clamp_min(0)].masked_fill(rows < 0, -1)
        hits = labels == task.query_labels[queries, None]
        found = Found(hits, (rows >= 0).sum(1), positives[queries], labels)
        for name, column in zip(names, values(found, clipped, definition).values()):
            figures[name].append(column)
    figures = {name: torch.cat(columns) for name, columns in figures.items()}
    for name in [name for name, (function, _) in chosen.items() if function is reciprocal_rank]:
        missed = ((figures[name] == 0) & (positives > 0)).nonzero().flatten()
        if len(missed):
            ranks = positive_ranks(task.query_slice(missed), None, distance, memory)
            figures[name][missed] = 1 / (1 + ranks)
    return figures


def summary(figures, positives, categories=None, skip_lone=False):
    """Means of per-query figures: {"overall": {name: float}, "categories": {category: {name: float}}}.

    positives (Q,): right items of each query; skip_lone leaves out queries that have none (pytorch-metric-learning's
    rule), which else count with what they have: 0, a miss. categories: (Q,) array or None. "queries" and "lone_queries"
    (before any is left out) stand beside the figures; a figure of no query is None.
    """
    columns = {name: column.double().cpu() for name, column in figures.items()}
    lone = (positives == 0).cpu()
    counted = ~lone if skip_lone else torch.ones_like(lone)
    groups, codes = (["overall"], torch.zeros(len(lone), dtype=torch.int64))
    overall = _means(columns, codes, counted, lone, groups)["overall"]
    if categories is None:
        return {"overall": overall, "categories": {}}
    groups, codes = np.unique(np.asarray(categories).astype(str), return_inverse=True)
    return {
        "overall": overall,
        "categories": _means(columns, torch.from_numpy(codes.reshape(-1)), counted, lone, groups.tolist()),
    }


def _means(columns, codes, counted, lone, groups):
    """Means by group, each column in one pass."""
    number = codes[counted].bincount(minlength=len(groups))
    alone = codes[lone].bincount(minlength=len(groups))
    means = {
        name: (codes[counted].bincount(column[counted], minlength=len(groups)) / number).tolist()
        for name, column in columns.items()
    }
    return {
        group: {
            **{name: means[name][i] if number[i] else None for name in columns},
            "queries": int(number[i]),
            "lone_queries": int(alone[i]),
        }
        for i, group in enumerate(groups)
    }


def _precisions(hits):
    """Precision at each place that holds a right item, 0 elsewhere."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return hits.cumsum(1).double() / places * hits


def _first_r(found):
    places = torch.arange(found.hits.shape[1], device=found.hits.device)
    return places < found.positives[:, None]


def _nothing_expected(found, value):
    """OML's rule: who found nothing and had nothing to find is perfect."""
    return torch.where((found.counts == 0) & (found.positives == 0), 1.0, value)


def _of_ranks(ranks, function, k):
    if function is reciprocal_rank:
        return 1 / (1 + ranks)
    return (ranks < (torch.inf if function is upper_bound else k)).double()
