"""Recall@1 against how many photos of each label the gallery holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.errors import InputError
from core.slices import MEMORY
from core.text import counted
from retrieval.best_positive import positive_ranks
from retrieval.query_gallery import QueryGallery
from retrieval.templates import mean_embeddings

DRAWINGS = 5  # of the photos that the gallery holds; figures are means over them


@dataclass(frozen=True)
class PhotosPoint:
    """With so many photos of each label: Recall@1 by the nearest photo, and by the mean of each label's photos (None
    where distances are no cosines, or sequences leave some out for each query), means over DRAWINGS.

    queries: how many ask, the same for each number of photos.
    """

    photos: int
    recall: float
    template_recall: float | None
    queries: int

    def as_figures(self) -> dict[str, float]:
        """{name: figure}, as an evaluation has them."""
        figures = {f"recall@1@photos={self.photos}": self.recall}
        if self.template_recall is not None:
            figures[f"recall@1@mean_of={self.photos}"] = self.template_recall
        return figures


def check_photos(gallery_labels: np.ndarray, counts: Sequence[int], is_apart: bool = False) -> None:
    """Raise InputError where no label has more photos in the gallery than asked for, so that nobody is left to ask.

    gallery_labels (G,); is_apart: no query is in the gallery, so that all can ask.
    """
    if counts and not is_apart:
        most = int(np.unique(gallery_labels, return_counts=True)[1].max(initial=0))
        if most <= max(counts):
            raise InputError(
                f"--photos_curve={','.join(map(str, counts))}: no label has more than {counted(most, 'image')} in the "
                f"gallery, so none is left to ask; up to {most - 1} can be held"
            )


@torch.no_grad()
def curve_of_photos(
    query_gallery: QueryGallery,
    counts: Sequence[int],
    seed: int = 0,
    distance: str = "cosine",
    memory: int = MEMORY,
) -> list[PhotosPoint]:
    """PhotosPoints of a gallery that holds each of `counts` photos of every label, or all that there are.

    Photos are drawn at random, fewer ones among more. Those ask that are in none of the galleries. Raises InputError
    where nobody does, and where labels are unknown.
    """
    query_gallery.require_labels()
    labels = query_gallery.gallery_labels.cpu().numpy()
    check_photos(labels, counts, not bool((query_gallery.self_positions() >= 0).any()))
    takes_means = distance == "cosine" and query_gallery.query_sequences is None
    recalls = np.zeros((len(counts), DRAWINGS))
    template_recalls = np.zeros((len(counts), DRAWINGS))
    for drawing in range(DRAWINGS):
        places = _places(labels, np.random.default_rng([seed, drawing]))
        held = torch.from_numpy(places < max(counts)).to(query_gallery.device)
        asking = _asking(query_gallery, held)
        queries = len(asking.query_rows)
        if not queries:
            raise InputError("--photos_curve: all queries are in the gallery, so none is left to ask")
        for row, count in enumerate(counts):
            is_held = torch.from_numpy(places < count).to(query_gallery.device)
            gallery = _with_gallery(asking, is_held)
            recalls[row, drawing] = float((positive_ranks(gallery, [1], distance, memory) < 1).double().mean())
            if takes_means:
                ranks = positive_ranks(_with_means(gallery), [1], distance, memory)
                template_recalls[row, drawing] = float((ranks < 1).double().mean())
    points = []
    for row, count in enumerate(counts):
        template = None
        if takes_means:
            template = float(template_recalls[row].mean())
        points.append(PhotosPoint(count, float(recalls[row].mean()), template, queries))
    return points


def _places(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of each item (G,) in a random order of those of its label, from 0 on."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    ordered = labels[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(np.append(starts, len(labels))))
    return places


def _asking(query_gallery: QueryGallery, held: torch.Tensor) -> QueryGallery:
    """The queries that are not among the held items (G,) bool, and have a label that the gallery has."""
    itself = query_gallery.self_positions()
    is_free = (itself < 0) | ~held[itself.clamp_min(0)]
    is_known = torch.isin(query_gallery.query_labels, query_gallery.gallery_labels[held])
    return query_gallery.query_slice((is_free & is_known).nonzero().flatten())


def _with_gallery(query_gallery: QueryGallery, held: torch.Tensor) -> QueryGallery:
    sequences = query_gallery.gallery_sequences
    if sequences is not None:
        sequences = sequences[held]
    return replace(
        query_gallery,
        gallery_rows=query_gallery.gallery_rows[held],
        gallery_labels=query_gallery.gallery_labels[held],
        gallery_sequences=sequences,
    )


def _with_means(query_gallery: QueryGallery) -> QueryGallery:
    """The same queries against one mean of each label's items."""
    rows = query_gallery.gallery_table[query_gallery.gallery_rows].cpu().numpy()
    labels, numbers = np.unique(query_gallery.gallery_labels.cpu().numpy(), return_inverse=True)
    return QueryGallery.apart(
        query_gallery.query_table[query_gallery.query_rows],
        torch.from_numpy(mean_embeddings(rows, numbers)).to(query_gallery.device),
        query_gallery.query_labels,
        labels,
    )
