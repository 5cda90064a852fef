"""Figures of a test by name: metrics of rankings, non-matches at a rate of false matches, the shape of embeddings."""

from collections.abc import Sequence

import torch

from core.errors import InputError
from core.numerals import read_float
from retrieval import QueryGallery
from retrieval.metrics.components import component_fractions
from retrieval.metrics.pairs import fnmr_at_fmr
from retrieval.metrics.per_query import query_values, summary
from retrieval.metrics.ranking import parse_metric

FNMR, PCF = "fnmr@fmr=", "pcf@"
LOSS = "loss"


def check_figure(name: str) -> None:
    """Raise InputError for a figure that there is not, with the near match."""
    for prefix in (FNMR, PCF):
        if name.startswith(prefix):
            _share(name, prefix)
            return
    parse_metric(name)


def figures_of(query_gallery: QueryGallery, names: Sequence[str], distance: str) -> dict[str, float]:
    """{name: figure} of queries against their gallery, in the order of `names`."""
    metrics = [name for name in names if not name.startswith((FNMR, PCF))]
    values = query_values(query_gallery, metrics, distance=distance) if metrics else {}
    figures = {}
    for name in names:
        if name.startswith(FNMR):
            rate = _share(name, FNMR)
            figures[name] = fnmr_at_fmr(query_gallery, (rate,), distance)[rate]
        elif name.startswith(PCF):
            variance = _share(name, PCF)
            figures[name] = component_fractions(_embeddings(query_gallery), (variance,))[variance]
        else:
            figures[name] = values[name].mean().item()
    return figures


def figure_of_category(query_gallery: QueryGallery, name: str, category: str, distance: str) -> float | None:
    """A metric over the queries of one category; None where it has none."""
    values = query_values(query_gallery, (name,), distance=distance)
    means = summary(values, query_gallery.positives(), query_gallery.query_categories)["categories"]
    return means[category][name] if category in means else None


def smaller_is_better(name: str) -> bool:
    """Whether a run wants little of a figure: of the loss, and of what is not recognised."""
    return name == LOSS or name.startswith(FNMR)


def _embeddings(query_gallery: QueryGallery) -> torch.Tensor:
    return query_gallery.gallery_table


def _share(name: str, prefix: str) -> float:
    try:
        share = read_float(name.removeprefix(prefix))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{name!r}: behind {prefix} stands a share from 0 to 1, as {prefix}0.5")
    return share
