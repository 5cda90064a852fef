"""The data doctor: planted faults of each kind are found, clean lists give nothing, and fixes make exactly the list."""

import csv
import io
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
from reports import HOSTILE, data_of

import doctor
import reader
from care.boxes import box_doubts, doubt_of_text, same_boxes
from care.chances import probability_right, probability_wrong, steady
from care.duplicates import show_the_same
from care.examine import Other, examine
from care.labels import label_doubts
from care.looks import Look, look_at
from care.subject import open_subject
from core.errors import InputError
from data.fixes import KINDS, RawRow, mend_list
from data.image.files import read_image
from data.lists import open_list

ROOT = Path(__file__).parents[1]
LABELS, EACH, WIDTH = 24, 5, 48
HEADER = ["label", "path", "split"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clusters(labels, spread=0.5, seed=0):
    """Embeddings (N, WIDTH) of length 1 about a direction for each label."""
    rng = np.random.default_rng(seed)
    middles = unit(rng.normal(size=(np.max(labels) + 1, WIDTH)))
    return unit(middles[labels] + spread / np.sqrt(WIDTH) * rng.normal(size=(len(labels), WIDTH)))


def centred(embeddings):
    return unit(embeddings - embeddings.mean(0))


def draw(rng, side=64):
    """A picture unlike any other: some discs."""
    picture = np.full((side, side, 3), rng.integers(120, 256, 3), np.uint8)
    for _ in range(7):
        centre = rng.integers(0, side, 2).tolist()
        cv2.circle(picture, centre, int(rng.integers(5, 14)), rng.integers(0, 256, 3).tolist(), -1)
    return picture


def write_csv(file, header, rows):
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


def read_csv(file):
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


class Collection:
    """A list of pictures with embeddings beside it, to which faults are added."""

    def __init__(self, folder, header=HEADER):
        self.folder, self.header = folder, header
        self.rows, self.embeddings = [], []
        self.rng = np.random.default_rng(0)
        self.codes = np.repeat(np.arange(LABELS), EACH)
        for number, (code, embedding) in enumerate(zip(self.codes, clusters(self.codes))):
            self.add(f"label {code}", f"{number}.png", embedding, picture=draw(self.rng))

    def add(self, label, path, embedding, *more, picture=None, split="train"):
        """A row; returns its line."""
        if picture is not None:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            encoded = cv2.imencode(".png", picture[..., ::-1])[1]
            (self.folder / path).write_bytes(encoded.tobytes())
        self.rows.append([label, path, split, *more])
        self.embeddings.append(embedding)
        return len(self.rows) + 1

    def save(self):
        """The list and the .npz of its embeddings, as infer.py names its rows."""
        rows = [row + [""] * (len(self.header) - len(row)) for row in self.rows]
        write_csv(self.folder / "list.csv", self.header, rows)
        arrays = {"embeddings": np.stack(self.embeddings), "labels": np.array([row[0] for row in rows])}
        arrays["paths"] = np.array([str(self.folder / row[1]) for row in rows])
        if len(self.header) > 3:
            boxes = [[float(side) if side != "" else np.nan for side in row[3:7]] for row in rows]
            arrays["boxes"] = np.array(boxes, dtype=np.float64)
        np.savez(self.folder / "rows.npz", **arrays)
        return self.folder / "list.csv"


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return Collection(folder)


def run_doctor(file, *flags):
    """What the doctor writes, [rows of fixes.csv], and what it prints."""
    folder = file.parent.parent / "examined"
    words = [str(file), f"--embeddings={file.parent / 'rows.npz'}", f"--output_dir={folder}", *map(str, flags)]
    with redirect_stdout(io.StringIO()) as printed:
        doctor.main(words)
    return read_csv(folder / "fixes.csv"), printed.getvalue()


def of_kind(found, kind):
    return {int(line["row"]): line for line in found if line["kind"] == kind}


# ---- Chances


def test_steady_is_isotonic_regression():
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 40):
        values, weights = rng.normal(size=count), rng.uniform(0.1, 3, count)
        np.testing.assert_allclose(steady(values, weights), isotonic.isotonic_regression(values, sample_weight=weights))


def test_probabilities_are_those_of_a_known_mixture():
    """Right rows about 3, wrong ones about 0, both normal: the posterior is a logistic function of the score."""
    rng = np.random.default_rng(0)
    is_wrong = rng.random(20_000) < 0.2
    scores = rng.normal(size=20_000) + np.where(is_wrong, 0, 3)
    found, share = probability_wrong(scores, rng.normal(size=80_000))
    assert abs(share - 0.2) < 0.02
    exact = 1 / (1 + 4 * np.exp(3 * scores - 4.5))
    assert np.abs(found - exact).mean() < 0.04
    # Said in another way: of those with so much probability so many are wrong.
    for low in (0.0, 0.5, 0.9):
        band = (found >= low) & (found <= low + 0.1)
        assert not band.any() or abs(is_wrong[band].mean() - found[band].mean()) < 0.12
    assert (np.diff(found[np.argsort(scores)]) <= 1e-12).all()


def test_trust_in_guesses_rises_with_their_margin():
    rng = np.random.default_rng(0)
    margins = rng.random(5000)
    trust = probability_right(margins, rng.random(5000) < margins, np.array([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(trust, [0.1, 0.5, 0.9], atol=0.08)


# ---- Labels


@pytest.mark.parametrize("seed", range(4))
def test_clean_labels_are_left_alone(seed):
    codes = np.repeat(np.arange(100), 5)
    found = label_doubts(centred(clusters(codes, 1.5, seed)), codes)
    assert (found.probability > 0.5).sum() <= 2 and found.share < 0.02


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_spoiled_labels_are_found_and_named(share):
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(100), 6)
    spoiled = codes.copy()
    rows = rng.choice(len(codes), int(share * len(codes)), replace=False)
    spoiled[rows] = (codes[rows] + rng.integers(1, 100, len(rows))) % 100
    found = label_doubts(centred(clusters(codes, 1.0)), spoiled)
    doubted = found.probability > 0.5
    assert doubted[rows].mean() > 0.9 and np.isin(np.flatnonzero(doubted), rows).mean() > 0.95
    assert abs(found.share - share) < 0.06
    sure = rows[found.trust[rows] > 0.75]
    assert len(sure) > 0.8 * len(rows) and (found.guess[sure] == codes[sure]).mean() > 0.98


def test_labels_of_few_rows_are_not_judged():
    codes = np.repeat(np.arange(6), 3)
    found = label_doubts(centred(clusters(codes)), codes)
    assert not found.probability.any()
    alone = label_doubts(centred(clusters(np.arange(5))), np.arange(5))
    assert np.isnan(alone.score).all() and not alone.probability.any()


# ---- Copies


def copies_of(picture):
    """A picture as copies of it come."""
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    yield cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    yield cv2.resize(picture, (48, 48), interpolation=cv2.INTER_AREA)
    yield np.clip(picture * 0.85 + 5, 0, 255).astype(np.uint8)
    yield picture[1:-1, 1:-1]


def small(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    return look_at(str(tmp_path / "x.png"), None).picture


def test_copies_show_the_same_and_others_do_not(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [draw(rng) for _ in range(12)]
    looks = [small(tmp_path, picture) for picture in pictures]
    for number, picture in enumerate(pictures):
        assert all(show_the_same(looks[number], small(tmp_path, copy)) for copy in copies_of(picture))
        assert not any(show_the_same(looks[number], other) for other in looks[:number])
    # A small thing that differs is a difference.
    marked = pictures[0].copy()
    cv2.circle(marked, (20, 20), 6, (0, 0, 0), -1)
    assert not show_the_same(looks[0], small(tmp_path, marked))
    white, black = (np.full((48, 48, 3), level, np.uint8) for level in (255, 0))
    assert show_the_same(white, white) and not show_the_same(white, looks[0]) and show_the_same(white, black)


def test_texts_are_copies_whatever_case_and_signs():
    digests = [look_at(f"text:{text}", None).digest for text in ("A red apple!", "a red  apple", "a green apple", "?!")]
    assert digests[0] == digests[1] and len(set(digests)) == 3


# ---- Boxes


@pytest.mark.parametrize(
    "cells, action",
    [
        (("60", "10", "20", "40"), "box=20,10,60,40"),
        (("0.1", "0.2", "0.5", "1"), "box=10,10,50,50"),
        (("-5", "0", "40", "40"), "box=0,0,40,40"),
        (("3.2", "0", "3.8", "9"), "remove"),
        (("five", "0", "9", "9"), "box=none"),
        (("5", "", "9", "9"), "box=none"),
    ],
)
def test_boxes_that_a_list_may_not_have_are_put_right(cells, action):
    row = RawRow(2, dict(zip(("x_1", "y_1", "x_2", "y_2"), cells)))
    assert doubt_of_text(row, (50, 100), "box").action == action


def test_boxes_are_held_against_their_pictures():
    nan = [np.nan] * 4
    boxes = np.array(
        [nan, [200, 0, 300, 50], [10, 10, 150, 40], [0, 0, 100, 50], [5, 5, 7, 40], *[[10, 5, 90, 45]] * 40]
    )
    looks = [Look(size=(50, 100))] * len(boxes)
    found = box_doubts(boxes, looks)
    assert {row: doubt.action for row, doubt in found.items()} == {
        1: "remove",
        2: "box=10,10,100,40",
        3: "keep",
        4: "keep",
    }
    # Where most boxes are the whole picture, that is how the list is.
    assert not box_doubts(np.array([[0, 0, 100, 50]] * 40), looks)
    pairs = same_boxes(
        np.array([[0, 0, 10, 10], [0, 0, 10, 10.2], [0, 0, 10, 30]]), ["a", "a", "a"], np.array([1, 2, 3])
    )
    assert pairs == [(0, 1)]


# ---- The whole


def test_a_clean_list_gives_nothing(collection):
    found, printed = run_doctor(collection.save())
    assert found == [] and "0 findings on 120 images; wrong labels: at most about 1.4 %" in printed
    assert "Nothing was found" in (collection.folder.parent / "examined" / "doctor.html").read_text()


def test_planted_faults_are_found_and_mended(tmp_path, collection):
    collection.header = [*HEADER, "x_1", "y_1", "x_2", "y_2", "seller"]
    for row in collection.rows:
        row += ["", "", "", "", "a shop"]
    copy = collection.embeddings[3] + 1e-3
    lines = {
        "duplicate": {collection.add("label 0", "copy.png", copy, picture=read_image(collection.folder / "3.png"))}
    }
    # Some pictures of the list with the label of another one.
    for number in (7, 50):
        collection.rows[number][0] = "label 20"
    right = {number + 2: f"label {number // EACH}" for number in (7, 50)}
    lines["label"] = set(right)
    lines["unreadable"] = {collection.add("label 1", "gone.png", collection.embeddings[5])}
    (collection.folder / "broken.png").write_bytes(b"\x89PNG and no more")
    lines["unreadable"].add(collection.add("label 1", "broken.png", collection.embeddings[5]))
    stranger = unit(np.random.default_rng(9).normal(size=WIDTH))
    lines["outlier"] = {collection.add("label 2", "stranger.png", stranger, picture=draw(collection.rng))}
    # What is far from everything is far from its label, too.
    lines["label"] |= lines["outlier"]
    lines["single"] = {
        collection.add("nobody else", "alone.png", collection.embeddings[60], picture=draw(collection.rng))
    }
    swapped = collection.add(
        "label 3", "box.png", collection.embeddings[16], "40", "10", "8", "60", picture=draw(collection.rng)
    )
    outside = collection.add(
        "label 3", "far.png", collection.embeddings[17], 90, 90, 99, 99, picture=draw(collection.rng)
    )
    lines["box"] = {swapped, outside}
    file = collection.save()

    found, printed = run_doctor(file)
    assert {kind: set(of_kind(found, kind)) for kind in lines} == lines
    assert not of_kind(found, "leak") and [line["kind"] for line in found] == sorted(
        (line["kind"] for line in found), key=KINDS.index
    )
    # Of so few wrong rows nothing is sure enough to give them a label; a person does.
    fixes = tmp_path / "examined" / "fixes.csv"
    for line in found:
        if line["kind"] == "label" and int(line["row"]) in right:
            assert line["action"] in ("remove", f"label={right[int(line['row'])]}")
            line["action"] = f"label={right[int(line['row'])]}"
    write_csv(fixes, list(found[0]), [list(line.values()) for line in found])
    actions = {int(line["row"]): line["action"] for line in found if line["action"] != "keep"}
    assert actions == {
        **dict.fromkeys(lines["duplicate"] | lines["unreadable"] | lines["outlier"] | {outside}, "remove"),
        **{line: f"label={label}" for line, label in right.items()},
        swapped: "box=8,10,40,60",
    }
    assert f"written: {tmp_path / 'examined' / 'fixes.csv'}" in printed

    # What the actions make of it: the very rows, with what nobody reads of them.
    clean = collection.folder / "clean.csv"
    with redirect_stdout(io.StringIO()) as printed:
        reader.main(["fix", str(file), f"--fixes={fixes}", f"--output={clean}"])
    expected = []
    for line, row in enumerate(csv.reader(file.read_text().splitlines()), start=1):
        row[0] = right.get(line, row[0])
        if line == swapped:
            row[3:7] = ["8", "10", "40", "60"]
        if actions.get(line) != "remove":
            expected.append(row)
    assert list(csv.reader(clean.read_text().splitlines())) == expected
    assert printed.getvalue() == f"written: {clean}; 1 box changed, 2 labels changed, 5 rows removed\n"
    assert len(open_list(clean, collection.folder, "train")) == len(expected) - 1
    collection.rows[swapped - 2][3:7] = [8, 10, 40, 60]
    left, _ = run_doctor(Path(shutil.copy(clean, collection.save())))
    assert {line["kind"] for line in left} <= {"outlier", "single"}


def test_a_copy_with_another_label_is_wrong_where_it_fits_worse(collection):
    picture = read_image(collection.folder / "3.png")
    line = collection.add("label 9", "twin.png", collection.embeddings[3] + 1e-3, picture=picture)
    found, _ = run_doctor(collection.save())
    assert set(of_kind(found, "label")) == {line} and of_kind(found, "label")[line]["action"] == "label=label 0"
    assert "shows what row 5, '3.png' shows" in of_kind(found, "label")[line]["evidence"]


def test_leaks_between_splits_and_lists(collection):
    picture = read_image(collection.folder / "3.png")
    tested = collection.add("label 30", "t.png", collection.embeddings[3] + 1e-3, picture=picture, split="validation")
    collection.add(
        "label 30", "u.png", collection.embeddings[3] * 1.01, picture=draw(collection.rng), split="validation"
    )
    file = collection.save()
    found, _ = run_doctor(file)
    leaks = of_kind(found, "leak")
    assert set(leaks) == {5} and leaks[5]["action"] == "remove" and f"row {tested}, 't.png'" in leaks[5]["evidence"]

    # The same against another list.
    subject = open_subject(file, collection.folder)
    looks = [look_at(path, None) for path in subject.records.paths]
    embeddings = np.stack(collection.embeddings)
    other = Other(subject.records.take([3, 4]), looks[3:5], embeddings[3:5], "other.csv")
    first = subject.without(dict.fromkeys(range(60, len(looks)), "not of this list"))
    found = examine(first, looks[:60], embeddings[:60], other)
    assert {finding.row for finding in found.findings if finding.kind == "leak"} == {5, 6}
    assert found.notes == [
        "1 of 12 labels is in other.csv, too (label 0, for one): figures on one after training on the other do "
        "not tell how unseen labels are found"
    ]


def test_clicks_are_evidence(collection, tmp_path):
    file = collection.save()
    name = str(collection.folder / "{}.png").format
    clicks = [(name(0), name(100), 1), (name(0), name(101), 1), (name(0), name(102), 1), (name(0), "elsewhere.png", 1)]
    clicks += [(name(40), name(41), 1), (name(60), name(61), 0)]
    feedback = tmp_path / "feedback.csv"
    write_csv(feedback, ["query", "item", "same", "time"], [(*click, "2026-01-01T00:00:00Z") for click in clicks])
    found, printed = run_doctor(file, f"--feedback={feedback}")
    labels = of_kind(found, "label")
    assert set(labels) == {2, 102, 103, 104, 62, 63}
    assert float(labels[2]["confidence"]) > 0.5 > float(labels[102]["confidence"])
    assert labels[2]["action"] != "keep" and labels[102]["action"] == "keep"
    assert "a person said it is the same as row 102, '100.png', label 'label 20' (3 clicks)" in labels[2]["evidence"]
    assert "is not the same as row 63" in labels[62]["evidence"]


def test_texts_are_examined_too(tmp_path):
    codes = np.repeat(np.arange(LABELS), EACH)
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = [f"thing number {number}" for number in range(len(codes))] + ["Thing, number 3!"]
    embeddings = clusters(codes)
    rows = [(f"l{code}", text, "train") for code, text in zip([*codes, 0], texts)]
    write_csv(folder / "list.csv", ["label", "text", "split"], rows)
    arrays = {"embeddings": np.vstack([embeddings, embeddings[3]]), "labels": np.array([row[0] for row in rows])}
    np.savez(folder / "rows.npz", **arrays, paths=np.array([f"text:{text}" for text in texts]))
    found, _ = run_doctor(folder / "list.csv")
    assert [(line["row"], line["kind"], line["path"], line["action"]) for line in found] == [
        ("122", "duplicate", "Thing, number 3!", "remove")
    ]


def test_a_network_embeds_what_has_no_table(finished_run, sop_copy, tmp_path):
    """With copies in two lists of which the embeddings are made."""
    shutil.copy(sop_copy / "disc_final/4_0.jpg", sop_copy / "square_final/13_0.jpg")
    flags = ["--num_workers=0", "--use_gpu=False", f"--data_dir={sop_copy}", f"--output_dir={tmp_path / 'out'}"]
    with redirect_stdout(io.StringIO()) as printed:
        doctor.main(["Ebay_train.txt", "--against=Ebay_test.txt", f"--pretrained_model={finished_run}", *flags])
    found = read_csv(tmp_path / "out" / "fixes.csv")
    assert [(line["kind"], line["path"]) for line in found] == [("leak", "disc_final/4_0.jpg")]
    assert "labels are not judged by their rows: 30 rows are too few" in printed.getvalue()
    assert (tmp_path / "out" / "embeddings.npz").is_file()


# ---- Names that mean harm


def test_hostile_names_stay_text(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    many = Collection(folder)
    names = [
        name for name in HOSTILE if "\0" not in name and len(name) < 200 and "\udc80" not in name and "\n" not in name
    ]
    for number, name in enumerate(names):
        path = re.sub("/", "|", name) + f"{number}.png"
        many.add(name.strip(), path, many.embeddings[number] + 1e-3, picture=read_image(folder / f"{number}.png"))
    found, _ = run_doctor(many.save())
    assert len(found) >= len(names)
    page = tmp_path / "examined" / "doctor.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2 and "hacked" not in re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL)
    data = data_of(page)
    shown = {data["items"][card["item"]]["label"] for kind in data["kinds"] for card in kind["findings"]}
    assert HOSTILE[2] in shown

    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver_file = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver_file):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_file))
    try:
        driver.get(page.as_uri())
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('.finding').length") == len(found)
        assert driver.execute_script("return document.querySelectorAll('[onerror], [onmouseover]').length") == 0
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


# ---- Fixes


SOP = ["image_id class_id super_class_id path", "1 7 2 a.jpg", "2  8 2 b c.jpg", "", "3 9 2 d.jpg"]


@pytest.fixture
def sop_list(tmp_path):
    for name in ("a", "b c", "d"):
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.txt").write_text("\n".join(SOP) + "\n")
    return tmp_path / "list.txt"


def fixes_file(tmp_path, *lines, header="row,path,action"):
    (tmp_path / "fixes.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path / "fixes.csv"


def test_an_sop_list_stays_one(sop_list, tmp_path):
    fixes = fixes_file(tmp_path, "2,a.jpg,remove", "3,b c.jpg,label=70", "5,d.jpg,keep", "5,d.jpg,", "2,a.jpg,label=4")
    raw, counts = mend_list(sop_list, tmp_path, fixes, tmp_path / "new.txt")
    assert (tmp_path / "new.txt").read_text() == "\n".join([SOP[0], "2  70 2 b c.jpg", *SOP[3:]]) + "\n"
    assert counts == {"remove": 1, "label=": 1} and raw.kind == "sop"


def test_a_folder_becomes_a_csv(tmp_path):
    for name in ("cats/a.png", "cats/ b.png", "dogs/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"\x89PNG")
    fixes = fixes_file(tmp_path, '1,cats/ b.png,"box=1,2,30,40"', "2,cats/a.png,label=dogs", "3,dogs/c.png,box=none")
    mend_list(tmp_path / "photos", None, fixes, tmp_path / "new.csv", split="validation")
    assert (tmp_path / "new.csv").read_text() == (
        "label,path,split,x_1,y_1,x_2,y_2\ncats,cats/ b.png,validation,1,2,30,40\n"
        "dogs,cats/a.png,validation,,,,\ndogs,dogs/c.png,validation,,,,\n"
    )


ROLES = "label,path,split,is_query,is_gallery"


@pytest.mark.parametrize(
    "header, rows, expected",
    [
        (
            "label,path,split",
            ["a,1.jpg,train", "a,2.jpg,train", "b,3.jpg,validation", "b,4.jpg,validation"],
            ["b,1.jpg,validation", "a,2.jpg,train", "b,3.jpg,validation", "a,4.jpg,train"],
        ),
        (
            ROLES,
            ["a,1.jpg,train,,", "a,2.jpg,train,,", "b,3.jpg,validation,True,False", "b,4.jpg,validation,False,True"],
            [
                "b,1.jpg,validation,True,True",
                "a,2.jpg,train,,",
                "b,3.jpg,validation,True,False",
                "a,4.jpg,train,False,False",
            ],
        ),
        # Labels that are in both splits do not tell where a row belongs.
        (
            "label,path,split",
            ["a,1.jpg,train", "c,2.jpg,train", "b,3.jpg,validation", "c,4.jpg,validation"],
            ["b,1.jpg,train", "c,2.jpg,train", "b,3.jpg,validation", "a,4.jpg,validation"],
        ),
    ],
)
def test_no_label_comes_into_both_splits(tmp_path, header, rows, expected):
    """A row whose new label is one of the other split goes there, with the roles that rows there have."""
    for name in "1234":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.csv").write_text("\n".join([header, *rows]) + "\n")
    fixes = fixes_file(tmp_path, "2,1.jpg,label=b", "5,4.jpg,label=a")
    _, counts = mend_list(tmp_path / "list.csv", tmp_path, fixes, tmp_path / "new.csv")
    assert (tmp_path / "new.csv").read_text().splitlines() == [header, *expected]
    moved = sum(split not in line for line, split in zip(expected, ("train", "train", "validation", "validation")))
    assert counts["label="] == 2 and counts["split"] == moved


def test_a_label_that_nobody_had_stays_in_one_split(tmp_path):
    for name in "1234":
        (tmp_path / f"{name}.jpg").touch()
    rows = ["a,1.jpg,train", "a,2.jpg,train", "b,3.jpg,validation", "b,4.jpg,validation"]
    (tmp_path / "list.csv").write_text("\n".join(["label,path,split", *rows]) + "\n")
    fixes = fixes_file(tmp_path, "2,1.jpg,label=new", "5,4.jpg,label=new")
    mend_list(tmp_path / "list.csv", tmp_path, fixes, tmp_path / "new.csv")
    lines = (tmp_path / "new.csv").read_text().splitlines()
    assert lines[1] == "new,1.jpg,train" and lines[4] == "new,4.jpg,train"


@pytest.mark.parametrize(
    "line, output, sentence",
    [
        ("2,b.jpg,remove", "new.txt", r"fixes.csv:2: names row 2 as 'b.jpg', but in '.*list.txt' 'a.jpg' stands there"),
        ("99,b.jpg,remove", "new.txt", "but in '.*list.txt' there is no such row"),
        ("2,a.jpg,removed", "new.txt", "action is 'removed', expected keep, remove, .*Did you mean 'remove'?"),
        ("2,a.jpg,label=", "new.txt", "action is 'label=', expected"),
        ('2,a.jpg,"box=5,4,3,2"', "new.txt", "action is 'box=5,4,3,2', expected"),
        ("2,a.jpg,box=none", "new.txt", "gives row 2 a box, which a list of this format cannot hold"),
        ("2,a.jpg,label=a b", "new.txt", "the label 'a b' has a blank"),
        ("two,a.jpg,remove", "new.txt", "row is 'two', expected the number of a row"),
        ("2,a.jpg,label=1\n2,a.jpg,label=2", "new.txt", "fixes.csv:3: wants another label for row 2 than line 2 does"),
        ("2,a.jpg,remove\n3,b c.jpg,remove\n5,d.jpg,remove", "new.txt", "the fixes remove every row"),
        ("2,a.jpg,remove", "new.csv", "cannot write '.*new.csv': what is made of '.*list.txt' has to end in .txt"),
        ("2,a.jpg,remove", "list.txt", "is there already; give --overwrite"),
    ],
)
def test_what_cannot_be_applied_is_refused_whole(sop_list, tmp_path, line, output, sentence):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=sentence):
        mend_list(sop_list, tmp_path, fixes_file(tmp_path, line), tmp_path / output)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "fixes.csv"])
    assert sop_list.read_text() == "\n".join(SOP) + "\n"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--output_dir=x"], "the doctor needs a list before its flags"),
        (["nowhere.csv"], "no list 'nowhere.csv'"),
        (["Ebay_train.txt", "--feedbak=x"], "unknown flag '--feedbak=x'. Did you mean '--feedback'?"),
        (["Ebay_train.txt", "--feedback=/nowhere.csv"], "cannot read feedback '/nowhere.csv'"),
        (["Ebay_train.txt", "--model=ResNet18"], "the doctor needs --pretrained_model"),
    ],
)
def test_mistakes_are_told_before_work_begins(words, sentence, sop_tree):
    with pytest.raises(InputError, match=sentence):
        doctor.main([*words, f"--data_dir={sop_tree}"] if len(words[0]) < 15 else words)


def test_a_table_that_lacks_rows_is_refused(collection):
    file = collection.save()
    collection.add("label 1", "new.png", collection.embeddings[0], picture=draw(collection.rng))
    write_csv(file, collection.header, collection.rows)
    with pytest.raises(InputError, match=r"rows.npz' has no embedding of 1 of 121 rows \(.*list.csv:122, for one\)"):
        run_doctor(file)


def test_the_reader_hands_on_to_the_doctor():
    done = subprocess.run([sys.executable, "reader.py", "doctor", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--against" in done.stdout and "feedback.csv" in done.stdout
