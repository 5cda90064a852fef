"""--on_bad_image=skip: what takes the place of a train image that cannot be read, and that all else stays as it was."""

import re

import numpy as np
import pytest
import torch
from pictures import train_transform
from runs import SCRIPTS, as_line, read_json, run, train_flags
from sampling import make_sampler

from core.errors import InputError
from data import loader
from data.image.modality import ImageModality
from data.lists import open_list
from data.records import Records
from data.samplers import SAMPLERS, RankBatches, Sample
from losses.triplet import check_triplets

pytestmark = pytest.mark.usefixtures("tiny")
MODALITY = ImageModality(train_transform(16, 16))


@pytest.fixture
def broken(sop_copy):
    """A copy of the tree in which one train image of two labels each is broken, and all three of another one's."""
    for label, samples in ((2, (0,)), (4, (1,)), (7, (0, 1, 2))):
        for sample in samples:
            (path,) = sop_copy.glob(f"*/{label}_{sample}.jpg")
            path.write_bytes(path.read_bytes()[:300] if sample else b"")
    return sop_copy


def open_train(folder):
    images = open_list("Ebay_train.txt", folder, "train")
    return images, images.vocabulary.codes


def batches(folder, sampler="pk", steps=6, num_workers=0, start_step=0, told=None, rank=0, ranks=1):
    """`steps` batches of 12 images, or a rank's share of each, (images, labels, indices) each."""
    images, codes = open_train(folder)
    draws = RankBatches(make_sampler(sampler, codes, 12, start_step=start_step), rank, ranks)
    told = [] if told is None else told
    feed = loader.open_loader(images, MODALITY, draws, num_workers, on_bad=lambda *what: told.append(what))
    return [batch for _, batch in zip(range(steps), feed)]


def rows_of(*labels):
    return {3 * (label - 1) + sample for label in labels for sample in range(3)}


DEAD = rows_of(7)
BAD = {*DEAD, 3 * 1 + 0, 3 * 3 + 1}


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_another_image_of_its_label_takes_its_place(broken, sop_tree, sampler):
    told = []
    for (_, labels, rows), (_, whole_labels, whole) in zip(
        batches(broken, sampler, told=told), batches(sop_tree, sampler)
    ):
        assert len(rows) == 12 and not set(rows.tolist()) & BAD
        sound = ~torch.isin(whole, torch.tensor(sorted(BAD)))
        assert torch.equal(rows[sound], whole[sound])
        alive = ~torch.isin(whole, torch.tensor(sorted(DEAD)))
        assert torch.equal(labels[alive], whole_labels[alive])
        assert torch.equal(labels, torch.div(rows, 3, rounding_mode="floor"))
    assert {index for index, _ in told} == BAD
    sentences = dict(told)
    assert "2_0.jpg' is not an image that OpenCV can decode (0 bytes)" in sentences[3]
    assert "4_1.jpg' is not an image that OpenCV can decode (300 bytes)" in sentences[10]


@pytest.mark.parametrize("sampler", ["pk", "triplet"])
def test_where_its_label_has_none_another_label_stands_in_for_it(broken, sop_tree, sampler):
    """One that is not in the batch, and the same for all: pairs remain pairs, and triplets remain triplets."""
    seen = 0
    for (_, labels, _), (_, whole, _) in zip(batches(broken, sampler, 12), batches(sop_tree, sampler, 12)):
        dead = whole == 6
        seen += dead.any().item()
        assert torch.equal(labels[~dead], whole[~dead])
        assert len(labels[dead].unique()) <= 1 and not set(labels[dead].tolist()) & set(whole.tolist())
        if sampler == "triplet":
            check_triplets(labels)
        else:
            assert (labels.unique(return_counts=True)[1] == 2).all()
    assert seen > 3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(broken, num_workers):
    told, theirs_told = [], []
    mine, theirs = batches(broken, told=told), batches(broken, num_workers=num_workers, told=theirs_told)
    for one, other in zip(mine, theirs, strict=True):
        assert all(torch.equal(*columns) for columns in zip(one, other, strict=True))
    assert told == theirs_told


@pytest.mark.parametrize("sampler", SAMPLERS.names())
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("ranks", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_batches_are_the_same_on_any_number_of_ranks(broken, sampler, num_workers, ranks):
    told, all_told = [], []
    whole = batches(broken, sampler, steps=12, told=told)
    how = {"sampler": sampler, "steps": 12, "num_workers": num_workers, "told": all_told, "ranks": ranks}
    parts = zip(*(batches(broken, rank=rank, **how) for rank in range(ranks)))
    for batch, shares in zip(whole, parts, strict=True):
        for column, columns in zip(batch, zip(*shares), strict=True):
            assert torch.equal(column, torch.cat(columns))
    assert set(all_told) == set(told)


def test_batches_are_the_same_after_a_resume(broken):
    for one, other in zip(batches(broken, steps=6)[2:], batches(broken, steps=4, start_step=2), strict=True):
        assert all(torch.equal(*columns) for columns in zip(one, other, strict=True))


def test_a_sound_list_is_loaded_as_ever(sop_tree):
    images, codes = open_train(sop_tree)
    plain = loader.open_loader(images, MODALITY, make_sampler("pk", codes, 12))
    for one, other in zip(batches(sop_tree), plain):
        assert all(torch.equal(*columns) for columns in zip(one, other, strict=True))


def test_nothing_that_could_be_taken(broken):
    images, codes = open_train(broken)
    dead = images.take(sorted(DEAD))
    told = []
    feed = loader.open_loader(dead, MODALITY, [[Sample(0, 0)]], on_bad=lambda *what: told.append(what))
    with pytest.raises(InputError, match="7_0.jpg' is not an image .*; nor can another be taken"):
        list(feed)
    few = images.take([*sorted(DEAD), 0])
    feed = loader.open_loader(few, MODALITY, [[Sample(0, 0), Sample(3, 0)]], on_bad=print)
    with pytest.raises(InputError, match="of its label or from outside the batch"):  # label 0 is in the batch
        list(feed)


def test_a_box_outside_of_its_image_is_bad_too(sop_tree):
    images, codes = open_train(sop_tree)
    boxes = np.full((len(images), 4), np.nan)
    boxes[0] = 500, 500, 600, 600
    boxed = Records(images.source, images.paths, images.labels, images.is_query, images.is_gallery, boxes=boxes)
    told = []
    feed = loader.open_loader(
        boxed,
        ImageModality(train_transform(8, 8), "opencv"),
        [[Sample(0, 0)]],
        on_bad=lambda *what: told.append(what),
    )
    ((_, labels, rows),) = feed
    assert labels.tolist() == [0] and rows.tolist()[0] in (1, 2) and told[0][0] == 0 and "lies outside" in told[0][1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("script", ["train_elem", "train_pair"])
def test_a_run_says_each_once_and_counts_them(broken, tmp_path, script, workers):
    flags = {"on_bad_image": "skip", "total_iter_num": 12, "num_workers": workers, "train_batch_size": 12}
    printed = run(script, train_flags(broken, tmp_path / "run", **flags))
    lines = re.findall(r"Ebay_train.txt:(\d+): '.*' is not an image .*; skipped$", printed, re.M)
    assert sorted(map(int, lines)) == [row + 2 for row in sorted(BAD)]
    assert read_json(tmp_path / "run" / "result.json")["bad_images"] == 5
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["bad_images"] == sorted(BAD)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(broken, tmp_path):
    skip = {"on_bad_image": "skip", "train_batch_size": 12, "save_iter_step": 3}
    run("train_pair", train_flags(broken, tmp_path / "whole", total_iter_num=6, **skip))
    run("train_pair", train_flags(broken, tmp_path / "half", total_iter_num=3, **skip))
    run(
        "train_pair", as_line({"checkpoint": tmp_path / "half", "total_iter_num": 6, "allow_changed": "total_iter_num"})
    )
    whole, half = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "half"))
    assert all(torch.equal(value, half["model"][name]) for name, value in whole["model"].items())
    assert whole["bad_images"] == half["bad_images"]
    results = [read_json(tmp_path / name / "result.json")["bad_images"] for name in ("whole", "half")]
    assert results[0] == results[1] == len(whole["bad_images"]) > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_evaluation_never_skips(sop_copy, tmp_path, script):
    (path,) = sop_copy.glob("*/13_1.jpg")
    path.write_bytes(b"")
    if script.startswith("train"):
        line = train_flags(sop_copy, tmp_path / "run", on_bad_image="skip")
    else:
        line = as_line({"data_dir": sop_copy, "model": "Tiny", "image_shape": "3,32,32", "use_gpu": False})
        line += as_line({"num_workers": 0, "output_dir" if script == "eval" else "output": tmp_path / "x.npz"})
    with pytest.raises(InputError, match="13_1.jpg' is not an image"):
        run(script, line)
