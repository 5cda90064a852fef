"""The table of metrics of a ranking: what some queries found in, one number a query out, nothing loops over queries.

A metric is a function with one `@register_metric(...)` line in a file of this folder; names, titles, sentences and the
search that it needs follow from that line. Every definition stands in docs/metrics.md with a worked example.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from core.errors import InputError, near_match
from core.registry import Registry
from retrieval.results import RetrievalResults

DEFINITIONS = ("standard", "oml", "pml")
DEFAULT = ("recall@1", "recall@5", "recall@10", "map@r", "r_precision", "mrr")

METRICS = Registry("metric")


@dataclass(frozen=True)
class Ranked:
    """What Q queries found in their first K places.

    hits (Q, K) bool: right items. counts (Q,): how many items were found. positives (Q,): how many are right in the
    gallery. labels (Q, K) int64: the items' labels, where they are known (-1 behind the last item).
    """

    hits: torch.Tensor
    counts: torch.Tensor
    positives: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def of(cls, results: RetrievalResults) -> "Ranked":
        """From RetrievalResults. Raises InputError where labels are unknown."""
        return cls(results.hits, results.counts, results.positives)


Metric = Callable[[Ranked, int | None, str], torch.Tensor]
OfRank = Callable[[torch.Tensor, int | None], torch.Tensor]


def register_metric(
    form: str,
    title: str,
    meaning: str,
    *,
    meanings: dict[str, str] | None = None,
    of_rank: OfRank | None = None,
    needs_exact_rank: bool = False,
    needs_all_positives: bool = False,
) -> Callable[[Metric], Metric]:
    """Decorate a function (Ranked, k or None, definition) -> (Q,) float64 to enter it under `form`.

    form: its name, ending in @k where it takes a number. title, meaning: what a page calls it and a sentence on it,
    both with {k}; meanings: {definition: meaning} where that is another one. of_rank: the same figure under the
    definitions standard and pml, of the number of items before the best positive alone, (Q,) float64 and k;
    needs_exact_rank: it has to be that number, not only on which side of k it is. needs_all_positives: as many items
    are looked for as the query with the most right ones has.
    """
    return METRICS.register(
        form,
        title=title,
        meaning=meaning,
        meanings=meanings or {},
        of_rank=of_rank,
        needs_exact_rank=needs_exact_rank,
        needs_all_positives=needs_all_positives,
    )


def parse_metric(name: str) -> tuple[str, int | None]:
    """The form of a metric such as recall@10 and its k: ("recall@k", 10); None for the k of those without.

    Raises InputError, with the near match, for others.
    """
    # map@r has no number to take, recall@k has.
    forms = METRICS.names()
    takes_k = name not in forms
    form = re.sub(r"@\d+$", "@k", name) if takes_k else name
    if form not in forms or form == name and form.endswith("@k"):
        raise InputError(
            f"unknown metric {name!r}; there are: {', '.join(forms)}, with a number for k.{near_match(name, forms)}"
        )
    if not takes_k:
        return form, None
    k = int(name.rsplit("@", 1)[1])
    if k == 0:
        raise InputError(f"metric {name!r}: k has to be 1 or more")
    return form, k


def parse_metrics(text: str) -> tuple[str, ...]:
    """A comma-separated list of metrics as a tuple of their names. Raises InputError as parse_metric does."""
    names = tuple(word for word in text.split(",") if word)
    for name in names:
        parse_metric(name)
    if not names:
        raise InputError("no metric is named")
    return names


def values(ranked: Ranked, names: Iterable[str] = DEFAULT, definition: str = "standard") -> dict[str, torch.Tensor]:
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
        form, k = parse_metric(name)
        figures[name] = METRICS[form](ranked, k, definition)
    return figures


def describe(name: str, definition: str = "standard") -> tuple[str, str]:
    """(title, meaning) of a metric such as recall@10; an unknown one is its own title and has no meaning."""
    try:
        form, k = parse_metric(name)
    except InputError:
        return name, ""
    title = METRICS.fact(form, "title").format(k=k)
    # "1 nearest" is no English.
    if form in ("recall@k", "cmc@k") and k == 1:
        return title, "Queries whose nearest item is right."
    meaning = METRICS.fact(form, "meaning")
    meaning = METRICS.fact(form, "meanings").get(definition, meaning)
    return title, meaning.format(k=k)


def precisions(hits: torch.Tensor) -> torch.Tensor:
    """(Q, K): the precision at each place that holds a right item, 0 elsewhere."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return hits.cumsum(1).double() / places * hits


def in_first_r(ranked: Ranked) -> torch.Tensor:
    """(Q, K) bool: whether a place is among the query's first R, R being the number of its right items."""
    places = torch.arange(ranked.hits.shape[1], device=ranked.hits.device)
    return places < ranked.positives[:, None]


def perfect_if_nothing_expected(ranked: Ranked, figures: torch.Tensor) -> torch.Tensor:
    """OML's rule: who found nothing and had nothing to find is perfect."""
    return torch.where((ranked.counts == 0) & (ranked.positives == 0), 1.0, figures)
