"""report/queries.py: which queries are shown, and with which neighbours."""

import cv2
import numpy as np
import pytest
import torch

from data.records import Records
from report import queries
from report.neighbours import Neighbour
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults


@pytest.fixture
def records(tmp_path):
    """Three images, each with its number as its only grey level."""
    paths = []
    for row in range(3):
        paths.append(str(tmp_path / f"{row}.png"))
        cv2.imwrite(paths[-1], np.full((8, 8, 3), row, np.uint8))
    everyone = np.ones(3, dtype=bool)
    return Records("list.txt", np.array(paths), np.array([1, 1, 2]), everyone, everyone)


@pytest.mark.parametrize(
    "distance, nearest, scores", [("cosine", [2, 1], [1.0, 0.6]), ("squared_euclidean", [1, 2], [-0.8, -4.0])]
)
@pytest.mark.parametrize("searched", [False, True])
def test_neighbours_are_those_of_the_distance(records, monkeypatch, distance, nearest, scores, searched):
    """Row 2 points where row 0 does and is far away; row 1 is the other way round. They differ in label, too."""
    drawn = []
    monkeypatch.setattr(queries, "neighbour_sheet", lambda rows, path, captions: drawn.append((rows, captions)))
    query_gallery = QueryGallery.of(torch.tensor([[1.0, 0], [0.6, 0.8], [3, 0]]), records.labels)
    results = None
    if searched:
        results = RetrievalResults.from_query_gallery(query_gallery, 5, distance)
    queries.draw_queries(records, query_gallery, np.array([0]), results, distance=distance)
    [([(query, neighbours)], captions)] = drawn
    assert captions == ["1"] and query.max() == 0
    assert all(isinstance(neighbour, Neighbour) for neighbour in neighbours)
    assert [int(neighbour.image.max()) for neighbour in neighbours] == nearest
    assert [neighbour.is_right for neighbour in neighbours] == [row == 1 for row in nearest]
    assert [neighbour.score for neighbour in neighbours] == pytest.approx(scores, abs=1e-6)


def test_evenly_spaced_queries():
    assert queries.evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert queries.evenly_spaced(2, 8).tolist() == [0, 1]
