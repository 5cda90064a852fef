"""eval.py as a user runs it: figures, saved embeddings, the cache, the list's columns, post-processing."""

import csv
import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
import torch
from runs import as_line, embedding_moves, read_json, run, train_flags
from tolerances import assert_within, gamma, least_cosine

import models
from retrieval.metrics.per_query import query_values, summary
from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.results import RetrievalResults

CPU = {"use_gpu": False, "num_workers": 0}


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def embeddings(sop_tree, finished_run, tmp_path_factory):
    """The test list's embeddings as --save_embeddings writes them. Read only."""
    folder = tmp_path_factory.mktemp("embeddings")
    evaluate(folder, data_dir=sop_tree, pretrained_model=finished_run, save_embeddings=folder / "x.npz", **CPU)
    return folder / "x.npz"


def evaluate(folder, **flags):
    """(what eval.py printed, its result.json)."""
    printed = run("eval", as_line({"output_dir": folder, **flags}))
    return printed, read_json(folder / "result.json")


def same_figures(one, other):
    return all(one[name] == other[name] for name in ("metrics", "categories", "recall", "queries", "gallery"))


def test_saved_embeddings_give_the_models_figures(sop_tree, finished_run, embeddings, tmp_path):
    _, of_model = evaluate(tmp_path / "model", data_dir=sop_tree, pretrained_model=finished_run, **CPU)
    _, of_file = evaluate(tmp_path / "file", embeddings=embeddings)
    assert same_figures(of_model, of_file)
    assert of_file["embeddings"] == str(embeddings) and "pretrained_model" not in of_file
    saved = dict(np.load(embeddings))
    assert saved.keys() >= {"paths", "labels", "is_query", "is_gallery", "categories", "embeddings", "model"}
    assert json.loads(str(saved["model"])).keys() >= {"model", "weights", "image_shape", "resize_short_size"}


@pytest.mark.parametrize("lists", ["another", None, 5, {"test": 5}, {"test": {"file": "x"}}])
def test_another_list_than_the_runs_is_noted(sop_tree, finished_run, tmp_path, lists):
    """And a folder that does not tell of its lists is as good as any."""
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    config = read_json(tmp_path / "run" / "config.json")
    flags = {"data_dir": sop_tree, "pretrained_model": tmp_path / "run", **CPU}
    if lists == "another":
        flags["test_list"] = "shapes.csv"
    else:
        (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "lists": lists}))
    printed, _ = evaluate(tmp_path / "out", **flags)
    assert ("note: the test list is" in printed) == (lists == "another")


def test_embeddings_of_anybody(tmp_path):
    """An .npz with embeddings and labels is enough; the figures are those of the metrics themselves."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(50, 6)), rng.integers(0, 12, 50)
    np.savez(tmp_path / "mine.npz", embeddings=rows, labels=labels)
    names = ("recall@1", "precision@3", "map@5", "knn@5", "mrr")
    _, result = evaluate(tmp_path / "out", embeddings=tmp_path / "mine.npz", metrics=",".join(names[1:]))
    task = QueryGallery.of(rows, labels)
    expected = summary(query_values(task, names), task.positives())["overall"]
    assert result["metrics"] == {name: expected[name] for name in names}
    assert result["definitions"]["precision@3"] == "Right items among a query's 3 nearest, as a share of 3."


def test_result_tells_how_its_figures_are_made(embeddings, tmp_path):
    flags = {"pairs": True, "fmr": "0.1,0.01", "pcf": 0.5, "distance": "squared_euclidean", "definition": "oml"}
    printed, result = evaluate(tmp_path, embeddings=embeddings, metrics="recall@1,map@5", **flags)
    assert result["metrics"].keys() == {
        *(
            "recall@1",
            "map@5",
            "pr_auc",
            "average_precision",
            "best_threshold",
            "fnmr@fmr=0.1",
            "fnmr@fmr=0.01",
            "pcf@0.5",
        )
    }
    assert result["definition"] == "oml" and result["distance"] == "squared_euclidean"
    assert "averaged over those that are found" in result["definitions"]["map@5"]
    assert result["images"] == result["queries"] == result["gallery"] == 30
    assert result["categories"].keys() == {"1", "2", "3", "4"}
    assert {"python", "torch", "git"} <= result["versions"].keys() and result["seconds"].keys() == {"embed", "search"}
    assert "chosen on these very data" in printed
    for name, figure in result["metrics"].items():
        if name != "best_threshold":
            assert re.search(rf"^{re.escape(name)} +{100 * figure:.2f}", printed, re.M), name


def test_clustering_figures(embeddings, tmp_path):
    pytest.importorskip("sklearn", reason="clustering figures need scikit-learn")
    _, result = evaluate(tmp_path, embeddings=embeddings, clustering=True)
    assert {"nmi", "ami", "homogeneity", "completeness", "v_measure"} <= result["metrics"].keys()


def with_columns(folder, change):
    """shapes.csv with changed rows; `change` takes the validation rows (dicts) and may set columns."""
    with open(folder / "shapes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    change([row for row in rows if row["split"] == "validation"])
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "changed.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, names, restval="")
        table.writeheader()
        table.writerows(rows)


def test_query_gallery_category_and_sequence_columns(sop_copy, finished_run, tmp_path):
    def change(rows):
        for number, row in enumerate(rows):
            row["is_query"], row["is_gallery"] = number % 3 == 0, number % 3 != 0
            row["sequence"] = "" if number > 20 else f"film {number // 2}"

    with_columns(sop_copy, change)
    flags = {"data_dir": sop_copy, "test_list": "changed.csv", "pretrained_model": finished_run, **CPU}
    _, result = evaluate(tmp_path, **flags, save_embeddings=tmp_path / "x.npz")
    saved = dict(np.load(tmp_path / "x.npz"))
    sequences = [f"own {i}" if name == "" else name for i, name in enumerate(saved["sequences"].tolist())]
    columns = {name: saved[name] for name in ("is_query", "is_gallery")}
    task = QueryGallery.of(
        saved["embeddings"], saved["labels"], **columns, sequences=sequences, categories=saved["categories"]
    )
    names = ("recall@1", "recall@5", "recall@10", "map@r", "r_precision", "mrr")
    expected = summary(query_values(task, names), task.positives(), task.query_categories)
    assert result["metrics"] == {name: expected["overall"][name] for name in names}
    assert result["categories"] == expected["categories"]
    assert (result["queries"], result["gallery"]) == (10, 20)
    assert same_figures(result, evaluate(tmp_path / "again", embeddings=tmp_path / "x.npz")[1])


@pytest.mark.parametrize(
    "flags, counted", [({}, 1.0), ({"skip_lone_queries": True}, 0.9), ({"definition": "pml"}, 0.9)]
)
def test_lone_queries(embeddings, tmp_path, flags, counted):
    saved = dict(np.load(embeddings))
    saved["labels"][:3] = [900, 901, 902]
    np.savez(tmp_path / "x.npz", **saved)
    printed, result = evaluate(tmp_path, embeddings=tmp_path / "x.npz", **flags)
    assert result["queries"] == round(30 * counted) and result["queries_without_positive"] == 3
    assert ("left out" if counted < 1 else "counted as misses") in printed


def test_k_beyond_the_gallery_is_said_once(embeddings, tmp_path):
    printed, result = evaluate(tmp_path, embeddings=embeddings, metrics="recall@1,recall@100,precision@500")
    assert printed.count("the gallery has 30 items, so k is 30") == 1
    assert result["metrics"]["recall@100"] == 1.0


def test_the_cache_is_used_for_the_same_and_for_nothing_else(sop_copy, finished_run, tmp_path):
    def again(**changes):
        flags = {"data_dir": sop_copy, "pretrained_model": finished_run, "model": None, **CPU, **changes}
        return "embeddings taken from" in evaluate(tmp_path / "out", **flags)[0]

    assert not again() and again() and again(batch_size=7)
    assert not again(resize_short_size=40) and not again() and again()
    image = next(sop_copy.rglob("15_1.jpg"))
    shutil.copyfile(next(sop_copy.rglob("14_1.jpg")), image)
    assert not again() and again()
    weights = torch.load(finished_run / "last.pt", weights_only=True)
    weights["model"]["backbone.conv1.bias"] += 1e-3
    torch.save(weights, tmp_path / "other.pt")
    same = {"pretrained_model": tmp_path / "other.pt", "model": "Tiny", "image_shape": "3,32,32"}
    assert not again(**same) and again(**same) and not again()
    assert not again(precision="bf16") and again(precision="bf16") and not again()
    assert not again(cache=False) and again()
    (tmp_path / "out" / "embeddings.npz").write_bytes(b"torn")
    assert not again() and again()


def test_a_network_whose_embeddings_are_kept_is_not_built(sop_copy, finished_run, tmp_path, monkeypatch):
    """Unless its file, its settings or the list are others; what it is known as then is what it is."""
    built = []

    def open_model(settings):
        built.append(settings)
        return models.open_model(settings)

    monkeypatch.setattr("embeddings.encoder.open_model", open_model)
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))

    def builds(**changes):
        built.clear()
        flags = {"data_dir": sop_copy, "pretrained_model": tmp_path / "run", "save_embeddings": tmp_path / "x.npz"}
        _, result = evaluate(tmp_path / "out", **flags, **CPU, **changes)
        return len(built), result["metrics"], str(np.load(tmp_path / "x.npz")["model"])

    times, *first = builds()
    assert times == 1 and builds() == (0, *first)
    assert builds(resize_short_size=40)[0] == 1 and builds()[0] == 1 and builds(precision="bf16")[0] == 1
    shutil.copyfile(next(sop_copy.rglob("14_1.jpg")), next(sop_copy.rglob("15_1.jpg")))
    assert builds()[0] == 1 and builds()[0] == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    state["model"]["backbone.conv1.bias"] += 1e-3
    torch.save(state, tmp_path / "run" / "last.pt")
    times, _, model = builds()
    assert times == 1 and model != first[1] and builds()[0] == 0
    for torn in ("{", "[]", '{"opened_from": 5}'):
        (tmp_path / "out" / "network.json").write_text(torn)
        assert builds()[0] == 1 and builds()[0] == 0


def test_other_ways_to_embed_give_nearly_the_same(sop_tree, finished_run, tmp_path):
    """bf16 and OpenVINO: the model's own fingerprint, and embeddings of their own that point the same way."""

    def embedded(**flags):
        file = tmp_path / "x.npz"
        flags |= {"data_dir": sop_tree, "pretrained_model": finished_run, "save_embeddings": file, **CPU}
        _, result = evaluate(tmp_path, **flags)
        saved = dict(np.load(file))
        return torch.from_numpy(saved["embeddings"]), str(saved["model"]), result

    ways = [{"precision": "bf16"}]
    if importlib.util.find_spec("openvino"):
        ways += [{"runtime": "openvino"}, {"runtime": "openvino", "precision": "bf16"}]
    exact, card, _ = embedded()
    _, moves = embedding_moves(finished_run, np.load(tmp_path / "x.npz")["paths"])
    error = {"bf16": gamma(1, torch.bfloat16), "fp32": gamma(75 + 49 + 16, torch.float32)}  # a filter's sum, the mean's
    for way in ways:
        found, own, result = embedded(**way)
        assert own == card and {name: result[name] for name in way} == way
        least = least_cosine(exact, moves, error[way.get("precision", "fp32")])
        assert_within(torch.nn.functional.cosine_similarity(found.double(), exact.double()), 1, 1 - least)
        assert way == {"runtime": "openvino"} or not torch.equal(found, exact)


# That of pairs needs a network: tests/test_reranker.py.
@pytest.mark.parametrize("name", [name for name in POSTPROCESSORS if not POSTPROCESSORS.fact(name, "of_pairs")])
def test_every_post_processor_runs_with_its_flags(embeddings, tmp_path, name):
    options = {option.name: option.default for option in POSTPROCESSORS.options(name)}
    printed, result = evaluate(tmp_path, embeddings=embeddings, postprocess=name, top=9, **options)
    assert result["postprocess"]["options"] == options and result["postprocess"]["items"] == 9
    before, after = result["postprocess"]["metrics"]["top 9"], result["postprocess"]["metrics"][name]
    assert before.keys() == after.keys() and "recall@1" in before
    assert f"+ {name}" in printed.splitlines()[0]


def test_a_chain_and_what_it_found(embeddings, tmp_path):
    flags = {"postprocess": "k_reciprocal,constant_threshold", "k1": 4, "threshold": 0.05, "top": 12}
    for name in ("found.npz", "found.json"):
        _, result = evaluate(tmp_path, embeddings=embeddings, save_results=tmp_path / name, **flags)
    results = RetrievalResults.load(tmp_path / "found.npz")
    assert results.padded_distances[results.padded_ids >= 0].max() < 0.05
    listed = read_json(tmp_path / "found.json")
    assert [one["ids"] for one in listed["found"]] == [ids.tolist() for ids in results.retrieved_ids]
    assert len(listed["paths"]) == 30 and listed["queries"] == list(range(30))
    assert list(result["postprocess"]["metrics"]) == ["top 12", "k_reciprocal", "constant_threshold"]


def test_search_memory_changes_nothing(embeddings, tmp_path):
    found = [evaluate(tmp_path, embeddings=embeddings, search_memory_mb=size)[1] for size in (1, 1000)]
    assert same_figures(*found)


@pytest.mark.parametrize(
    "arrays, sentence",
    [
        ({"labels": np.zeros(3, int)}, "there is no embeddings"),
        ({"embeddings": np.ones((3, 2))}, "has no labels, so there is nothing"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(2, int)}, "2 labels for 3 embeddings"),
        ({"embeddings": np.ones((3, 2)), "labels": np.full(3, -1)}, "unknown"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(3)}, "the labels are float64"),
        ({"embeddings": np.full((3, 2), np.inf), "labels": np.zeros(3, int)}, "3 of 3 embeddings are NaN or infinite"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(3, int), "is_query": np.zeros(3, bool)}, "is_query"),
        ({"embeddings": np.array([{}]), "labels": np.zeros(1, int)}, "no .npz file of plain arrays"),
    ],
)
def test_broken_embedding_files(tmp_path, arrays, sentence):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(Exception, match=sentence):
        evaluate(tmp_path / "out", embeddings=tmp_path / "x.npz")


def test_report_is_one_page(sop_tree, finished_run, tmp_path):
    """The page holds this evaluation's figures and look-alikes in the list it is held against."""
    flags = {"data_dir": sop_tree, "pretrained_model": finished_run, "leaks_from": "Ebay_train.txt", **CPU}
    printed, result = evaluate(tmp_path, **flags, report=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    figures = {one["name"]: one["value"] for one in data["metrics"]}
    assert figures["Recall@1"] == result["metrics"]["recall@1"] and figures["MAP@R"] == result["metrics"]["map@r"]
    assert data["lists"] == ["Ebay_test.txt", "Ebay_train.txt"] and data["leaks"] is not None
    assert str(tmp_path / "report.html") in printed


def test_report_of_saved_embeddings_and_other_leaks(embeddings, sop_tree, tmp_path):
    saved = dict(np.load(embeddings))
    flags = {"embeddings": embeddings, "leaks_from": embeddings, "report": tmp_path / "r.html"}
    evaluate(tmp_path, **flags, distance="squared_euclidean", definition="oml")
    assert (tmp_path / "r.html").stat().st_size > 20000
    with pytest.raises(Exception, match="has to be embeddings"):
        evaluate(tmp_path, **{**flags, "leaks_from": "Ebay_train.txt"})
    saved["paths"] = np.array([f"moved/{i}.jpg" for i in range(30)])
    np.savez(tmp_path / "moved.npz", **saved)
    for output in ({"report": tmp_path / "moved.html"}, {"picture": tmp_path / "moved.png"}):
        with pytest.raises(Exception, match="cannot read image 'moved/"):
            evaluate(tmp_path, embeddings=tmp_path / "moved.npz", **output)
        assert not list(tmp_path.glob("moved.[hp]*"))


def test_training_shows_worst_queries_and_embeddings_on_tensorboard(sop_tree, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = {"report": True, "test_iter_step": 2, "total_iter_num": 3}
    run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in board.Images("test/worst_queries")] == [2, 3]
    projector = (tmp_path / "run" / "projector_config.pbtxt").read_text()
    assert projector.count("tensor_path") == 2
    names = next((tmp_path / "run").glob("*/test/metadata.tsv")).read_text().splitlines()
    assert names[0] == "label\tfile" and len(names) == 31 and names[1] == "11\t11_0.jpg"
