"""Items of some labels and categories only: what is found, by every backend, and what the folder keeps of them."""

import json

import numpy as np
import pytest
from test_index import CASES, MODEL, assert_finds, available, data, on_disk

from core.errors import InputError
from retrieval.index.backends import _backend
from retrieval.index.folder import CARD
from retrieval.index.index import Index

LABELS = ["cat", "dog", None, 7, "7", -1]
CATEGORIES = ["pets", None, "tools", 3]


def columns(count):
    """(labels, categories) of items, which meet in all combinations."""
    return [LABELS[i % 6] for i in range(count)], [CATEGORIES[i % 4] for i in range(count)]


@pytest.fixture(params=CASES, ids=lambda case: " ".join([case[0], *map(str, case[1].values())]))
def built(request, tmp_path):
    """An index of 60 items with labels and categories by every backend; skipped where its package is missing."""
    available(*request.param)
    labels, categories = columns(60)
    embeddings, paths, _ = data(60)
    names = {"cat": "Felis catus", "dog": "Canis"}
    return Index.build(
        tmp_path / "index", embeddings, paths, labels, MODEL, *request.param, names=names, categories=categories
    )


@pytest.fixture
def exact(tmp_path):
    labels, categories = columns(60)
    return Index.build(tmp_path / "index", *data(60)[:2], labels, MODEL, categories=categories)


SELECTIONS = [
    ({"labels": ["cat"]}, lambda label, _: label == "cat"),
    ({"labels": "cat"}, lambda label, _: label == "cat"),
    ({"labels": ["Felis catus", "dog"]}, lambda label, _: label in ("cat", "dog")),
    ({"labels": ["7"]}, lambda label, _: str(label) == "7"),
    ({"labels": 7}, lambda label, _: str(label) == "7"),
    ({"labels": [None, -1]}, lambda label, _: label in (None, -1)),
    ({"categories": ["tools", "3"]}, lambda _, category: category in ("tools", 3)),
    ({"categories": [None]}, lambda _, category: category is None),
    ({"labels": ["cat"], "categories": ("pets",)}, lambda label, category: label == "cat" and category == "pets"),
]


@pytest.mark.parametrize("few", [0, 20_000], ids=["by the backend", "exactly"])
def test_only_items_of_these_are_found(built, monkeypatch, few):
    """By the backend itself, too, which is asked only where there are many."""
    monkeypatch.setattr(_backend, "FEW_SELECTED", few)
    embeddings, queries = data(60)[0], data(4, seed=1)[0]
    pairs = list(zip(*columns(60)))
    for wanted, is_meant in SELECTIONS:
        ids = [i for i, (label, category) in enumerate(pairs) if is_meant(label, category)]
        for k in (3, 1000):
            assert_finds(Index.open(built.folder), embeddings[ids], ids, queries, k, **wanted)
    built.delete([0, 12])
    built.add(data(1, seed=3)[0], ["/new.jpg"], ["cat"], categories=["pets"])
    ids = [i for i, (label, _) in enumerate(pairs) if label == "cat" and i not in (0, 12)]
    everything = np.concatenate([embeddings[ids], data(1, seed=3)[0]])
    assert_finds(built, everything, [*ids, 60], queries, 4, labels="cat")
    assert_finds(built, everything, [*ids, 60], queries, 4, labels="cat", memory=2**10)
    on_disk(built.folder)


def test_categories_stay_what_they_are(exact):
    """Through segments that are joined, replaced items, and hits."""
    expected = columns(60)[1]
    assert exact.categories.tolist() == expected
    assert exact.search(data(5)[0], 1).categories[:, 0].tolist() == expected[:5]
    embeddings, paths, _ = data(3, seed=5)
    given = [None, "new", "tools"]
    exact.add(embeddings, data(60)[1][:3], None, categories=given)  # other pictures of items that are there
    assert exact.categories.tolist() == [*expected[3:], "pets", "new", "tools"]
    exact.add(*data(80, seed=6))  # without any: one segment takes over all
    assert len(exact.card["segments"]) == 1 == len(exact.card["categorised"])
    opened = Index.open(exact.folder)
    assert opened.categories.tolist() == [*expected[3:], "pets", "new", "tools", *[None] * 80]
    exact.delete(exact.rows.ids[:100].tolist())
    assert exact.card["categorised"] == [] and exact.categories.tolist() == [None] * 40


def test_an_index_without_categories_has_no_files_of_them(tmp_path):
    """Nor do older indexes, whose cards say nothing of them."""
    index = Index.build(tmp_path / "index", *data(6), MODEL)
    segment = index.folder / index.card["segments"][0]
    assert not list(segment.glob("categor*")) and index.card["categorised"] == []
    card = json.loads((index.folder / CARD).read_text())
    del card["categorised"]
    (index.folder / CARD).write_text(json.dumps(card))
    old = Index.open(index.folder)
    assert old.categories.tolist() == [None] * 6
    with pytest.raises(InputError, match="no item has the category 'x'"):
        old.search(data(1)[0], categories="x")
    old.add(*data(2, seed=1), categories=["x", "y"])
    assert Index.open(index.folder).categories.tolist() == [None] * 6 + ["x", "y"]
    assert old.search(data(1)[0], categories="y").paths.tolist() == [["/photos/1/1.jpg"]]


ODD = {
    "category_codes.npy": (
        np.arange(60) + 1,
        "categories.json' is damaged: category codes reach from 1 to 60 for 3 cat",
    ),
    "categories.json": ([1, [2], 3], "categories.json' is damaged: category 1 is neither an integer of 64 bits nor a"),
}


@pytest.mark.parametrize("name", ODD)
def test_damaged_categories_are_named(exact, name):
    content, sentence = ODD[name]
    file = exact.folder / exact.card["segments"][0] / name
    if name.endswith(".npy"):
        np.save(file, content)
    else:
        file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        Index.open(exact.folder)
    file.unlink()
    with pytest.raises(InputError, match=f"is damaged: there is no '.*{name}'|cannot read"):
        Index.open(exact.folder)


MISTAKES = {
    "no item has the label 'cta'. Did you mean 'cat'\\?": {"labels": ["dog", "cta"]},
    "no item has the label '8'": {"labels": 8},
    "no item has the category 'pet'. Did you mean 'pets'\\?": {"categories": ["pet"]},
    "no item has the label 'cat' and the category '3' or none: there is": {"labels": "cat", "categories": [3, None]},
    "categories are \\(1,\\) object for 2 embeddings": None,
    "the category 1.5 is float; a category of an index is": None,
    "not one label is given of the items to look among": {"labels": []},
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_what_no_item_has(exact, sentence):
    with pytest.raises(InputError, match=sentence):
        if MISTAKES[sentence] is None:
            categories = [1.5, 2] if "float" in sentence else ["x"]
            exact.add(*data(2, seed=9), categories=categories)
        exact.search(data(1)[0], 3, **MISTAKES[sentence])
