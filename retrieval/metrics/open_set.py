"""Open set: queries of which some have no mate in the gallery, and have to be told that they are unknown.

A query is answered by its nearest item if that scores no less than a threshold, else with "unknown". FPIR is the share
of queries without a mate that are answered all the same, FNIR that of queries with one that are not answered by an item
of their label (ISO/IEC 19795-1:2021, rank 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.errors import InputError
from core.slices import CACHED_NUMBERS, MEMORY, slices_within
from core.text import counted
from retrieval.metrics.verification import COVERAGE, Interval, Rate, allowed_accepts
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search


@dataclass(frozen=True)
class Identified:
    """What a threshold gives: the wished FPIR, the score from which queries are answered, FPIR and FNIR there."""

    wished: float
    threshold: float
    fpir: float
    fnir: Rate


@dataclass(frozen=True)
class OpenSet:
    """Figures of an open set. mated, unmated: queries with and without a mate in the gallery of `gallery` items.

    unknown_labels: labels that were left out of the gallery. left_out: FPIRs finer than one query.
    """

    mated: int
    unmated: int
    gallery: int
    unknown_labels: int
    points: tuple[Identified, ...]
    left_out: tuple[float, ...]


def draw_unknown(labels: Sequence, share: float, seed: int) -> list:
    """Labels to leave out of the gallery: a share of distinct `labels`, one at least, and not all.

    Raises InputError for fewer than two labels.
    """
    labels = sorted(set(labels))
    if len(labels) < 2:
        raise InputError(f"an open set needs two labels or more, one of them unknown; there are {len(labels)}")
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    chosen = np.random.default_rng(seed).permutation(len(labels))[:count]
    return [labels[number] for number in sorted(chosen.tolist())]


@torch.no_grad()
def open_set(
    query_gallery: QueryGallery,
    unknown: torch.Tensor,
    rates: Sequence[float] = (0.1, 0.01),
    resamples: int = 1000,
    seed: int = 0,
    distance: str = "cosine",
    memory: int = MEMORY,
) -> OpenSet:
    """FNIR at FPIR with the labels `unknown` (codes of query_gallery) left out of the gallery.

    Intervals are over labels of queries, drawn with replacement; the gallery stays. Raises InputError where no query is
    left with a mate, or none without.
    """
    query_gallery.require_labels()
    is_known = ~torch.isin(query_gallery.gallery_labels, unknown.to(query_gallery.device))
    if not is_known.any():
        raise InputError("an open set needs items of known labels in the gallery; all of it is of unknown ones")
    sequences = query_gallery.gallery_sequences
    if sequences is not None:
        sequences = sequences[is_known]
    reduced = replace(
        query_gallery,
        gallery_rows=query_gallery.gallery_rows[is_known],
        gallery_labels=query_gallery.gallery_labels[is_known],
        gallery_sequences=sequences,
    )
    rows, scores = search(reduced, 1, distance, memory)
    label_of_row = torch.full((len(reduced.gallery_table),), -1, device=reduced.device)
    label_of_row[reduced.gallery_rows] = reduced.gallery_labels
    is_right = label_of_row[rows[:, 0].clamp_min(0)] == reduced.query_labels
    is_right &= rows[:, 0] >= 0
    is_mated = (reduced.positives() > 0).cpu().numpy()
    return identified(
        scores[:, 0].cpu().numpy(),
        is_right.cpu().numpy(),
        is_mated,
        reduced.query_labels.cpu().numpy(),
        rates,
        resamples,
        seed,
        gallery=len(reduced.gallery_rows),
        unknown_labels=len(unknown),
    )


def identified(
    scores: np.ndarray,
    is_right: np.ndarray,
    is_mated: np.ndarray,
    labels: np.ndarray,
    rates: Sequence[float],
    resamples: int,
    seed: int,
    gallery: int,
    unknown_labels: int,
) -> OpenSet:
    """The OpenSet of Q queries: the score of the nearest item, whether it is right, whether there is a mate, the label.

    Raises InputError as `open_set`.
    """
    unmated, mated = int((~is_mated).sum()), int(is_mated.sum())
    if not mated or not unmated:
        raise InputError(
            f"an open set needs queries with a mate in the gallery and without; {mated} have one and {unmated} have not"
        )
    strangers = np.sort(scores[~is_mated])[::-1]
    found = scores[is_mated & is_right]
    points, left_out = [], []
    for rate in rates:
        if not 0 < allowed_accepts(rate, unmated) < unmated:
            left_out.append(rate)
            continue
        threshold = answer_threshold(strangers, rate)
        fnir = 1 - int((found >= threshold).sum()) / mated
        interval = _fnir_interval(scores, is_right, is_mated, labels, rate, resamples, seed)
        points.append(Identified(rate, threshold, float((strangers >= threshold).mean()), Rate(fnir, interval)))
    return OpenSet(mated, unmated, gallery, unknown_labels, tuple(points), tuple(left_out))


def answer_threshold(strangers: np.ndarray, rate: float) -> float:
    """The least score that no more than a share of queries without a mate reach: scores (n,) of their nearest items.

    Raises InputError for a share of less than one of them, or of all.
    """
    allowed = allowed_accepts(rate, len(strangers))
    if not 0 < allowed < len(strangers):
        raise InputError(
            f"an FPIR of {rate:g} of {counted(len(strangers), 'query')} without a mate is no part of them; it can be "
            f"{1 / max(1, len(strangers)):.2g} or more, and less than 1"
        )
    refused = np.sort(strangers)[::-1][allowed]
    return float(np.nextafter(np.float32(refused), np.float32(np.inf)))


def _fnir_interval(
    scores: np.ndarray,
    is_right: np.ndarray,
    is_mated: np.ndarray,
    labels: np.ndarray,
    rate: float,
    resamples: int,
    seed: int,
) -> Interval | None:
    """Where FNIR lies with other labels, the threshold being chosen anew for each drawing of them."""
    present, codes = np.unique(labels, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(present), [1 / len(present)] * len(present), resamples)
    order = np.argsort(-scores, kind="stable")
    codes, is_mated, is_hit = codes[order], is_mated[order], (is_mated & is_right)[order]
    # Queries of equal scores are answered together: only behind the last of them a threshold can lie.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    values = []
    for part in slices_within(resamples, len(scores), 8 * CACHED_NUMBERS):
        weights = draws[part][:, codes].astype(np.float64)
        strangers, mated = weights * ~is_mated, weights * is_mated
        total, known = strangers.sum(1), mated.sum(1)
        is_allowed = (strangers.cumsum(1) <= rate * total[:, None] * (1 + 1e-12)) & is_last
        hits = np.where(is_allowed, (weights * is_hit).cumsum(1), 0).max(1)
        counts = (total > 0) & (known > 0)
        values.append(1 - hits[counts] / known[counts])
    values = np.concatenate([np.zeros(0), *values])
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
