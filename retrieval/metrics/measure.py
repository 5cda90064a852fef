"""Metrics of whole tasks: one figure a query, then means overall and by category."""

import numpy as np
import torch

from core.errors import InputError
from retrieval.best_positive import MEMORY, positive_ranks
from retrieval.metrics.ranking import (
    DEFAULT,
    NEED_ALL_POSITIVES,
    Ranked,
    parse_metric,
    recall,
    reciprocal_rank,
    upper_bound,
    values,
)
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search_in_parts


def recall_at_k(embeddings, labels, ks=(1, 10), is_query=None, is_gallery=None, distance="cosine", memory=MEMORY):
    """Share of queries with their own label among their k nearest gallery rows, for each k: {k: float}.

    embeddings (N, D), labels (N,); without is_query and is_gallery (N,) bool, every row is both: one against the rest.
    A row never finds itself; a query without a positive is a miss; equal scores go by the smaller row; any k beyond the
    gallery means all of it. Raises InputError as Task.of does, and for k below 1.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} holds a k below 1")
    ranks = positive_ranks(QueryGallery.of(embeddings, labels, is_query, is_gallery), ks, distance, memory)
    return {k: (ranks < k).double().mean().item() for k in ks}


@torch.no_grad()
def task_values(task, names=DEFAULT, definition="standard", distance="cosine", memory=MEMORY, shard=None):
    """`values` of a Task, as many of the nearest items searched for as the metrics need, some queries at a time.

    Recall alone needs no search, only the rank of the best positive (retrieval/ranks.py). mrr is over the whole
    gallery. k beyond the gallery means all of it. shard: the Shard of this rank, where each has a part of the
    embeddings; the task then tells of all of them, and its tables do not count. Raises InputError where labels are
    unknown.
    """
    search, rank = (shard.search_in_parts, shard.positive_ranks) if shard else (search_in_parts, positive_ranks)
    chosen, size, positives = {name: parse_metric(name) for name in names}, len(task.gallery_rows), task.positives()
    by_rank = {name for name, (function, _) in chosen.items() if function in (recall, reciprocal_rank, upper_bound)}
    if definition in ("standard", "pml") and by_rank == set(names):
        whole = any(function is reciprocal_rank for function, _ in chosen.values())
        ks = sorted({k for _, k in chosen.values() if k})
        ranks = rank(task, None if whole or not ks else ks, distance, memory)
        return {name: _of_ranks(ranks, *chosen[name]) for name in names}
    depth = max([k or 1 for _, k in chosen.values()])
    if any(function in NEED_ALL_POSITIVES for function, _ in chosen.values()):
        depth = max(depth, int(positives.max()))
    figures = {name: [] for name in names}
    clipped = [
        (name if k is None or k <= size else name.replace(f"@{k}", f"@{size}")) for name, (_, k) in chosen.items()
    ]
    label_of_row = torch.zeros(len(task.gallery_table), dtype=torch.int64, device=task.device)
    label_of_row[task.gallery_rows] = task.gallery_labels
    for queries, rows, _ in search(task, depth, distance, memory):
        labels = label_of_row[rows.clamp_min(0)].masked_fill(rows < 0, -1)
        hits = labels == task.query_labels[queries, None]
        found = Ranked(hits, (rows >= 0).sum(1), positives[queries], labels)
        part = values(found, dict.fromkeys(clipped), definition)
        for name, clip in zip(chosen, clipped):
            figures[name].append(part[clip])
    figures = {name: torch.cat(columns) for name, columns in figures.items()}
    for name in [name for name, (function, _) in chosen.items() if function is reciprocal_rank]:
        missed = ((figures[name] == 0) & (positives > 0)).nonzero().flatten()
        if len(missed):
            ranks = rank(task.query_slice(missed), None, distance, memory)
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


def _of_ranks(ranks, function, k):
    if function is reciprocal_rank:
        return 1 / (1 + ranks)
    return (ranks < (torch.inf if function is upper_bound else k)).double()
