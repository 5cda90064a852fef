"""Precision at the right items, averaged: MAP@k and MAP@R."""

import torch

from retrieval.metrics.ranking import (
    Ranked,
    in_first_r,
    perfect_if_nothing_expected,
    precisions,
    register_metric,
)


@register_metric(
    "map@k",
    "MAP@{k}",
    "The precision at each right item among the {k} nearest, averaged: they count more the earlier they come.",
    meanings={
        "oml": "The precision at each right item among the {k} nearest, averaged over those that are found there.",
        "pml": "The precision at each right item among the {k} nearest, averaged over all right items there are.",
    },
)
def average_precision(ranked: Ranked, k: int, definition: str) -> torch.Tensor:
    """Sum of the precisions at the right items among the first k, over the lesser of k and the right ones there are.

    oml: over the right ones that are found, so what is missed costs nothing. pml: over all right ones, however small k.
    """
    total = precisions(ranked.hits[:, :k]).sum(1)
    if definition == "oml":
        right_found = ranked.hits[:, :k].sum(1)
        return perfect_if_nothing_expected(ranked, total / right_found.clamp_min(1))
    if definition == "pml":
        return total / ranked.positives.clamp_min(1)
    return total / ranked.positives.clamp_max(k).clamp_min(1)


@register_metric(
    "map@r",
    "MAP@R",
    "The precision at each right item among the R nearest, averaged over R, the number of right items there are.",
    needs_all_positives=True,
)
def average_precision_at_r(ranked: Ranked, k: None, definition: str) -> torch.Tensor:
    """Average precision of the first R items, R being the query's right ones (arXiv 2003.08505 eq. 4)."""
    return (precisions(ranked.hits) * in_first_r(ranked)).sum(1) / ranked.positives.clamp_min(1)
