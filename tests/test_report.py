"""The report's content, its caps, hostile names, odd cases, and what is refused; all read back from the page's data."""

import base64
import hashlib
import os
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from reports import COLOUR_ERROR, HOSTILE, clusters, colour_of, data_of, load, make_content, records_of
from tolerances import assert_within, decimal_error, gamma

from core.errors import InputError
from report.page import album
from report.page import map as report_map
from report.page.captions import shortened
from report.page.duplicates import closest_across_labels, closest_across_lists, median_positive
from report.page.examples import FOUND, MISSED, QUERIES
from report.page.figures import BARS
from report.page.page import write_content
from retrieval.metrics.pairs import PairHistogram
from retrieval.metrics.ranking import METRICS, describe
from retrieval.query_gallery import QueryGallery
from retrieval.relevance import Relevance
from retrieval.results import RetrievalResults

LABELS = np.repeat(np.arange(10, 20), 4)


@pytest.fixture
def page(tmp_path):
    """Writes a page and gives back its data."""

    def write(content):
        write_content(tmp_path / "report.html", content)
        return data_of(tmp_path / "report.html")

    return write


def pixel(uri, x=0.5, y=0.5):
    """A pixel, RGB, of an image that is a data URI."""
    encoded = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/webp;base64,")), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return image[int(y * image.shape[0]), int(x * image.shape[1]), ::-1].astype(int)


def kinds(data):
    return dict(data["queries"]["kinds"])


def test_head_and_figures(page):
    content = make_content(LABELS)
    data = page(content)
    assert data["title"] == "A test"
    assert data["facts"] == [["list", "test.txt"], ["folder", "shelf/"]]
    names = [metric["name"] for metric in data["metrics"]]
    assert names == ["Recall@1", "Recall@5", "Recall@10", "MAP@R", "R-precision", "MRR"]
    assert data["metrics"][0]["value"] == content.figures["overall"]["recall@1"]
    assert all(metric["meaning"] for metric in data["metrics"])
    assert data["counts"] == {"queries": 40, "lone_queries": 0}
    assert data["categories"] is None and data["label_pairs"] is None and data["leaks"] is None


def test_every_metric_has_words():
    for metric in METRICS.names():
        title, meaning = describe(metric.replace("@k", "@7"))
        assert title != metric and meaning.endswith(".") and "{" not in title + meaning
    assert describe("recall@1") == ("Recall@1", "Queries whose nearest item is right.")
    assert describe("fnmr@fmr=0.1") == ("fnmr@fmr=0.1", "")


def test_categories_lowest_first(page):
    categories = np.array(["high", "low"])[(LABELS < 15).astype(int)]
    content = make_content(LABELS, categories=categories)
    data = page(content)
    rows = data["categories"]["rows"]
    figures = content.figures["categories"]
    assert sorted(rows, key=lambda row: row[1]) == rows
    assert {name: (value, size) for name, value, size in rows} == {
        name: (figures[name]["recall@1"], 20) for name in ("low", "high")
    }
    assert [colouring["title"] for colouring in data["map"]["colourings"]] == ["Category", "Nearest item"]
    named = [data["map"]["colourings"][0]["names"][code] for code in data["map"]["colourings"][0]["codes"]]
    assert named == categories.tolist()


def test_queries_show_what_was_found_and_missed(page):
    content = make_content(LABELS, clusters(LABELS, spread=1.5))
    data = page(content)
    assert set(kinds(data)) == {"Worst", "Best", "Random"}
    assert kinds(data)["Worst"][0]["value"] == content.query_values.min()
    assert kinds(data)["Best"][0]["value"] == content.query_values.max()
    for query in (query for queries in kinds(data).values() for query in queries):
        row = row_of(data, query["item"])
        result = content.results
        assert [row_of(data, place) for place, _, _ in query["found"]] == result.padded_ids[row, :FOUND].tolist()
        assert [right for _, _, right in query["found"]] == result.hits[row, :FOUND].tolist()
        scores = 1 - result.padded_distances[row, :FOUND].double()
        assert_within([score for _, score, _ in query["found"]], scores, decimal_error(4) + 2.0**-24)
        missed = [row_of(data, place) for place, _ in query["missed"]]
        right = set(np.flatnonzero(LABELS == LABELS[row])) - {row}
        assert set(missed) <= right - set(result.padded_ids[row, :FOUND].tolist())
        assert len(missed) == min(MISSED, query["missed_total"])
        assert query["missed_total"] == len(right - set(result.padded_ids[row, :FOUND].tolist()))


def row_of(data, place):
    """The row behind an item, known by its file's name; its image is checked on the way."""
    row = int(data["items"][place]["file"].split("/")[-1].removesuffix(".png"))
    assert_within(pixel(data["items"][place]["image"]), colour_of(row), COLOUR_ERROR)
    return row


def test_the_worst_are_the_surest_mistakes_one_a_label(page):
    """Six labels of two images each, at right angles to one another, but for mistakes of growing sureness."""
    embeddings = torch.eye(12)
    for row, closeness in ((0, 0.5), (2, 0.9), (4, 0.7)):
        embeddings[row] = closeness * embeddings[row + 6] + (1 - closeness) * embeddings[row]
    data = page(make_content(np.repeat(np.arange(6), 2), embeddings))
    worst = [row_of(data, query["item"]) for query in kinds(data)["Worst"]]
    labels = [row // 2 for row in worst]
    assert set(worst[:2]) == {2, 8} and labels[2] in (2, 5)
    assert len(set(labels)) == len(labels) == 6


def test_histogram_is_of_densities(page):
    content = make_content(LABELS)
    histogram = page(content)["histogram"]
    widths = np.diff(histogram["edges"])
    assert_within((np.array(histogram["densities"]) * widths).sum(1), 1, gamma(2 * len(widths) + 4))
    assert len(widths) <= 80 and histogram["edges"][0] >= -1 and histogram["edges"][-1] <= 1
    assert histogram["pairs"] == [40 * 3, 40 * 36]
    assert tuple(histogram["best"].values()) == content.histogram.best_threshold()


def test_map_has_each_item_with_its_image(page):
    data = page(make_content(LABELS))["map"]
    assert len(data["x"]) == len(data["y"]) == data["total"] == 40
    assert max(data["x"] + data["y"]) == report_map.SPAN and min(data["x"]) == min(data["y"]) == 0
    lines = -(-40 // data["columns"])
    for row in range(40):
        place = (row % data["columns"] + 0.5) / data["columns"], (row // data["columns"] + 0.5) / lines
        assert_within(pixel(data["sheet"], *place), colour_of(row), COLOUR_ERROR)
        assert data["files"][row].endswith(f"/{row}.png") and data["labels"][row] == str(LABELS[row])


def test_lookalikes(page):
    content = make_content(LABELS, clusters(LABELS, spread=1.2))
    other = records_of("train.txt", ["x/a.png", "x/b.png"], [1, 2])
    others = content.embeddings[[5, 7]] * 3
    floor = median_positive(content.histogram)
    pairs = closest_across_labels(content.results, content.query_rows, LABELS, floor)
    leaks = closest_across_lists(content.embeddings, others, floor=0.9999)
    data = page(replace(content, label_pairs=pairs, leaks=leaks, others=other))
    assert data["label_pairs"]["total"] == pairs.total and data["label_pairs"]["floor"] == floor
    shown = [(row_of(data, left), row_of(data, right)) for left, right, _ in data["label_pairs"]["pairs"]]
    assert shown == list(zip(pairs.left.tolist(), pairs.right.tolist()))
    leaked = [(data["items"][left]["file"], data["items"][right]["file"]) for left, right, _ in data["leaks"]["pairs"]]
    assert leaked == [("11/5.png", "a.png"), ("11/7.png", "b.png")]
    assert data["lists"] == ["test.txt", "train.txt"]
    with pytest.raises(InputError, match="others is missing"):
        page(replace(content, leaks=leaks))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_data(tmp_path, name):
    labels = np.array([name, name, "a", "a"])
    paths = [f"{name}/{i}.png" for i in range(4)]
    path = tmp_path / "report.html"
    content = make_content(labels, paths=paths, categories=labels, title=name, facts={name: name})
    write_content(path, content)
    text, data = path.read_text(encoding="utf-8"), data_of(path)
    assert data["title"] == name and data["facts"][0] == [name, name]
    assert data["categories"]["rows"][0][0] in (shortened(name), "a")
    assert data["items"][0]["label"] in (shortened(name), "a")
    block = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert block.isascii() and not set("<>&") & set(block)
    assert text.count("<script") == text.count("</script") == 2 and "{{" not in text.replace(block, "")


def test_policy_names_the_very_script_and_style(tmp_path):
    write_content(tmp_path / "a.html", make_content(LABELS))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:; ")
    assert "unsafe" not in policy and "http" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    addresses = set(re.findall(r"https?://[\w./]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nothing fetches


def test_the_same_report_is_the_same_file(tmp_path):
    content = make_content(LABELS)
    write_content(tmp_path / "a.html", content)
    write_content(tmp_path / "b.html", content)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("distance", ["cosine", "squared_euclidean"])
@pytest.mark.parametrize(
    "labels, k, wrong",
    [([3], 5, 0), ([1, 2, 3], 5, 3), ([7, 7, 7], 5, 0), ([1, 1, 2], 1, 1), (["a", "a", "b", "b"], 3, 1)],
    ids=["one image", "no positives", "no negatives", "k of 1", "strings"],
)
def test_odd_lists(page, labels, k, wrong, distance):
    """What there is nothing of is left out; nothing fails."""
    content = make_content(labels, k=k, distance=distance)
    pairs = closest_across_labels(content.results, content.query_rows, np.array(labels), distance=distance)
    data = page(replace(content, label_pairs=pairs))
    positives = len(labels) - len(set(labels))
    assert bool(kinds(data)["Worst"]) == bool(positives)
    assert len(kinds(data)["Random"]) == len(labels)
    assert (data["histogram"] is None) == (len(labels) == 1)
    assert len(labels) == 1 or bool(data["histogram"]["best"]) == bool(positives)
    assert (data["label_pairs"]["total"], data["label_pairs"]["floor"]) == (wrong, None)


def test_queries_apart_from_the_gallery_and_one_that_found_nothing(page):
    embeddings, labels = clusters(LABELS), LABELS
    task = QueryGallery.of(embeddings, labels, np.arange(40) < 3, np.arange(40) >= 4, sequences=np.arange(40) // 4)
    ids = torch.tensor([[-1, -1], [8, 9], [9, 8]])
    distances = torch.tensor([[np.inf, np.inf], [0.1, 0.2], [0.1, 0.2]])
    results = RetrievalResults.from_padded(distances, ids, Relevance.of_labels(task))
    data = page(
        make_content(labels, embeddings, results=results, query_rows=np.arange(3), query_values=np.array([0, 1, 0.5]))
    )
    assert [len(query["found"]) for query in kinds(data)["Random"]] != [2, 2, 2]
    assert data["map"]["colourings"][0]["codes"][:4] == [2, 1, 1, 2]
    assert not kinds(data)["Worst"]  # nothing of their label is in the gallery


@pytest.mark.parametrize("fault", [FileNotFoundError(2, "No such file"), InputError("shelf/11/5.png is no image"), 7])
def test_an_image_that_fails_is_named(tmp_path, fault):
    def broken(records, row):
        if row != 5:
            return load(records, row)
        if isinstance(fault, Exception):
            raise fault
        return load(records, row).astype(np.float32)

    content = make_content(LABELS)
    with pytest.raises(InputError, match=r"shelf/11/5\.png"):
        write_content(tmp_path / "a.html", replace(content, load_image=broken))
    assert not os.listdir(tmp_path)


def test_what_cannot_be_is_refused(tmp_path):
    content = make_content(LABELS)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for path in (tmp_path / "file" / "a.html", tmp_path / "nowhere" / "a.html", tmp_path / "folder.html"):
        with pytest.raises(InputError, match=f"cannot write '{path}'"):
            write_content(path, content)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.html"]
    for change, message in (
        ({"embeddings": content.embeddings[:7]}, "7 embeddings has 40 paths"),
        ({"query_rows": np.arange(3)}, "3 queries has 40 results"),
        ({"query_values": np.zeros(2)}, "40 queries has 2 query values"),
        ({"projection": "tsne"}, "unknown projection 'tsne'; there are: pca, umap"),
        ({"results": RetrievalResults.from_embeddings(content.embeddings)}, "labels are unknown"),
    ):
        with pytest.raises(InputError, match=message):
            write_content(tmp_path / "a.html", replace(content, **change))


@pytest.mark.slow
def test_sixty_thousand_items_stay_below_ten_megabytes(tmp_path):
    """Textured images and the longest names; results and histogram are made up, since searching takes its time."""
    items, rng = 60_000, np.random.default_rng(0)
    textures = [cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), np.uint8), (0, 0), 1.5) for _ in range(50)]
    labels = np.array([f"{i // 5:05}<{'&' * 60}" for i in range(items)])
    paths = np.array([f"{i:06}{'<é' * 80}" for i in range(items)])
    categories = np.array([f"{i % 3000:05}>{'&' * 60}" for i in range(items)])
    embeddings = torch.from_numpy(rng.normal(size=(items, 16)).astype(np.float32))
    distances, ids = torch.arange(10) / 10, (torch.arange(items)[:, None] + torch.arange(1, 11) * 3) % items
    results = RetrievalResults.from_padded(
        distances.expand(items, 10), ids, Relevance.of_labels(QueryGallery.of(embeddings, labels))
    )
    counts = rng.integers(0, 1000, (2, 2**16))
    figures = {name: {"recall@1": 0.5, "queries": 20, "lone_queries": 0} for name in ["overall", *set(categories)]}
    content = replace(
        make_content([1, 1]),
        records=records_of("big", paths, labels, categories),
        load_image=lambda records, row: textures[row % 50],
        figures={"overall": figures.pop("overall"), "categories": figures},
        embeddings=embeddings,
        query_rows=np.arange(items),
        results=results,
        query_values=rng.random(items),
        histogram=PairHistogram(np.linspace(-1, 1, 2**16 + 1), *counts, 0.0),
        label_pairs=closest_across_labels(results, np.arange(items), labels),
    )
    write_content(tmp_path / "big.html", content)
    assert (tmp_path / "big.html").stat().st_size < 10_000_000
    data = data_of(tmp_path / "big.html")
    assert len(data["map"]["x"]) == report_map.POINTS and data["map"]["total"] == items
    assert len(data["map"]["colourings"][0]["names"]) == report_map.CATEGORIES + 1
    assert len(data["categories"]["rows"]) == BARS and data["categories"]["total"] == 3000
    assert all(len(queries) == QUERIES for queries in kinds(data).values())
    assert len(data["label_pairs"]["pairs"]) == 24


def test_noise_fits_too():
    """The last quality that is tried brings the least compressible images below the budget."""
    noise = np.random.default_rng(0).integers(0, 256, (67 * album.TILE, 67 * album.TILE, 3), np.uint8)
    most = 3 * QUERIES * (1 + FOUND + MISSED) + 4 * 24
    assert 67**2 < report_map.POINTS <= 68 * 67
    for side, budget, number in (
        (len(noise), album.SHEET_BYTES, 1.02),
        (album.THUMBNAIL, album.ALBUM_BYTES, most),
    ):
        encoded = cv2.imencode(".webp", noise[:side, :side], [cv2.IMWRITE_WEBP_QUALITY, album.QUALITIES[-1]])[1]
        assert number * len(encoded) < budget


def test_a_small_report_is_small(tmp_path):
    write_content(tmp_path / "a.html", make_content(LABELS))
    assert (tmp_path / "a.html").stat().st_size < 200_000
