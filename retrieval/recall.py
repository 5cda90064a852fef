"""Recall@k of embeddings, one against the rest, exact and in blocks: N x N is never held."""

import torch

from errors import InputError

BLOCK_BYTES = 32 * 2**20


@torch.no_grad()
def recall_at_k(embeddings, labels, ks=(1, 10), block_bytes=BLOCK_BYTES, is_query=None, is_gallery=None):
    """Share of queries that find their own label among their k nearest gallery rows, for each k: {k: float}.

    Without `is_query` and `is_gallery` (N,) bool, every row is both: one against the rest.

    Nearest is by cosine; of equal scores the smaller row index comes first, and equal rows do score equally. A row
    never finds itself (it is left out by index, so a duplicate of it counts). A query without a
    positive in the gallery is a miss. Any k beyond the gallery means all of it. A zero row has cosine 0 to everything.

    embeddings: (N, D), labels: (N,) integers, both torch tensors or numpy arrays; the search runs on the embeddings'
    device, in float32 or float64. block_bytes is the size of one block of scores; up to four such are alive, beside
    the embeddings and two copies of them.
    Raises InputError for no rows, shapes that do not match, k below 1, and NaN or infinite embeddings.
    """
    rows, labels = checked(embeddings, labels, ks)
    queries, gallery = chosen(is_query, rows, "query"), chosen(is_gallery, rows, "gallery")
    ranks = positive_ranks(rows, labels, queries, gallery, block_bytes)
    return {k: (ranks < k).double().mean().item() for k in ks}


def chosen(mask, rows, role):
    """Indices of the rows that `mask` (N,) bool sets, all of them for None."""
    mask = torch.ones(len(rows), dtype=torch.bool) if mask is None else torch.as_tensor(mask, dtype=torch.bool)
    if mask.shape != (len(rows),) or not mask.any():
        raise InputError(
            f"is_{role} has shape {tuple(mask.shape)} with {int(mask.sum())} set; recall needs ({len(rows)},), one set"
        )
    return mask.nonzero().flatten().to(rows.device)


def checked(embeddings, labels, ks):
    """Unit vectors (N, D) and labels renumbered from 0, as tensors on one device."""
    rows, labels = torch.as_tensor(embeddings), torch.as_tensor(labels)
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"embeddings have shape {tuple(rows.shape)}; recall takes (N, D) with N >= 1")
    if labels.shape != (len(rows),) or labels.is_floating_point():
        raise InputError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"{len(rows)} embeddings need integers of shape ({len(rows)},)"
        )
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} holds a k below 1")
    rows = rows if rows.dtype == torch.float64 else rows.float()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    broken = (~lengths.isfinite()).flatten().nonzero().flatten().tolist()
    if broken:
        raise InputError(f"{len(broken)} of {len(rows)} embeddings are NaN or infinite, first in rows {broken[:5]}")
    return rows / lengths.where(lengths > 0, 1), labels.to(rows.device).unique(return_inverse=True)[1]


def positive_ranks(rows, labels, queries, gallery, block_bytes):
    """How many gallery rows come before the best positive of each query; infinity for a query without positives.

    One count answers every k, so nothing is sorted: the best positive's score is a threshold, and what lies above it
    can only be negatives.
    """
    numbers = torch.arange(len(rows), device=rows.device)
    by_label = gallery[labels[gallery].argsort(stable=True)]
    counts = labels[gallery].bincount(minlength=int(labels.max()) + 1)
    starts = counts.cumsum(0) - counts
    outside = numbers[~torch.isin(numbers, gallery)]
    distinct, position = rows.unique(dim=0, return_inverse=True)
    ranks = []
    for block in queries.split(max(1, block_bytes // (len(rows) * rows.element_size()))):
        # Equal rows must tie, yet equal columns of a matrix product may round differently: score each vector once.
        repeated = len(distinct) < len(rows)
        scores = product(rows[block], distinct).index_select(1, position) if repeated else product(rows[block], rows)
        scores[numbers[: len(block)], block] = -torch.inf
        scores[:, outside] = -torch.inf
        own = labels[block]
        slots = torch.arange(max(1, counts[own].max()), device=rows.device)
        columns = by_label[(starts[own][:, None] + slots).clamp_max(len(by_label) - 1)]
        foreign = (slots >= counts[own][:, None]) | (columns == block[:, None])
        best, slot = scores.gather(1, columns).masked_fill(foreign, -torch.inf).max(1, keepdim=True)
        before = count_before(scores, best, columns.gather(1, slot), numbers).float()
        ranks.append(before.masked_fill(foreign.all(1), torch.inf))
    return torch.cat(ranks)


def product(queries, gallery):
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ gallery.T


def count_before(scores, best, first, numbers):
    """Columns of each row of `scores` above `best`, or equal to it and left of column `first`; both (rows, 1)."""
    buffer = torch.empty_like(scores)  # comparisons written and summed as floats are several times faster than bools
    before = torch.gt(scores, best, out=buffer).sum(1)
    tied = torch.eq(scores, best, out=buffer).sum(1) > 1
    before[tied] += ((scores[tied] == best[tied]) & (numbers < first[tied])).sum(1)
    return before
