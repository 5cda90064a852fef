"""How many of the first items are right: precision@k and R-precision."""

import torch

from retrieval.metrics.ranking import Ranked, in_first_r, perfect_if_nothing_expected, register_metric


@register_metric(
    "precision@k",
    "Precision@{k}",
    "Right items among a query's {k} nearest, as a share of {k}.",
    meanings={"oml": "Right items among a query's {k} nearest, as a share of {k}, or of R if fewer are right."},
)
def precision(ranked: Ranked, k: int, definition: str) -> torch.Tensor:
    """Share of right items among the first k. oml: over the lesser of k, the items found and the right ones."""
    hits = ranked.hits[:, :k].sum(1).double()
    if definition == "oml":
        most = ranked.counts.clamp_max(k).minimum(ranked.positives)
        return perfect_if_nothing_expected(ranked, hits / most.clamp_min(1))
    return hits / k


@register_metric(
    "r_precision",
    "R-precision",
    "Right items among the R nearest, R being the number of right items there are.",
    needs_all_positives=True,
)
def r_precision(ranked: Ranked, k: None, definition: str) -> torch.Tensor:
    """Share of right items among the first R."""
    return (ranked.hits & in_first_r(ranked)).sum(1).double() / ranked.positives.clamp_min(1)
