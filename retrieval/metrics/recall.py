"""Whether and where the first right item stands: recall@k, cmc@k, mrr and their upper bound."""

import torch

from retrieval.metrics.ranking import Ranked, perfect_if_nothing_expected, register_metric


def is_found(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """1 where fewer than k items come before the best positive."""
    return (ranks < k).double()


def has_rank(ranks: torch.Tensor, k: None) -> torch.Tensor:
    """1 where there is a positive."""
    return (ranks < torch.inf).double()


def inverse_place(ranks: torch.Tensor, k: None) -> torch.Tensor:
    """One over the place of the best positive, 0 without one."""
    return 1 / (1 + ranks)


@register_metric("cmc@k", "CMC@{k}", "Queries with a right item among their {k} nearest.", of_rank=is_found)
@register_metric("recall@k", "Recall@{k}", "Queries with a right item among their {k} nearest.", of_rank=is_found)
def recall(ranked: Ranked, k: int, definition: str) -> torch.Tensor:
    """1 where any of the first k items is right (also called cmc). oml: 1, too, for nothing found and nothing right."""
    is_hit = ranked.hits[:, :k].any(1).double()
    if definition == "oml":
        return perfect_if_nothing_expected(ranked, is_hit)
    return is_hit


@register_metric(
    "mrr",
    "MRR",
    "One over the place of the first right item: first 100, second 50, third 33.",
    of_rank=inverse_place,
    needs_exact_rank=True,
)
def reciprocal_rank(ranked: Ranked, k: None, definition: str) -> torch.Tensor:
    """One over the place of the first right item; 0 where none is among the items found."""
    # argmax finds the first of equal ones; where nothing is right it finds place 1, which the factor below undoes.
    first = ranked.hits.double().argmax(1) + 1
    return ranked.hits.any(1).double() / first


@register_metric(
    "upper_bound",
    "Upper bound",
    "Queries that have any right item at all: the most that recall can reach.",
    of_rank=has_rank,
)
def upper_bound(ranked: Ranked, k: None, definition: str) -> torch.Tensor:
    """1 where anything is right at all: what recall can reach."""
    return (ranked.positives > 0).double()
