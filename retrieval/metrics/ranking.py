"""Metrics of retrieval: what some queries found in, one number a query out, and nothing loops over queries.

Every definition stands in docs/metrics.md with a worked example; retrieval/measure.py applies them to whole tasks.
"""

import re
from dataclasses import dataclass

import torch

from core.errors import InputError, near_match

DEFINITIONS = ("standard", "oml", "pml")
DEFAULT = ("recall@1", "recall@5", "recall@10", "map@r", "r_precision", "mrr")


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
NEED_ALL_POSITIVES = (average_precision_at_r, r_precision)


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


def parse_metrics(text):
    """A comma-separated list of metrics as a tuple of their names. Raises InputError as parse_metric does."""
    names = tuple(word for word in text.split(",") if word)
    for name in names:
        parse_metric(name)
    if not names:
        raise InputError("no metric is named")
    return names


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
