"""Metrics of queries against a gallery: one figure a query, then means overall and by category."""

from collections.abc import Iterable

import numpy as np
import torch

from core.errors import InputError
from core.slices import MEMORY
from retrieval.best_positive import positive_ranks
from retrieval.metrics.ranking import DEFAULT, METRICS, Ranked, parse_metric, values
from retrieval.query_gallery import Column, QueryGallery
from retrieval.sharded import GalleryShard
from retrieval.topk import search_in_parts
from retrieval.wide import is_wide, search_wide_in_parts

Means = dict[str, float | int | None]


def recall_at_k(
    embeddings: np.ndarray | torch.Tensor,
    labels: Column,
    ks: Iterable[int] = (1, 10),
    is_query: Column | None = None,
    is_gallery: Column | None = None,
    distance: str = "cosine",
    memory: int = MEMORY,
) -> dict[int, float]:
    """Share of queries with their own label among their k nearest gallery rows, for each k: {k: float}.

    embeddings (N, D), labels (N,); without is_query and is_gallery (N,) bool, every row is both: one against the rest.
    A row never finds itself; a query without a positive is a miss; equal scores go by the smaller row; any k beyond the
    gallery means all of it. Raises InputError as QueryGallery.of does, and for k below 1.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} holds a k below 1")
    # Whether the best positive is among the first k takes no sorting.
    ranks = positive_ranks(QueryGallery.of(embeddings, labels, is_query, is_gallery), ks, distance, memory)
    return {k: (ranks < k).double().mean().item() for k in ks}


@torch.no_grad()
def query_values(
    query_gallery: QueryGallery,
    names: Iterable[str] = DEFAULT,
    definition: str = "standard",
    distance: str = "cosine",
    memory: int = MEMORY,
    shard: GalleryShard | None = None,
) -> dict[str, torch.Tensor]:
    """`ranking.values` of all queries, (Q,) each: as many items are searched for as the metrics need, some queries at a
    time.

    Recall alone needs no search, only the rank of the best positive (retrieval/best_positive.py). mrr is over the whole
    gallery. k beyond the gallery means all of it. shard: the GalleryShard of this rank, where each has some of the
    embeddings; query_gallery is then of all of them, around a placeholder. Raises InputError where labels are unknown.
    """
    rank = positive_ranks if shard is None else shard.positive_ranks
    search = search_in_parts if shard is None else shard.search_in_parts
    reads_blocks = shard is None and is_wide(query_gallery, memory)
    if reads_blocks:
        search = search_wide_in_parts
    parsed = {name: parse_metric(name) for name in names}
    forms = [form for form, _ in parsed.values()]
    positives = query_gallery.positives()

    # Where every metric follows from the rank of the best positive, nothing is searched for: it is counted, with items
    # sorted by label, which of a table on the disk would be a read each.
    needs_exact_rank = any(METRICS.fact(form, "needs_exact_rank") for form in forms)
    follow_from_rank = definition in ("standard", "pml") and all(METRICS.fact(form, "of_rank") for form in forms)
    if follow_from_rank and (needs_exact_rank or not reads_blocks):
        ks = sorted({k for _, k in parsed.values() if k})
        if not ks or needs_exact_rank:
            ks = None
        ranks = rank(query_gallery, ks, distance, memory)
        return {name: METRICS.fact(form, "of_rank")(ranks, k) for name, (form, k) in parsed.items()}

    depth = max(k or 1 for _, k in parsed.values())
    if any(METRICS.fact(form, "needs_all_positives") for form in forms):
        depth = max(depth, int(positives.max()))
    found = search(query_gallery, depth, distance, memory)
    figures = _values_of_found(query_gallery, parsed, positives, definition, found)

    # Where the first right item lies deeper than the search went, what comes before it is counted.
    for name, (form, k) in parsed.items():
        if METRICS.fact(form, "needs_exact_rank"):
            missed = ((figures[name] == 0) & (positives > 0)).nonzero().flatten()
            if len(missed):
                ranks = rank(query_gallery.query_slice(missed), None, distance, memory)
                figures[name][missed] = METRICS.fact(form, "of_rank")(ranks, k)
    return figures


def _values_of_found(
    query_gallery: QueryGallery,
    parsed: dict[str, tuple[str, int | None]],
    positives: torch.Tensor,
    definition: str,
    found: Iterable[tuple[slice, torch.Tensor, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """The metrics, {name: (form, k)}, of what some queries at a time have found, as `search_in_parts` gives it."""
    # Some metrics divide by k, so a k beyond the gallery becomes its size before they are asked.
    gallery_size = len(query_gallery.gallery_rows)
    clipped = {name: _clipped(name, k, gallery_size) for name, (_, k) in parsed.items()}
    # What is found are rows of the table, of which those of the gallery have a label.
    label_of_row = torch.zeros(len(query_gallery.gallery_table), dtype=torch.int64, device=query_gallery.device)
    label_of_row[query_gallery.gallery_rows] = query_gallery.gallery_labels
    columns = {name: [] for name in parsed}
    for queries, rows, _ in found:
        labels = label_of_row[rows.clamp_min(0)].masked_fill(rows < 0, -1)
        ranked = Ranked(
            hits=labels == query_gallery.query_labels[queries, None],
            counts=(rows >= 0).sum(1),
            positives=positives[queries],
            labels=labels,
        )
        figures = values(ranked, dict.fromkeys(clipped.values()), definition)
        for name, clipped_name in clipped.items():
            columns[name].append(figures[clipped_name])
    return {name: torch.cat(parts) for name, parts in columns.items()}


def _clipped(name: str, k: int | None, gallery_size: int) -> str:
    """The name of a metric with a k of at most the gallery's size."""
    if k is None or k <= gallery_size:
        return name
    return name.replace(f"@{k}", f"@{gallery_size}")


def summary(
    figures: dict[str, torch.Tensor],
    positives: torch.Tensor,
    categories: Column | None = None,
    skip_lone: bool = False,
) -> dict[str, dict]:
    """Means of per-query figures: {"overall": {name: float}, "categories": {category: {name: float}}}.

    positives (Q,): right items of each query; skip_lone leaves out queries that have none (pytorch-metric-learning's
    rule), which else count with what they have: 0, a miss. categories: (Q,) array or None. "queries" and "lone_queries"
    (before any is left out) stand beside the figures; a figure of no query is None.
    """
    columns = {name: column.double().cpu() for name, column in figures.items()}
    is_lone = (positives == 0).cpu()
    is_counted = ~is_lone if skip_lone else torch.ones_like(is_lone)
    # Everybody is one group, so that both means are made in one way.
    everyone = torch.zeros(len(is_lone), dtype=torch.int64)
    overall = _means(columns, everyone, ["overall"], is_counted, is_lone)["overall"]
    if categories is None:
        return {"overall": overall, "categories": {}}
    names, codes = np.unique(np.asarray(categories).astype(str), return_inverse=True)
    codes = torch.from_numpy(codes.reshape(-1))
    return {"overall": overall, "categories": _means(columns, codes, names.tolist(), is_counted, is_lone)}


def _means(
    columns: dict[str, torch.Tensor],
    codes: torch.Tensor,
    groups: list[str],
    is_counted: torch.Tensor,
    is_lone: torch.Tensor,
) -> dict[str, Means]:
    """Means by group, each column in one pass; codes (Q,): the group of each query."""
    counted = codes[is_counted]
    query_counts = counted.bincount(minlength=len(groups))
    lone_counts = codes[is_lone].bincount(minlength=len(groups))
    means = {}
    for name, column in columns.items():
        sums = counted.bincount(column[is_counted], minlength=len(groups))
        means[name] = (sums / query_counts).tolist()
    found = {}
    for code, group in enumerate(groups):
        queries = int(query_counts[code])
        found[group] = {name: means[name][code] if queries else None for name in columns}
        found[group]["queries"] = queries
        found[group]["lone_queries"] = int(lone_counts[code])
    return found
