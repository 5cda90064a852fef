"""Tests during training: the test list embedded, its recalls, and what is shown of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

import distributed
from data.records import Records
from embeddings.embed import embed
from embeddings.table import EmbeddingTable
from engine.run import Run
from retrieval import QueryGallery
from retrieval.best_positive import positive_ranks

RECALLS = (1, 5, 10)


class EmbeddingSample(Protocol):
    """Some embeddings (n, D), each with a label for every column and a small picture, uint8 (n, h, w, 3), RGB."""

    embeddings: torch.Tensor
    tiles: np.ndarray
    texts: list[list[str]]
    columns: Sequence[str]


class Tester:
    """The list that a run is tested on.

    loader: its images in order; tested_on: what it is, in words. draw_worst, draw_sample: functions of the list
    and its queries against its gallery; the first gives a picture of the worst
    queries, uint8 (H, W, 3), or None where there are none, the second an EmbeddingSample.
    """

    def __init__(
        self,
        records: Records,
        loader: Iterable,
        device: torch.device,
        tested_on: str,
        draw_worst: Callable[[Records, QueryGallery], np.ndarray | None],
        draw_sample: Callable[[Records, QueryGallery], EmbeddingSample],
    ):
        self.records = records
        self.loader = loader
        self.device = device
        self.tested_on = tested_on
        self.draw_worst = draw_worst
        self.draw_sample = draw_sample

    def embed(self, model: nn.Module) -> torch.Tensor | None:
        """The list's embeddings (N, D) on the first rank, None on others; all ranks call it together."""
        # Running statistics are a rank's own; the first one's are saved, so all embed by them.
        distributed.broadcast_tensors(model.buffers())
        return embed(model, self.loader, self.device)

    def query_gallery(self, embeddings: torch.Tensor) -> QueryGallery:
        """The list's queries against its gallery, of embeddings (N, D)."""
        return EmbeddingTable(self.records, embeddings).query_gallery(self.device)

    def show(self, query_gallery: QueryGallery, run: Run, step: int) -> None:
        """Hand the worst queries, as a picture, and a sample of the embeddings, with images, to the run's loggers."""
        worst = self.draw_worst(self.records, query_gallery)
        sample = self.draw_sample(self.records, query_gallery)
        for logger in run.loggers:
            if worst is not None:
                logger.image("test/worst_queries", worst, step)
            logger.embedding("test", sample.embeddings, sample.columns, sample.texts, sample.tiles, step)


def recalls(query_gallery: QueryGallery) -> dict[int, float]:
    """Recall@1, 5, 10, {k: share}: of how many queries one of the k nearest has their label."""
    first_right = positive_ranks(query_gallery, RECALLS)
    return {k: (first_right < k).double().mean().item() for k in RECALLS}
