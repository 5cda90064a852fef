"""Tests during training: the test list embedded, its figures, and what is shown of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

import distributed
from data.records import Records
from embeddings.embed import embed
from embeddings.table import EmbeddingTable
from engine.best import Best
from engine.figures import LOSS, figure_of_category, figures_of
from engine.run import Run
from retrieval import QueryGallery
from retrieval.best_positive import positive_ranks

RECALLS = (1, 5, 10)
FIXED_SEED = 42  # of the batches that a test's loss is of: the same for every run on the same list


class EmbeddingSample(Protocol):
    """Some embeddings (n, D), each with a label for every column and a small picture, uint8 (n, h, w, 3), RGB."""

    embeddings: torch.Tensor
    tiles: np.ndarray
    texts: list[list[str]]
    columns: Sequence[str]


class Pictures(NamedTuple):
    """What is shown of a test: functions of the list and its queries against its gallery.

    worst: a picture of the worst queries, uint8 (H, W, 3), or None where there are none. scatter, which takes a
    caption, too: one of all embeddings as points. sample: an EmbeddingSample.
    """

    worst: Callable[[Records, QueryGallery], np.ndarray | None]
    scatter: Callable[[Records, QueryGallery, str], np.ndarray]
    sample: Callable[[Records, QueryGallery], EmbeddingSample]


class Tester:
    """The list that a run is tested on.

    loader: its images in order; tested_on: what it is, in words; pictures: what is shown of it. metrics: names of
    figures beside the recalls; distance: by which all of them find. fixed_batches:
    rows of the list (steps, B), of which a test gives the loss; None, and it does not. title: its name beside other
    lists; others: a tester of each of these, whose figures go by their titles. best: what chooses among the tests.
    """

    def __init__(
        self,
        records: Records,
        loader: Iterable,
        device: torch.device,
        tested_on: str,
        pictures: Pictures,
        metrics: Sequence[str] = (),
        distance: str = "cosine",
        fixed_batches: np.ndarray | None = None,
        title: str = "",
        others: Sequence["Tester"] = (),
        best: Best | None = None,
    ):
        self.records = records
        self.loader = loader
        self.device = device
        self.tested_on = tested_on
        self.pictures = pictures
        self.metrics = metrics
        self.distance = distance
        self.fixed_batches = fixed_batches
        self.title = title
        self.others = others
        self.best = best or Best()

    def embed(self, model: nn.Module) -> torch.Tensor | None:
        """The list's embeddings (N, D) on the first rank, None on others; all ranks call it together."""
        # Running statistics are a rank's own; the first one's are saved, so all embed by them.
        distributed.broadcast_tensors(model.buffers())
        return embed(model, self.loader, self.device)

    def query_gallery(self, embeddings: torch.Tensor) -> QueryGallery:
        """The list's queries against its gallery, of embeddings (N, D)."""
        return EmbeddingTable(self.records, embeddings).query_gallery(self.device)

    def recalls(self, query_gallery: QueryGallery) -> dict[int, float]:
        """Recall@1, 5, 10, {k: share}: of how many queries one of the k nearest has their label."""
        first_right = positive_ranks(query_gallery, RECALLS, self.distance)
        return {k: (first_right < k).double().mean().item() for k in RECALLS}

    def further_figures(self, query_gallery: QueryGallery, loss: nn.Module) -> dict[str, float]:
        """Figures beside the recalls: the `metrics`, and the loss of the fixed batches."""
        figures = figures_of(query_gallery, self.metrics, self.distance)
        if self.fixed_batches is not None:
            figures[LOSS] = self._loss(query_gallery.gallery_table, loss)
        return figures

    def all_figures(self, query_gallery: QueryGallery, loss: nn.Module) -> dict[str, float]:
        """The recalls and those beside them, by name."""
        recalls = {f"recall@{k}": value for k, value in self.recalls(query_gallery).items()}
        return {**recalls, **self.further_figures(query_gallery, loss)}

    def choosing_figure(self, queries: Sequence[QueryGallery], figures: Sequence[dict[str, float]]) -> float | None:
        """That of `best`, of the queries and the figures of each list, this one first; None where nobody asks."""
        best = self.best
        if best.category is None:
            return figures[best.list_number].get(best.figure)
        return figure_of_category(queries[best.list_number], best.figure, best.category, self.distance)

    @torch.no_grad()
    def _loss(self, embeddings: torch.Tensor, loss: nn.Module) -> float:
        """The mean loss of the fixed batches of embeddings (N, D)."""
        codes = torch.from_numpy(self.records.vocabulary.codes).to(embeddings.device)
        losses = []
        for rows in torch.from_numpy(self.fixed_batches).to(embeddings.device):
            losses.append(loss(embeddings[rows], codes[rows]))
        return torch.stack(losses).mean().item()

    def show(self, query_gallery: QueryGallery, run: Run, step: int, caption: str) -> None:
        """Hand the worst queries and all points, as pictures, and a sample of the embeddings, with images, to the run's
        loggers."""
        worst = self.pictures.worst(self.records, query_gallery)
        scatter = self.pictures.scatter(self.records, query_gallery, caption)
        sample = self.pictures.sample(self.records, query_gallery)
        name = f"test/{self.title}" if self.title else "test"
        for logger in run.loggers:
            if worst is not None:
                logger.image(f"{name}/worst_queries", worst, step)
            logger.image(f"{name}/scatter", scatter, step)
            logger.embedding(name, sample.embeddings, sample.columns, sample.texts, sample.tiles, step)
