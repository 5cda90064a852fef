"""The table of re-rankers, and the steps that several of them take."""

from collections.abc import Callable

import torch

from core.errors import InputError
from core.registry import Registry
from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults, as_distances
from retrieval.topk import search

POSTPROCESSORS = Registry("post-processor")

# What somebody who sees the items says of pairs: rows of the queries' table (P,) and of the gallery's (P,), int64 on
# the CPU -> distances (P,), float32 on the CPU.
PairDistances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def expanded(
    rows: torch.Tensor, results: RetrievalResults, table: torch.Tensor, items: int, alpha: float
) -> torch.Tensor:
    """Unit vectors of rows (n, D) plus those of each row's first `items` results in `table`, weighted by cosine."""
    ids = results.padded_ids[:, :items].to(table.device)
    cosines = (1 - results.padded_distances[:, :items]).to(table.device).clamp_min(0)
    weights = torch.where(ids == NOWHERE, 0, cosines**alpha)
    total = torch.nn.functional.normalize(rows.float(), dim=1)
    # Item by item: (Q, items, D) at once would be too much.
    for column, weight in zip(ids.T, weights.T):
        total += weight[:, None] * torch.nn.functional.normalize(table[column.clamp_min(0)].float(), dim=1)
    return total


def searched_again(results: RetrievalResults, query_gallery: QueryGallery) -> RetrievalResults:
    """Results from other embeddings of the same queries and gallery, as many items each."""
    ids, scores = search(query_gallery, results.padded_ids.shape[1])
    return results.replaced(as_distances(scores, "cosine"), ids)


def first_items(results: RetrievalResults, counts: torch.Tensor) -> RetrievalResults:
    """The first counts (Q,) items of each query."""
    is_beyond = torch.arange(results.padded_ids.shape[1], device=counts.device) >= counts[:, None]
    ids = results.padded_ids.masked_fill(is_beyond, NOWHERE)
    return results.replaced(results.padded_distances.masked_fill(is_beyond, torch.inf), ids)


def at_least_one(value: int, name: str) -> int:
    """The value of the option `name`. Raises InputError for one below 1."""
    if value < 1:
        raise InputError(f"{name} is {value}; at least one item has to be added")
    return value
