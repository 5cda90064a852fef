"""`reader.py check`: counts, sizes, unreadable images, duplicates and labels that meet; and the notes of a training."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import run, tiny_backbone, train_flags
from sampling import make_sampler

import reader
from core.errors import InputError
from data.notes import has_positive, list_notes, query_notes, singleton_notes
from data.records import Records
from data.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
# Samplers that do without labels of a single image, and their options where two labels are a batch.
REFUSE_SINGLETONS = {
    "balance": {},
    "category_balance": {"n_categories": 1},
    "distinct_category_balance": {"n_categories": 1},
}


@pytest.fixture
def check(capsys):
    """Call `reader.py check` on its words; returns (exit status, what was printed)."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            reader.main(["check", *map(str, words)])
        return end.value.code, capsys.readouterr().out

    return call


def few(labels, is_query=None, is_gallery=None, source="few.txt"):
    everyone = np.ones(len(labels), dtype=bool)
    flags = [everyone if flag is None else np.array(flag, dtype=bool) for flag in (is_query, is_gallery)]
    paths = np.array([f"{source}/{i}.jpg" for i in range(len(labels))])
    return Records(source, paths, np.array(labels), *flags, lines=np.arange(len(labels)) + 2)


def test_a_sound_pair_of_lists(check, sop_tree):
    status, text = check("Ebay_train.txt", "Ebay_test.txt", f"--data_dir={sop_tree}")
    assert status == 0 and text.endswith("\n0 faults\n")
    assert f"train: 30 images of 10 labels in {sop_tree / 'Ebay_train.txt'}\n" in text
    assert text.count("           3       10 " + "#" * 40 + "\n") == 2
    assert "width:  40 to 56 pixels, median 48\nheight: 40 to 40 pixels, median 40\nunreadable: 0\n" in text
    assert "equal files across labels: 0\nequal files across splits: 0\n" in text and "note" not in text


def test_one_csv_is_both_splits_or_one(check, sop_copy):
    status, text = check("shapes.csv", f"--data_dir={sop_copy}")
    assert status == 0 and "train: 30 images of 10" in text and "test: 30 images of 10" in text
    lines = (sop_copy / "shapes.csv").read_text().splitlines(keepends=True)
    (sop_copy / "half.csv").write_text("".join(line for line in lines if "validation" not in line))
    status, text = check("half.csv", f"--data_dir={sop_copy}")
    assert status == 0 and "train: 30 images of 10" in text and "test:" not in text
    (sop_copy / "none.csv").write_text(lines[0])
    assert check("none.csv", f"--data_dir={sop_copy}")[0] == 1


def test_all_that_is_wrong_is_told_and_the_rest_is_looked_at(check, sop_copy):
    (sop_copy / "disc_final" / "4_0.jpg").write_bytes(b"")
    (sop_copy / "disc_final" / "4_1.jpg").write_bytes((sop_copy / "disc_final" / "4_2.jpg").read_bytes()[:400])
    shutil.copy(sop_copy / "disc_final" / "8_0.jpg", sop_copy / "square_final" / "1_0.jpg")
    shutil.copy(sop_copy / "disc_final" / "8_0.jpg", sop_copy / "disc_final" / "12_0.jpg")
    with open(sop_copy / "Ebay_train.txt", "a") as file:
        file.write("".join(f"{i} 1 disc_final/8_0.jpg\n" for i in range(31, 61)))
    status, text = check("Ebay_train.txt", "Ebay_test.txt", f"--data_dir={sop_copy}")
    assert status == 1 and text.endswith("\n32 faults\n")
    faults = text.splitlines()[-33:-1]
    assert [int(re.match(rf"{sop_copy}/Ebay_train.txt:(\d+): ", fault)[1]) for fault in faults] == [
        *range(32, 62),
        11,
        12,
    ]
    assert "4_0.jpg' is not an image" in faults[-2] and "4_1.jpg' is not an image" in faults[-1]
    assert "train: 30 images of 10 labels" in text and "unreadable: 2\n" in text
    group = r"    .*/1_0.jpg \(train, label 1\) = .*/8_0.jpg \(train, label 8\) = .*/12_0.jpg \(test, label 12\)\n"
    assert re.search(r"equal files across labels: 1\n" + group + "equal files across splits: 1\n" + group, text)


def test_many_counts_are_put_together(check, sop_copy):
    labels = np.repeat(np.arange(20), np.arange(1, 21))
    lines = [f"{i} {label} 1 disc_final/4_0.jpg" for i, label in enumerate(labels)]
    (sop_copy / "many.txt").write_text("\n".join(lines))
    _, text = check("many.txt", f"--data_dir={sop_copy}")
    rows = re.findall(r"^ +(\d+(?: to \d+)?) +(\d+) #+$", text, re.M)
    assert rows == [("1", "1"), ("2", "1"), ("3 to 4", "2"), ("5 to 8", "4"), ("9 to 16", "8"), ("17 to 32", "4")]


def test_it_is_a_command(sop_tree):
    command = [sys.executable, "reader.py", "check", "Ebay_test.txt"]
    done = subprocess.run([*command, f"--data_dir={sop_tree}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.endswith("\n0 faults\n")
    assert done.stdout.startswith(f"list: 30 images of 10 labels in {sop_tree / 'Ebay_test.txt'}\n")
    done = subprocess.run([*command, "--data_dir=/nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "data_dir '/nowhere' is not a folder" in done.stderr
    done = subprocess.run([*command, "b.txt", "c.txt"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "3 lists are given" in done.stderr


def test_queries_without_a_positive():
    def lone(*rows):
        images = few(*rows)
        return int((images.is_query & ~has_positive(images)).sum()), query_notes(images)

    assert lone([1, 1, 2, 3, 3, 3])[0] == lone([1, 1, 2, 2], [1, 0, 1, 0], [1, 0, 0, 1])[0] == 1
    assert lone([1, 1], [1, 0], [0, 1]) == (0, [])
    (note,) = lone([1, 1, 2, 7, 9], [1, 1, 0, 1, 1])[1]
    assert note.startswith(
        "few.txt:5: the label 7 of this query, and of 1 of 3 others, has no other image in the gallery"
    )


def test_lists_that_meet():
    assert list_notes(few([1, 1, 2, 2]), few([3, 3, 4, 4], source="other.txt")) == []
    (note,) = list_notes(few([1, 1, 2, 2]), few([2, 2, 3, 3], source="other.txt"))
    assert note.startswith("1 of 2 test labels is a train label, too (2, for one)")
    assert "2 of 2 test images are train images, too" in list_notes(few([1, 1, 2, 2]), few([7, 7]))
    assert "1 of 2 test images is a train image, too" in list_notes(few([1]), few([7, 7]))


def test_a_test_list_of_one_label():
    (note,) = list_notes(few([1, 1, 2, 2]), few([7, 7, 7], source="other.txt"))
    assert note == "all 3 test images are of one label (7): whatever is found is right, and figures say nothing"


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_labels_with_one_image(name):
    labels = [1, 1, 2, 2, 5]
    if name in REFUSE_SINGLETONS:
        with pytest.raises(InputError, match="1 of 3 train labels has a single image .label 5, for one.*; pk does not"):
            make_sampler(name, labels, 4, **REFUSE_SINGLETONS[name])
        return
    sampler = make_sampler(name, labels, 2 * 3 if name == "triplet" else 4)
    assert singleton_notes(few([1, 1, 2, 2]), "") == []
    if sampler.singletons:
        (note,) = singleton_notes(few([1, 1, 2, 2, 5]), sampler.singletons)
        assert note == f"1 of 3 train labels has a single image (few.txt:6, for one): {sampler.singletons}"
    drawn = np.array([[draw.index for draw in batch] for _, batch in zip(range(12), sampler)])
    assert (drawn == 4).any()
    if name == "triplet":
        assert not (drawn[:, [0, 1, 3, 4]] == 4).any()
    elif name == "siamese_pairs":
        assert not ((drawn[:, 0::2] == 4) & (drawn[:, 1::2] == 4)).any()
    elif name != "shuffled":
        assert set((drawn == 4).sum(1)) <= {0, 2}


@pytest.mark.parametrize("script, words", [("train_elem", []), ("train_pair", ["1 of 11 train labels has a single"])])
def test_a_training_says_what_it_noticed(sop_copy, tmp_path, script, words):
    with open(sop_copy / "Ebay_train.txt", "a") as file:
        file.write("31 11 1 disc_final/one_more.jpg\n")
    picture = cv2.imread(str(sop_copy / "disc_final" / "4_0.jpg"))
    cv2.imwrite(str(sop_copy / "disc_final" / "one_more.jpg"), 255 - picture)
    with tiny_backbone():
        printed = run(script, train_flags(sop_copy, tmp_path / "run", total_iter_num=1))
    for word in ["1 of 10 test labels is a train label, too (11, for one)", *words]:
        assert f"note: {word}" in printed
    assert printed.count("note: ") == 1 + len(words)
