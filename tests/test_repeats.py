"""Images that a list names more than once: each counts once where it is tested, and a training says so."""

import os

import numpy as np
import pytest
from runs import as_line, read_json, run, tiny_backbone, train_flags

import reader
from core.errors import InputError
from reader import open_list

CPU = {"use_gpu": False, "num_workers": 0}


def recall_of(folder, out, test_list, model):
    """Recall@1 of `eval.py` on a list, and what it printed."""
    flags = {"data_dir": folder, "test_list": test_list, "pretrained_model": model, "output_dir": out, **CPU}
    printed = run("eval", as_line(flags))
    return read_json(out / "result.json")["metrics"]["recall@1"], printed


def rows_of(folder):
    """The test rows of shapes.csv, {column: text} each."""
    lines = (folder / "shapes.csv").read_text().splitlines()
    header = lines[0].split(",")
    return [dict(zip(header, line.split(","))) for line in lines[1:] if "validation" in line]


def write_csv(path, rows):
    columns = ["label", "path", "split", "is_query", "is_gallery"]
    path.write_text("\n".join([",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]) + "\n")
    return path.name


def as_roles(rows, alias=str):
    """Each row as one that asks, then each as one that can be found, under another path to the same file."""
    asking = [{**row, "is_gallery": "False"} for row in rows]
    return asking + [{**row, "is_query": "False", "path": alias(row["path"])} for row in rows]


def test_query_rows_and_gallery_rows_of_the_same_files_count_as_one_list(sop_copy, tmp_path, finished_run):
    right, printed = recall_of(sop_copy, tmp_path / "a", "shapes.csv", finished_run)
    assert 0 < right < 1 and "names an image" not in printed
    name = write_csv(sop_copy / "roles.csv", as_roles(rows_of(sop_copy)))
    found, printed = recall_of(sop_copy, tmp_path / "b", name, finished_run)
    assert found == right
    assert "30 rows (line 32, for one) name an image that a row before names, too; each image counts once" in printed


@pytest.mark.parametrize("kind", ["another way", "link", "hard link"])
def test_whatever_the_path_looks_like(sop_copy, tmp_path, finished_run, kind):
    folder = sop_copy / "also"
    folder.mkdir()

    def alias(path):
        if kind == "another way":
            return f"also/../{path}"
        other = folder / path.replace("/", "_")
        (os.symlink if kind == "link" else os.link)(sop_copy / path, other)
        return f"also/{other.name}"

    right, _ = recall_of(sop_copy, tmp_path / "a", "shapes.csv", finished_run)
    name = write_csv(sop_copy / "roles.csv", as_roles(rows_of(sop_copy), alias))
    assert recall_of(sop_copy, tmp_path / "b", name, finished_run)[0] == right


def test_a_list_joined_to_itself_counts_once(sop_copy, tmp_path, finished_run):
    text = (sop_copy / "Ebay_test.txt").read_text()
    (sop_copy / "twice.txt").write_text(text + text)
    right, _ = recall_of(sop_copy, tmp_path / "a", "Ebay_test.txt", finished_run)
    assert recall_of(sop_copy, tmp_path / "b", "twice.txt", finished_run)[0] == right


def test_lone_images_listed_twice_find_nothing(sop_copy, tmp_path, finished_run):
    lone = [row for row in rows_of(sop_copy) if row["path"].endswith("_0.jpg")]
    name = write_csv(sop_copy / "lone.csv", lone + lone)
    found, printed = recall_of(sop_copy, tmp_path / "b", name, finished_run)
    assert found == 0 and "10 queries without a positive" in printed


def test_boxes_of_a_picture_are_images_of_their_own(sop_copy):
    lines = ["label,path,split,x_1,y_1,x_2,y_2", "1,cross_final/11_0.jpg,validation,0,0,20,20"]
    lines += ["2,cross_final/11_0.jpg,validation,20,0,40,20", "1,cross_final/11_0.jpg,validation,0,0,20,20"]
    (sop_copy / "boxes.csv").write_text("\n".join(lines))
    images = open_list("boxes.csv", sop_copy, "test")
    assert len(images) == 2 and images.labels.tolist() == [1, 2]


def test_one_image_cannot_be_tested_under_two_labels(sop_copy):
    rows = rows_of(sop_copy)[:3]
    write_csv(sop_copy / "two.csv", [*rows, {**rows[1], "label": "99"}])
    with pytest.raises(InputError) as caught:
        open_list("two.csv", sop_copy, "test")
    place = f"{sop_copy / 'two.csv'}:5: the image '{sop_copy / rows[1]['path']}'"
    assert str(caught.value) == f"{place} has the label 99, but 11 by line 3"


@pytest.mark.parametrize("script", ["train_elem", "train_pair"])
def test_a_training_says_that_rows_come_twice(sop_copy, tmp_path, script):
    text = (sop_copy / "Ebay_train.txt").read_text().splitlines()
    (sop_copy / "twice.txt").write_text("\n".join([*text, *text[1:3], text[1].replace(" 1 ", " 2 ", 1)]) + "\n")
    with tiny_backbone():
        printed = run(script, train_flags(sop_copy, tmp_path / "run", train_list="twice.txt", total_iter_num=1))
    assert (
        f"note: {sop_copy / 'twice.txt'}: 3 rows (line 32, for one) name an image that a row before names, too; each is drawn as often"
        in printed
    )
    assert "1 row (line 34) names an image that a row before gives another label" in printed


def test_check_tells_rows_and_copies_within_a_label(sop_copy, capsys):
    picture = (sop_copy / "cross_final" / "11_0.jpg").read_bytes()
    (sop_copy / "cross_final" / "11_1.jpg").write_bytes(picture)
    text = (sop_copy / "Ebay_test.txt").read_text()
    (sop_copy / "twice.txt").write_text(text + text)
    with pytest.raises(SystemExit) as end:
        reader.main(["check", "Ebay_train.txt", "twice.txt", f"--data_dir={sop_copy}"])
    printed = capsys.readouterr().out
    assert end.value.code == 0 and "30 rows (line 33, for one) name an image" in printed
    assert "equal files within a label of a split: 1\n" in printed and "11_0.jpg (test, label 11) = " in printed


def test_an_evaluation_says_how_many_images_are_copies(sop_copy, tmp_path, finished_run):
    picture = (sop_copy / "cross_final" / "11_0.jpg").read_bytes()
    (sop_copy / "cross_final" / "11_1.jpg").write_bytes(picture)
    _, printed = recall_of(sop_copy, tmp_path / "a", "Ebay_test.txt", finished_run)
    assert "2 of 30 images are byte for byte another image of their label" in printed


def test_saved_embeddings_of_query_rows_and_gallery_rows_count_as_one_list(sop_copy, tmp_path, finished_run):
    flags = {"data_dir": sop_copy, "pretrained_model": finished_run, "output_dir": tmp_path / "a", **CPU}
    run("eval", as_line({**flags, "save_embeddings": tmp_path / "x.npz"}))
    right = read_json(tmp_path / "a" / "result.json")["metrics"]
    with np.load(tmp_path / "x.npz") as saved:
        once = dict(saved)
    columns = ("paths", "labels", "embeddings")
    twice = {name: np.concatenate([once[name]] * 2) for name in columns}
    asks = np.arange(60) < 30
    np.savez(tmp_path / "roles.npz", **twice, is_query=asks, is_gallery=~asks)
    printed = run("eval", as_line({"embeddings": tmp_path / "roles.npz", "output_dir": tmp_path / "b"}))
    assert read_json(tmp_path / "b" / "result.json")["metrics"] == right
    assert f"{tmp_path / 'roles.npz'}: 30 rows" in printed and "each image counts once" in printed
    # Other numbers under the same path are another item: a view, or a crop.
    twice["embeddings"][30:] += 1
    np.savez(tmp_path / "views.npz", **twice)
    assert "60 images" in run("eval", as_line({"embeddings": tmp_path / "views.npz", "output_dir": tmp_path / "c"}))
