"""Labels of every kind stay apart, from the list to what is printed; names are shown instead of numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import as_line, read_json, run, tiny_backbone, train_flags

from core.errors import InputError
from core.numerals import is_plain_int64, read_float, read_int
from data.names import Names, read_names
from data.vocabulary import as_labels, of_one_kind
from embeddings.files import load_table
from reader import open_list, open_lists

ROOT = Path(__file__).resolve().parents[1]
CPU = {"use_gpu": False, "num_workers": 0}


@pytest.mark.parametrize(
    "texts, kind",
    [
        (["1", "20", "-3"], "i"),
        ([str(2**63 - 1), str(-(2**63))], "i"),
        ([str(2**63)], "U"),
        (["1_12", "11_2", "2_0", "20"], "U"),
        (["007", "7"], "U"),
        (["+7", "7"], "U"),
        (["5.0", "5"], "U"),
        (["٣", "3"], "U"),
        (["red", "Red", "rot"], "U"),
        (["9" * 5000, "9" * 4999], "U"),
    ],
)
def test_different_texts_are_different_labels(texts, kind):
    labels = as_labels(texts)
    assert labels.dtype.kind == kind and [str(label) for label in labels.tolist()] == texts
    assert len(set(labels.tolist())) == len(texts)


def test_a_file_has_labels_of_one_kind_in_both_splits(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.jpg").touch()
    rows = ["label,path,split", "1,a.jpg,train", "2,b.jpg,train", "3b,c.jpg,validation", " 1 ,d.jpg,validation"]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    train, test = open_lists([("l.csv", "train"), ("l.csv", "test")], tmp_path)
    assert train.labels.tolist() == ["1", "2"] and test.labels.tolist() == ["3b", "1"]


def test_columns_of_two_kinds_are_compared_as_texts():
    numbers, texts = of_one_kind(np.array([1, 2]), np.array(["2", "x"]))
    assert np.isin(numbers, texts).tolist() == [False, True]
    assert of_one_kind(np.array([1]), np.array([2]))[0].dtype == np.int64


@pytest.mark.parametrize("text", ["1_0", "٣", "1.0", "", "0x10", "1e3", "--1"])
def test_what_is_no_integer(text):
    with pytest.raises(ValueError):
        read_int(text)
    assert not is_plain_int64(text)


@pytest.mark.parametrize("text", ["1_0", "1_0.5", "٣", "", "0x1p3", "nanx", "1e"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError):
        read_float(text)


@pytest.mark.parametrize("text, value", [("-1.5e3", -1500), (" .5 ", 0.5), ("3.", 3), ("+2", 2), ("inf", np.inf)])
def test_numbers(text, value):
    assert read_float(text) == value


# Flags in which a class is a row of a loss's weights, and the two that are older than the word.
OF_CLASSES = {
    *("class_vectors", "class_sample_rate", "class_lr", "centers_per_class", "chunk_classes", "keep_classes"),
    *("shard_classes", "class_dim", "samples_each_class", "val_classes"),
}
# What others call a label, an image of it, and what is searched.
OTHER_WORDS = {"identity", "identities", "instance", "instances", "person", "pid", "gt", "target", "corpus", "database"}


def names_in(tree):
    """The keys of nested dictionaries."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield name
        yield from names_in(value)


def test_flags_have_one_word_for_one_thing(record_property):
    """Those of docs/architecture.md: labels are no classes, images no instances, galleries no databases."""
    names = set(names_in(json.loads((ROOT / "tests/data/flags.json").read_text())))
    assert {name for name in names if {"class", "classes"} & set(name.split("_"))} == OF_CLASSES
    # A matrix may be the identity, and a post-processor has its published name.
    others = {name for name in names if OTHER_WORDS & set(name.split("_"))}
    assert others == {"identity_init", "database_augmentation"}
    page = (ROOT / "docs/architecture.md").read_text().partition("## Words")[2]
    for word in ("label", "category", "query", "gallery", "embedding", "sampler", "miner", "step"):
        assert f"| {word} |" in page, word
    record_property("names looked at", len(names))


@pytest.fixture
def lettered(sop_copy):
    """The list shapes.csv with labels `label 1` … instead of numbers."""
    lines = (sop_copy / "shapes.csv").read_text().splitlines()
    rows = [line.split(",", 1) for line in lines[1:]]
    (sop_copy / "named.csv").write_text("\n".join([lines[0], *(f"label {one},{rest}" for one, rest in rows)]) + "\n")
    return sop_copy


@pytest.mark.parametrize("script, loss", [("train_elem", "softmax"), ("train_pair", "triplet")])
def test_labels_may_be_names_from_training_to_the_report(lettered, tmp_path, script, loss):
    lists = {"train_list": "named.csv", "test_list": "named.csv"}
    with tiny_backbone():
        run(script, train_flags(lettered, tmp_path / "run", loss_name=loss, **lists))
        numbers = {"train_list": "shapes.csv", "test_list": "shapes.csv"}
        run(script, train_flags(lettered, tmp_path / "numbers", loss_name=loss, **numbers))
        results = [read_json(tmp_path / name / "result.json") for name in ("run", "numbers")]
        assert results[0]["images"] == results[1]["images"] == 30
        flags = {"pretrained_model": tmp_path / "run", "save_embeddings": tmp_path / "x.npz", **CPU}
        run("eval", as_line({**flags, "report": tmp_path / "x.html"}))
        page = (tmp_path / "x.html").read_text()
        assert '"label":"label 11"' in page
        run("eval", as_line({"embeddings": tmp_path / "x.npz", "output_dir": tmp_path / "again"}))
        run(script, [f"--checkpoint={tmp_path / 'run'}", "--total_iter_num=4", "--allow_changed=total_iter_num"])
    assert (
        read_json(tmp_path / "again" / "result.json")["metrics"]
        == read_json(tmp_path / "run/eval/result.json")["metrics"]
    )
    images = load_table(tmp_path / "x.npz").records
    assert images.labels.dtype.kind == "U" and images.labels[0] == "label 11"
    classes = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["classes"]
    assert classes == sorted(f"label {number}" for number in range(1, 11))


def test_scores_name_labels(lettered, tmp_path):
    (lettered / "named.names.csv").write_text(
        "kind,id,name\n" + "".join(f"label,label {i},Nº {i}\n" for i in range(1, 11))
    )
    with tiny_backbone():
        run("train_elem", train_flags(lettered, tmp_path / "run", train_list="named.csv", test_list="named.csv"))
        line = as_line({"pretrained_model": tmp_path / "run", "input": lettered / "disc_final" / "4_0.jpg", **CPU})
        printed = run("infer", [*line, "--scores"])
    (scores,) = [text for text in printed.splitlines() if text.startswith("Test-0-scores: ")]
    assert scores.count("Nº") == 5 and scores.endswith(f"({lettered / 'disc_final' / '4_0.jpg'})")


def write_names(folder, name="label_names.csv"):
    rows = [f"label,{number},the {number}th" for number in range(1, 21)]
    rows += [f"category,{shape},{shape} shape" for shape in ("disc", "square", "triangle", "cross")]
    (folder / name).write_text("\n".join(["kind,id,name", *rows]) + "\n")


@pytest.mark.parametrize("name", ["label_names.csv", "shapes.names.csv"])
def test_names_are_shown_and_ids_are_kept(sop_copy, tmp_path, finished_run, name):
    write_names(sop_copy, name)
    out = {"output_dir": tmp_path, "report": tmp_path / "x.html", "save_embeddings": tmp_path / "x.npz"}
    flags = {"data_dir": sop_copy, "test_list": "shapes.csv", "pretrained_model": finished_run, **CPU}
    printed = run("eval", as_line({**flags, **out}))
    page = (tmp_path / "x.html").read_text()
    assert "cross shape" in printed and '"label":"the 11th"' in page and '"category":"cross shape"' in page
    assert set(read_json(tmp_path / "result.json")["categories"]) == {
        f"{shape} shape" for shape in ("disc", "square", "triangle", "cross")
    }
    images = load_table(tmp_path / "x.npz").records
    assert images.labels.tolist()[0] == 11 and images.label_text(0) == "the 11th"
    again = run("eval", as_line({"embeddings": tmp_path / "x.npz", "output_dir": tmp_path / "again"}))
    assert "cross shape" in again


def test_a_lists_own_table_comes_before_that_of_its_folder(sop_copy):
    write_names(sop_copy)
    (sop_copy / "shapes.names.csv").write_text("kind,id,name\nlabel,11,my eleven\n")
    assert open_list("shapes.csv", sop_copy, "test").label_text(0) == "my eleven"
    assert open_list("Ebay_test.txt", sop_copy, "test").label_text(0) == "the 11th"


def test_two_ids_of_one_name_can_be_told_apart():
    names = Names({"1": "crane", "2": "crane", "3": "4"}, {})
    assert names.of_labels(np.array([1, 2, 3, 4])).tolist() == ["crane (1)", "crane (2)", "4 (3)", "4 (4)"]
    assert names.of_labels(np.array([1, 7])).tolist() == ["crane", "7"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("kind,id,nam\nlabel,1,a\n", r":1: no column 'name' in .*Rename 'nam' if it is meant"),
        ("kind,id,name\nlable,1,a\n", r":2: kind is 'lable', expected label or category. Did you mean 'label'\?"),
        ("kind,id,name\nlabel,1,a\nlabel,1,b\n", ":3: label '1' is called 'b', but above 'a'"),
        ("kind,id,name\nlabel,1\n", ":2: the row has more or fewer values"),
        (b"\xff\xfe", "cannot read the names"),
    ],
)
def test_faults_of_a_table_of_names(sop_copy, text, message):
    file = sop_copy / "label_names.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_names(sop_copy / "Ebay_test.txt")
    with pytest.raises(InputError, match=message):
        open_list("Ebay_test.txt", sop_copy, "test")


def test_the_embedded_set_has_names():
    images = open_list("Ebay_test.txt", None, "test")
    row = images.labels.tolist().index(1318)
    assert images.label_text(row) == "five o'clock" and images.category_texts[row] == "time"
    assert len(set(images.label_texts.tolist())) == 699 and all(map(str.isprintable, images.label_texts.tolist()))


@pytest.mark.parametrize("labels", [[-1] * 4, [-1, -1, 2, 2]])
def test_minus_one_is_a_label(tmp_path, labels):
    """In a list and in what is saved of it; alone in an older file it stood for unknown."""
    table = {"embeddings": np.eye(4, 3, dtype=np.float32), "labels": np.array(labels)}
    np.savez(tmp_path / "new.npz", **table, format=np.array(2))
    assert load_table(tmp_path / "new.npz").records.labels.tolist() == labels
    np.savez(tmp_path / "old.npz", **table)
    if set(labels) == {-1}:
        with pytest.raises(InputError, match="the labels are all -1, that is, unknown"):
            load_table(tmp_path / "old.npz")
    else:
        assert load_table(tmp_path / "old.npz").records.notes == (
            f"{tmp_path / 'old.npz'}: 2 rows have the label -1, which counts as a label like any other",
        )


def test_embeddings_of_unknown_labels_say_so(sop_tree, tmp_path, finished_run):
    line = {"pretrained_model": finished_run, "input": sop_tree, "output": tmp_path / "x.npz", **CPU}
    run("infer", as_line(line))
    with np.load(tmp_path / "x.npz") as saved:
        assert "labels" not in saved and len(saved["paths"]) == 60
    with pytest.raises(InputError, match="x.npz' has no labels, so there is nothing to count as right or wrong"):
        load_table(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "given, meant", [("is_gallary", "is_gallery"), ("query", "is_query"), ("Categories", "categories")]
)
def test_mistyped_arrays_are_told(tmp_path, given, meant):
    np.savez(tmp_path / "x.npz", embeddings=np.eye(3), labels=np.arange(3), **{given: np.ones(3, bool)})
    with pytest.raises(InputError, match=f"'{given}' is not known; if '{meant}' is meant, rename it"):
        load_table(tmp_path / "x.npz")


def test_arrays_that_nothing_reads_are_noted(tmp_path):
    np.savez(tmp_path / "x.npz", embeddings=np.eye(3), labels=np.arange(3), weather=np.zeros(3))
    assert "arrays that are not used: 'weather'" in load_table(tmp_path / "x.npz").records.notes[0]


def test_json_holds_every_box(sop_copy, tmp_path, finished_run):
    lines = ["label,path,split,x_1,y_1,x_2,y_2", "1,cross_final/11_0.jpg,validation,0,0,20,20"]
    lines += ["2,cross_final/11_0.jpg,validation,20,0,40,20.5", "3,disc_final/4_0.jpg,train,,,,"]
    (sop_copy / "boxes.csv").write_text("\n".join(lines))
    flags = {"pretrained_model": finished_run, "data_dir": sop_copy, "input": sop_copy / "boxes.csv", **CPU}
    run("infer", as_line({**flags, "output": tmp_path / "x.json"}))
    path = f"{sop_copy}/cross_final/11_0.jpg"
    keys = list(json.loads((tmp_path / "x.json").read_text()))
    assert keys == [f"{path}#0,0,20,20", f"{path}#20,0,40,20.5", f"{sop_copy}/disc_final/4_0.jpg"]
