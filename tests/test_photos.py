"""Recall@1 against photos of each label, by going through the queries, and by what has to come out."""

import numpy as np
import pytest

from core.errors import InputError
from retrieval.metrics.evaluation import check_figures, evaluate
from retrieval.metrics.photos import DRAWINGS, _places, check_photos, curve_of_photos
from retrieval.query_gallery import QueryGallery


def data(count=120, labels=15, width=5, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(count) % labels
    embeddings = rng.standard_normal((labels, width))[codes] + 0.8 * rng.standard_normal((count, width))
    return embeddings.astype(np.float32), codes


def units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
def test_the_curve_as_going_through_the_queries(distance):
    embeddings, codes = data()
    points = curve_of_photos(QueryGallery.of(embeddings, codes), (1, 2, 4), 3, distance)
    rows = units(embeddings.astype(np.float64)) if distance == "cosine" else embeddings.astype(np.float64)
    recalls, of_means = np.zeros((3, DRAWINGS)), np.zeros((3, DRAWINGS))
    for drawing in range(DRAWINGS):
        places = _places(codes, np.random.default_rng([3, drawing]))
        assert all(sorted(places[codes == code]) == list(range(8)) for code in range(15))
        asking = np.flatnonzero(places >= 4)
        for number, count in enumerate((1, 2, 4)):
            held = np.flatnonzero(places < count)
            nearest = (((rows[asking, None] - rows[held]) ** 2).sum(2)).argmin(1)
            recalls[number, drawing] = (codes[held][nearest] == codes[asking]).mean()
            means = units(np.stack([rows[held][codes[held] == code].mean(0) for code in range(15)]))
            of_means[number, drawing] = ((rows[asking] @ means.T).argmax(1) == codes[asking]).mean()
    assert [point.recall for point in points] == pytest.approx(recalls.mean(1))
    assert [point.queries for point in points] == [60] * 3
    if distance == "cosine":
        assert [point.template_recall for point in points] == pytest.approx(of_means.mean(1))
        assert points[0].recall == points[0].template_recall
    else:
        assert points[0].template_recall is None and len(points[0].as_figures()) == 1


def test_queries_apart_from_the_gallery_all_ask():
    embeddings, codes = data()
    is_query = np.arange(120) < 30
    query_gallery = QueryGallery.of(embeddings, codes, is_query, ~is_query)
    points = curve_of_photos(query_gallery, (1, 6, 100))
    assert [point.queries for point in points] == [30] * 3 and points[1].recall == points[2].recall


def test_sequences_are_left_out():
    embeddings, codes = data()
    found = curve_of_photos(QueryGallery.of(embeddings, codes, sequences=np.arange(120) // 15), (3,))
    assert found[0].template_recall is None and 0 < found[0].recall <= 1


def test_evaluations_have_it():
    class List:
        noun = "image"

        def __len__(self):
            return 120

    check_figures(("recall@1",), (), "cosine", {}, 100)
    evaluation = evaluate(QueryGallery.of(*data()), data()[0], List(), photos_curve=(1, 4))
    names = ["recall@1@photos=1", "recall@1@mean_of=1", "recall@1@photos=4", "recall@1@mean_of=4"]
    assert [name for name in evaluation.figures if "@1@" in name] == names
    assert evaluation.figures[names[0]] <= evaluation.figures[names[2]] and "recall@1@photos=4" in evaluation.as_text()


def test_too_many_photos():
    with pytest.raises(InputError, match="--photos_curve=1,8: no label has more than 8 images .* up to 7 can be held"):
        check_photos(data()[1], (1, 8))
    check_photos(data()[1], (1, 8), is_apart=True)
    check_photos(data()[1], ())
