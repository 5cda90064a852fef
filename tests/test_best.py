"""Several lists to test on in training, and the figure that chooses the best checkpoint."""

import csv
import shutil

import numpy as np
import pytest
import torch
from runs import read_json, read_metrics, run, tiny_backbone, train_flags

from core.errors import InputError
from core.lists import list_titles, split_lists
from engine.best import Best, open_best
from reader import open_list, open_training
from retrieval.metrics.pairs import fnmr_at_fmr
from retrieval.metrics.per_query import recall_at_k

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def lists(sop_tree, tmp_path):
    """A data_dir with two csv to test on: labels 11 to 15, and 14 to 20, with their categories, beside shapes.csv."""
    folder = shutil.copytree(sop_tree, tmp_path / "data")
    with open(folder / "shapes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name, labels in (("a.csv", range(11, 16)), ("b.csv", range(14, 21))):
        with open(folder / name, "w", newline="") as stream:
            table = csv.DictWriter(stream, rows[0])
            table.writeheader()
            table.writerows(row for row in rows if int(row["label"]) in labels)
    return folder


def line(folder, run_dir, /, **flags):
    common = {"loss_name": "softmax", "train_list": "shapes.csv", "test_list": "a.csv,b.csv"}
    common |= {"test_iter_step": 1, "save_iter_step": 3, "lr": 0.3, "num_workers": 0}
    return train_flags(folder, run_dir, **{**common, **flags})


def lines_of_tests(run_dir):
    return [figures for figures in read_metrics(run_dir) if figures["group"] == "test"]


def embeddings_of(run_dir, file, records):
    """What a checkpoint makes of a list's images."""
    from data.image.files import read_image
    from data.image.transforms import TestTransform
    from models import Embedder

    with tiny_backbone():
        model = Embedder("Tiny")
    model.load_state_dict(torch.load(run_dir / file, weights_only=True)["model"])
    images = torch.stack([TestTransform(32, 32)(read_image(path)) for path in records.paths.tolist()])
    with torch.no_grad():
        return model.eval()(images.permute(0, 3, 1, 2))


def test_figures_stand_under_the_lists_name(lists, tmp_path):
    printed = run("train_elem", line(lists, tmp_path / "run", test_metrics="map@r,fnmr@fmr=0.1,pcf@0.5"))
    assert "tested on the test list a.csv, the test list b.csv;" in printed
    tests = lines_of_tests(tmp_path / "run")
    measured = ["recall@1", "recall@5", "recall@10", "map@r", "fnmr@fmr=0.1", "pcf@0.5"]
    names = [*measured, *(f"b.csv/{name}" for name in measured)]
    assert len(tests) == 3 and [name for name in tests[-1] if name not in ("step", "group")] == names
    for title, prefix in (("a.csv", ""), ("b.csv", "b.csv/")):
        records = open_list(title, lists, "test")
        embedded = embeddings_of(tmp_path / "run", "last.pt", records)
        recall = recall_at_k(embedded, records.labels, (1,))[1]
        assert tests[-1][f"{prefix}recall@1"] == recall
    from retrieval import QueryGallery

    queries = QueryGallery.of(embedded, records.labels)
    assert tests[-1]["b.csv/fnmr@fmr=0.1"] == pytest.approx(fnmr_at_fmr(queries, (0.1,))[0.1])
    config = read_json(tmp_path / "run" / "config.json")
    assert list(config["lists"]) == ["train", "test", "test b.csv"]
    assert config["lists"]["test b.csv"]["labels"] == 7


@pytest.mark.parametrize(
    "best, figure, choose",
    [
        (None, "recall@1", max),
        ("map@r", "map@r", max),
        ("b.csv/recall@5", "b.csv/recall@5", max),
        ("a.csv/recall@1", "recall@1", max),
        ("b.csv/map@r", "b.csv/map@r", max),
        ("recall@1/square", "recall@1/square", max),
        ("b.csv/mrr/disc", "b.csv/mrr/disc", max),
        ("fnmr@fmr=0.3", "fnmr@fmr=0.3", min),
    ],
)
def test_the_best_step_is_the_first_of_the_best_figure(best, figure, choose, lists, tmp_path):
    flags = {"best": best, "total_iter_num": 5}
    printed = run("train_elem", line(lists, tmp_path / "run", **flags))
    tests = lines_of_tests(tmp_path / "run")
    values = [figures[figure] for figures in tests]
    expected = 1 + values.index(choose(values))
    result = read_json(tmp_path / "run" / "result.json")["best"]
    assert result["step"] == expected and result["value"] == values[expected - 1]
    assert result["figure"] == (best or "recall@1")
    assert torch.load(tmp_path / "run" / "best.pt", weights_only=True)["step"] == expected
    assert result["chosen_on"] == f"the test list {'b.csv' if figure.startswith('b.csv') else 'a.csv'}"
    assert ("on a test list, so that figures there promise too much" in printed) == (best is not None)


def test_by_category_it_is_the_mean_of_its_queries(lists, tmp_path):
    run("train_elem", line(lists, tmp_path / "run", best="b.csv/recall@1/square"))
    records = open_list("b.csv", lists, "test")
    embedded = embeddings_of(tmp_path / "run", "last.pt", records)
    of_category = np.array([text == "square" for text in records.category_texts])
    recall = recall_at_k(embedded, records.labels, (1,), is_query=of_category, is_gallery=np.ones(len(records), bool))[
        1
    ]
    assert lines_of_tests(tmp_path / "run")[-1]["b.csv/recall@1/square"] == pytest.approx(recall)


def test_the_least_loss_in_a_pair_run(lists, tmp_path):
    flags = {
        "loss_name": "triplet_margin",
        "test_loss": True,
        "best": "loss",
        "train_batch_size": 8,
        "total_iter_num": 4,
    }
    run("train_pair", line(lists, tmp_path / "run", **flags))
    values = [figures["loss"] for figures in lines_of_tests(tmp_path / "run")]
    best = read_json(tmp_path / "run" / "result.json")["best"]
    assert best["step"] == 1 + values.index(min(values)) and best["value"] == min(values)


def test_held_out_labels_choose_without_a_note(lists, tmp_path):
    printed = run("train_elem", line(lists, tmp_path / "run", val_classes=3, best="map@r"))
    assert "promise too much" not in printed
    assert read_json(tmp_path / "run" / "result.json")["best"]["chosen_on"] == "3 train labels held out"


def test_resume_keeps_what_chooses(lists, tmp_path):
    flags = {"best": "b.csv/map@r"}
    run("train_elem", line(lists, tmp_path / "whole", **flags, total_iter_num=6))
    run("train_elem", line(lists, tmp_path / "parts", **flags))
    longer = ["--total_iter_num=6", "--allow_changed=total_iter_num"]
    run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", *longer])
    whole, parts = (read_json(tmp_path / name / "result.json") for name in ("whole", "parts"))
    assert whole["best"] == parts["best"] and whole["recall"] == parts["recall"]
    assert [line["b.csv/map@r"] for line in lines_of_tests(tmp_path / "whole")] == [
        line["b.csv/map@r"] for line in lines_of_tests(tmp_path / "parts")
    ]
    with pytest.raises(InputError, match="--best is map@r, but the run that goes on has b.csv/map@r"):
        run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", "--best=map@r"])
    rows = (lists / "b.csv").read_text().splitlines()
    (lists / "b.csv").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(InputError, match="the test b.csv list .*b.csv is not what it was when the run began"):
        run(
            "train_elem", [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=9", "--allow_changed=total_iter_num"]
        )


def test_eval_takes_the_first_list_of_a_run(lists, tmp_path):
    run("train_elem", line(lists, tmp_path / "run"))
    printed = run("eval", [f"--pretrained_model={tmp_path / 'run'}", "--use_gpu=False", "--num_workers=0"])
    assert f"--test_list=a.csv taken from {tmp_path / 'run'}" in printed
    assert read_json(tmp_path / "run" / "eval" / "result.json")["images"] == 15


@pytest.mark.parametrize(
    "best, sentence",
    [
        ("recal@1", "Did you mean 'recall@k'?"),
        ("c.csv/recall@1", "no list 'c.csv'; there are: a.csv, b.csv. Did you mean"),
        ("recall@1/squar", "has no category 'squar'; there are: cross, disc, square, triangle. Did you mean 'square'?"),
        ("loss", "--best=loss needs --test_loss=True"),
        ("b.csv/loss", "the loss is of the first list"),
        ("pcf@0.5/square", "is of all pairs of a list"),
        ("fnmr@fmr=2", "a share from 0 to 1"),
    ],
)
def test_what_cannot_choose(best, sentence, lists, tmp_path):
    with pytest.raises(InputError) as caught:
        run("train_elem", line(lists, tmp_path / "run", best=best))
    assert sentence in str(caught.value) and not (tmp_path / "run").exists()


def test_a_list_without_categories_has_none(lists, sop_tree):
    records = open_list("b.csv", lists, "test")
    plain = type(records)(**{**vars(records), "categories": None})
    with pytest.raises(InputError, match="has no categories"):
        open_best("recall@1/square", [("b.csv", plain)], False)


def test_what_beats_what():
    best, least = Best(), Best("loss", 0, "loss")
    assert best.beats(0.1, None) and best.beats(0.2, 0.1) and not best.beats(0.1, 0.1) and not best.beats(None, None)
    assert least.beats(0.1, 0.2) and not least.beats(float("nan"), None) and not best.beats(float("nan"), 0.1)


def test_lists_and_their_titles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_lists("a.csv, b.csv") == ("a.csv", "b.csv") and split_lists("a.csv") == ("a.csv",)
    (tmp_path / "a,b.csv").write_text("")
    assert split_lists("x{0,1}.tar,b.csv") == ("x{0,1}.tar", "b.csv")
    assert split_lists("a,b.csv") == ("a,b.csv",) and split_lists("a,b.csv", tmp_path) == ("a,b.csv",)
    assert list_titles(("x/a.csv", "y/b.csv")) == ("a.csv", "b.csv")
    assert list_titles(("x/a.csv", "y/a.csv")) == ("x/a.csv", "y/a.csv")


def test_a_list_that_is_named_twice_is_tested_on_by_mistake(sop_tree):
    with pytest.raises(InputError, match="--test_list=shapes.csv,shapes.csv names a list twice"):
        open_training(data_dir=str(sop_tree), train_list="shapes.csv", test_list="shapes.csv,shapes.csv", val_classes=0)


def test_a_list_that_is_not_there_is_named(lists):
    with pytest.raises(InputError, match="no list 'c.csv'"):
        open_training(data_dir=str(lists), train_list="shapes.csv", test_list="a.csv,c.csv")
