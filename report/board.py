"""What a logger is given of a test during training: the worst queries, all points, a sample of them with images."""

from typing import NamedTuple

import numpy as np
import torch

from data.records import Records
from report.drawing import letterbox
from report.page.projection import project, sample_rows
from report.queries import draw_queries, worst_queries
from report.scatter import scatter
from report.thumbnails import load_thumbnail, short_name
from retrieval.metrics.ranking import Ranked, values
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

QUERIES, RANKING = 8, 10  # worst queries in the picture; items of each by which they are the worst
POINTS = 5000  # in a picture of the embeddings
EMBEDDINGS, TILE = 1000, 32  # embeddings in a sample; pixels a side of their images


class EmbeddingSample(NamedTuple):
    """Some embeddings of a list, as a projector shows them.

    embeddings: (n, D), on the CPU. tiles: (n, TILE, TILE, 3) uint8 RGB. texts: one [label, file name] each, which need
    not be valid UTF-8; `columns` is what the two are called.
    """

    embeddings: torch.Tensor
    tiles: np.ndarray
    texts: list[list[str]]
    columns: tuple[str, str] = ("label", "file")


def worst_queries_picture(records: Records, query_gallery: QueryGallery) -> np.ndarray | None:
    """The worst queries by MAP@10 with their nearest, uint8 (H, W, 3) RGB; None where no query has anything to find."""
    metric = f"map@{RANKING}"
    results = RetrievalResults.from_query_gallery(query_gallery, RANKING)
    query_values = values(Ranked.of(results), (metric,))[metric].cpu().numpy()
    worst = worst_queries(results, query_values)
    if not len(worst):
        return None
    return draw_queries(records, query_gallery, worst[:QUERIES], results)


def scatter_picture(records: Records, query_gallery: QueryGallery, caption: str) -> np.ndarray:
    """The embeddings, or a sample by label, as points coloured by label, uint8 (H, W, 3) RGB.

    Those of two numbers are drawn as they are, wider ones by the two directions in which they differ most (PCA).
    """
    rows = sample_rows(records.vocabulary.codes, POINTS)
    embeddings = query_gallery.gallery_table[torch.from_numpy(rows).to(query_gallery.device)].cpu().double().numpy()
    title = "Embeddings"
    if embeddings.shape[1] != 2:
        embeddings, _ = project(embeddings)
        title = "Embeddings of unit length, by PCA"
    return scatter(embeddings, records.label_texts[rows], title, caption)


def embedding_sample(records: Records, query_gallery: QueryGallery) -> EmbeddingSample:
    """A sample of the list by label, the same at each test of a run."""
    rows = sample_rows(records.vocabulary.codes, EMBEDDINGS)
    tiles = np.stack([letterbox(load_thumbnail(records, row), TILE) for row in rows])
    labels = records.label_texts[rows].tolist()
    files = [short_name(path) for path in records.paths[rows].tolist()]
    texts = [[label, file] for label, file in zip(labels, files)]
    embeddings = query_gallery.gallery_table[torch.from_numpy(rows).to(query_gallery.device)].cpu()
    return EmbeddingSample(embeddings, tiles, texts)
