"""Bridges between models, and search.py upgrade: fitted, judged, refused; searched meanwhile, killed, gone on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import as_line, run, train_flags
from test_index import on_disk
from test_search_script import CPU, sentence, table  # noqa: F401

from embeddings import upgrade as upgrading
from embeddings.upgrade import Judgement, _recall_among, mapped_ids, progress
from retrieval.bridge import Bridge, fit_bridges
from retrieval.decision import Decision
from retrieval.index.contents import CONTENTS, Contents
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("tiny")


def units(count, width, seed):
    points = np.random.default_rng(seed).standard_normal((count, width))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def rotation(width, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def agreement(bridge, old, new):
    """The least cosine of what a bridge makes of old embeddings with the new ones."""
    new = new / np.linalg.norm(new, axis=1, keepdims=True)
    return float((bridge(old) * new).sum(1).min())


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize("new_width", [12, 24, 48])
def test_a_known_rotation_is_recovered(count, new_width):
    """Of items that the fit has not seen, to float32, whatever the lengths; wider, narrower or as wide."""
    turn = rotation(48, 0)[:24, :new_width] if new_width > 24 else rotation(24, 0)[:, :new_width]
    old = units(count + 100, 24, 1)
    if new_width < 24:  # what a narrower model drops is not there
        old[:, :] = old @ turn @ turn.T
    lengths = np.random.default_rng(2).uniform(0.1, 10, (len(old), 1))
    bridges = {bridge.name: bridge for bridge in fit_bridges((lengths * old)[:count], (old @ turn)[:count])}
    found = agreement(bridges["procrustes, 100% of directions"], lengths[count:] * old[count:], (old @ turn)[count:])
    # Means are taken off on both sides, which a rotation keeps.
    assert found > 1 - 1e-5
    assert ("as they are" in bridges) == (new_width == 24)


def test_few_items_are_enough_for_a_model_that_goes_on():
    """A stretch of some directions, as a whitening is, with a tenth of as many items as dimensions."""
    old = units(400, 200, 3)
    stretch = np.diag(np.linspace(0.7, 1.3, 200))
    bridges = {bridge.name: bridge for bridge in fit_bridges(old[:20], old[:20] @ stretch)}
    found = {name: agreement(bridge, old[20:], old[20:] @ stretch) for name, bridge in bridges.items()}
    assert found["ridge 1 from as they are"] > 0.9 > 0.6 > found["procrustes, 100% of directions"]


def test_an_affine_map_is_recovered_by_ridge():
    old = units(2000, 16, 4)
    weight = np.random.default_rng(5).standard_normal((16, 20))
    new = old @ weight + 3
    ridge = next(bridge for bridge in fit_bridges(old[:1500], new[:1500]) if bridge.name == "ridge 0.1")
    assert agreement(ridge, old[1500:], new[1500:]) > 0.99


def test_recall_among_others():
    """Against a plain double loop, by labels, and without."""
    queries, gallery = units(20, 4, 0), np.concatenate([units(20, 4, 0), units(10, 4, 1)])
    codes = np.random.default_rng(0).integers(-1, 5, 30)
    right, asked = 0, 0
    for row, code in enumerate(codes[:20]):
        if code < 0 or (codes == code).sum() < 2:
            continue
        asked += 1
        scores = [(queries[row] @ gallery[other], -other) for other in range(30) if other != row]
        right += codes[-max(scores)[1]] == code
    own = np.arange(20)
    assert _recall_among(queries, gallery, own, codes[:20], True, codes) == right / asked
    assert _recall_among(queries, gallery, own, codes[:20], False, codes) == 1
    assert _recall_among(queries, gallery[::-1].copy(), own, codes[:20], False, codes) < 1


@pytest.fixture(scope="module")
def photos(sop_tree, tmp_path_factory):
    """A folder per label: the 60 pictures and two more of each, brighter and darker."""
    import cv2

    folder = tmp_path_factory.mktemp("bridge") / "photos"
    for path in sorted(sop_tree.glob("*/*.jpg")):
        label, _, sample = path.stem.partition("_")
        (folder / label).mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path)).astype(float)
        for number, share in enumerate((1, 0.9, 0.8)):
            cv2.imwrite(str(folder / label / f"{sample}{number}.png"), (image * share).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def models(tiny, sop_tree, finished_run, tmp_path_factory):
    """(a run, another that goes on from it, one of other random weights)."""
    folder = tmp_path_factory.mktemp("models")
    run("train_elem", train_flags(sop_tree, folder / "next", pretrained_model=finished_run, seed=1))
    run("train_elem", train_flags(sop_tree, folder / "other", seed=5, lr=1e-9))
    return finished_run, folder / "next", folder / "other"


@pytest.fixture
def index(photos, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("photos.index", photos, models[0])
    return "photos.index"


def build(folder, photos, model, **flags):
    flags = {**CPU, "index": folder, "pretrained_model": model, "overwrite": True, **flags}
    return run("search", ["build", photos, *as_line(flags)])


def upgrade(folder, **flags):
    return run("search", ["upgrade", folder, *as_line({**CPU, "share": 0.4, "upgrade_batch": 40, "bar": 0.5, **flags})])


def held(folder):
    index = Index.open(folder)
    return dict(zip(index.rows.paths(), index.rows.labels().tolist(), strict=True))


def test_an_index_goes_over_to_another_model(index, photos, models):
    before = held(index)
    Index.open(index).decide(Decision(0.5, (0.0, 1.0), (0.0, 1.0)))
    printed = upgrade(index, pretrained_model=models[1])
    assert "bridge: " in printed and "new queries, old items behind the bridge" in printed
    assert printed.endswith("photos.index holds 180 images of the new model alone\n")
    counts = [
        line for line in printed.splitlines() if re.search(r"\d+ of 180 images \(\d+ %\) are embedded anew$", line)
    ]
    assert 2 < len(counts) < 6 and counts[-1].startswith("180 of 180")
    opened = Index.open(index)
    assert held(index) == before and progress(opened) is None and not len(mapped_ids(opened))
    assert opened.card["origin"]["pretrained_model"] == str(models[1]) and opened.decision is None
    # As an index that was built of the new model.
    build("fresh", photos, models[1])
    assert same_answers(opened, Index.open("fresh"))
    assert Index.open("fresh").card["fingerprint"] == opened.card["fingerprint"]
    # Files are still known by what they held.
    assert len(Contents.read(opened).known) == 180
    assert run("search", ["sync", photos, *as_line({**CPU, "index": index})]).startswith("0 added, 0 replaced")
    assert not list(Path().glob("*.rows*"))
    found = run("search", ["find", index, "--input", photos / "1" / "00.png", *as_line(CPU)])
    assert table(found)[0][1] == 1


def same_answers(one, other):
    """Whether two indexes hold the same embeddings, to rounding, under the same paths."""
    rows = [dict(zip(index.rows.paths(), index.rows.take(index.rows.ids)[0], strict=True)) for index in (one, other)]
    return rows[0].keys() == rows[1].keys() and all(
        np.allclose(rows[0][path], rows[1][path], atol=1e-5) for path in rows[0]
    )


def test_a_bridge_below_the_bar(sentence, index, models, monkeypatch):  # noqa: F811
    before = {path.name: path.stat().st_mtime_ns for path in Path(index).iterdir()}
    nothing = np.random.default_rng(0).standard_normal((8, 8))
    monkeypatch.setattr(upgrading, "fit_bridges", lambda old, new: [Bridge("x", nothing[0], 0 * nothing, nothing[1])])
    said = sentence("upgrade", index, share=0.4, bar=0.9, pretrained_model=models[2])
    assert "of Recall@1, below --bar=0.9, and nothing is changed; a greater --share" in said
    assert {path.name: path.stat().st_mtime_ns for path in Path(index).iterdir()} == before


def test_searched_meanwhile(index, photos, models, monkeypatch):
    """Each generation answers queries of the new model; every item is one of both, and its id tells which."""
    build("fresh", photos, models[1])
    fresh = Index.open("fresh")
    truth = dict(zip(fresh.rows.paths(), fresh.rows.take(fresh.rows.ids)[0], strict=True))
    queries = np.stack(list(truth.values()))
    reader = Index.open(index)  # as a server that goes on with the generation that it has
    old_answers = reader.search(reader.rows.take(reader.rows.ids)[0], 1).paths
    left = []
    migrate = upgrading.migrate

    def watched(opened, encoder, batch):
        look()
        for step in migrate(opened, encoder, batch):
            look()
            yield step

    def look():
        opened = Index.open(index)
        behind = set(mapped_ids(opened).tolist())
        left.append(len(behind))
        hits = opened.search(queries, 5, fresh.card["fingerprint"])
        assert (hits.ids >= 0).all() and len(opened) == 180
        labels = [Path(path).parent.name for path in truth]
        assert (hits.labels[:, 0] == labels).mean() > 0.8
        for number, path in zip(opened.rows.ids.tolist(), opened.rows.paths(), strict=True):
            if number not in behind:
                assert np.allclose(opened.rows.take(np.array([number]))[0][0], truth[path], atol=1e-5)
        names = {path.name for path in Path(index).iterdir()} - {CONTENTS}
        assert names == {*on_disk_names(opened)}

    monkeypatch.setattr(upgrading, "migrate", watched)
    upgrade(index, pretrained_model=models[1])
    assert left == sorted(left, reverse=True) and left[-1] == 0 and 90 < left[0] < 130
    assert (reader.search(reader.rows.take(reader.rows.ids)[0], 1).paths == old_answers).all()


def on_disk_names(opened):
    aside = opened.folder / CONTENTS
    kept = aside.read_bytes()
    aside.unlink()
    try:
        return on_disk(opened.folder)
    finally:
        aside.write_bytes(kept)


def test_added_deleted_and_moved_meanwhile(index, photos, models, monkeypatch):
    """What comes while it goes on is of the new model; what is moved is not taken for it."""
    copy = shutil.copytree(photos, "copy")
    build(index, copy, models[0])
    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "migrate", lambda *words: iter(()))
        printed = upgrade(index, pretrained_model=models[1])
    assert "stay behind the bridge" in printed and progress(Index.open(index)) is not None
    behind = len(mapped_ids(Index.open(index)))
    moved = [path for path in Index.open(index).rows.paths(mapped_ids(Index.open(index)))][:2]
    for path in moved:
        Path(path).rename(f"{path}.moved.png")
    printed = run("search", ["sync", copy, *as_line({**CPU, "index": index})])
    assert "2 added, 0 replaced, 0 moved, 2 forgotten" in printed
    assert len(mapped_ids(Index.open(index))) == behind - 2
    printed = upgrade(index)
    assert printed.endswith("holds 180 images of the new model alone\n") and "bridge:" not in printed


def test_files_that_cannot_be_read_stay_behind(index, photos, models):
    copy = Path(shutil.copytree(photos, "copy"))
    build(index, copy, models[0])
    gone = sorted(copy.glob("*/*.png"))[:3]
    for path in gone:
        path.rename(f"{path}.aside")
    printed = upgrade(index, pretrained_model=models[1])
    assert "3 stay behind the bridge, since their files cannot be read: copy/" in printed
    assert len(mapped_ids(Index.open(index))) == 3 and len(Index.open(index)) == 180
    for path in gone:
        Path(f"{path}.aside").rename(path)
    assert upgrade(index).endswith("holds 180 images of the new model alone\n")


def test_without_labels_an_item_has_to_find_itself(photos, index, models):
    build(index, photos, models[0], label_level=0)
    printed = upgrade(index, pretrained_model=models[1], bar=0.1)
    assert "the nearest is itself, since nobody knows labels" in printed
    assert printed.endswith("of the new model alone\n")


@pytest.mark.parametrize(
    "flags, said",
    [
        ({}, "upgrade needs the new model: --pretrained_model"),
        ({"pretrained_model": "nowhere"}, "nowhere"),
        ({"pretrained_model": 0}, "is of this model already"),
        ({"pretrained_model": 1, "share": 0.05}, "items are too few to fit a bridge and to judge it"),
        ({"pretrained_model": 1, "share": 0}, "--share=0 leaves nothing to fit a bridge on"),
        ({"pretrained_model": 1, "bar": 1.5}, "--bar: '1.5' is not a number from 0 to 1"),
        ({"pretrained_model": 1, "bar": "high"}, "--bar: 'high' is not a number from 0 to 1"),
        ({"pretrained_model": 1, "upgrade_batch": 0}, "'0' is not an integer above 0"),
    ],
    ids=str,
)
def test_mistaken_line(sentence, index, models, flags, said):  # noqa: F811
    before = {path.name: path.stat().st_mtime_ns for path in Path(index).iterdir()}
    if isinstance(flags.get("pretrained_model"), int):
        flags = {**flags, "pretrained_model": models[flags["pretrained_model"]]}
    assert said in sentence("upgrade", index, **flags)
    assert {path.name: path.stat().st_mtime_ns for path in Path(index).iterdir()} == before


def test_an_upgrade_that_goes_on_is_to_its_own_model(sentence, index, models, monkeypatch):  # noqa: F811
    monkeypatch.setattr(upgrading, "migrate", lambda *words: iter(()))
    upgrade(index, pretrained_model=models[1])
    assert "was made by another model; what differs: the weights" in sentence(
        "upgrade", index, pretrained_model=models[2]
    )


KILLED = [sys.executable, ROOT / "tests/killed_search.py"]
PLACES = "replace,mkdir,append"


@pytest.mark.slow
def test_killed_at_each_stage(index, photos, models):
    """While it fits, at the change of all, in and between batches, at the end: a whole index, and the next goes on."""
    before = held(index)
    shutil.move(index, "old")
    flags = as_line({**CPU, "share": 0.4, "upgrade_batch": 40, "bar": 0.5})
    line = ["upgrade", os.path.abspath(index), f"--pretrained_model={models[1]}", *flags]

    def killed_at(step):
        shutil.rmtree(index, ignore_errors=True)
        for rows in Path().glob("*.rows*"):
            rows.unlink()
        shutil.copytree("old", index)
        return subprocess.run([*KILLED, str(step), PLACES, *line], cwd=ROOT, capture_output=True, text=True)

    calls = int(killed_at(0).stdout.split()[-1])
    stages = set()
    for step in sorted({3, calls // 4, calls // 3, calls // 2, 2 * calls // 3, calls - 3, calls - 1, calls}):
        assert killed_at(step).returncode == -signal.SIGKILL
        survivor = Index.open(index)
        assert held(index) == before
        stages.add((progress(survivor) is not None, survivor.card["origin"]["pretrained_model"]))
        if progress(survivor) is None and survivor.card["origin"]["pretrained_model"] == str(models[1]):
            continue
        assert upgrade(index, pretrained_model=models[1]).endswith("180 images of the new model alone\n")
        assert held(index) == before and not list(Path().glob("*.rows*"))
    assert len(stages) >= 2 and json.loads(Path(index, "index.json").read_text())["items"] == 180


def test_what_a_bridge_keeps():
    judgement = Judgement("x", 30, 0.9, 0.8, 0.95, 100, 0.5, 0.45, True)
    assert judgement.kept == 0.9 and "0.4500" in judgement.lines()[3] and "of the same label" in judgement.lines()[0]
    assert Judgement("x", 30, 0.9, 0.8, 0.95, 100, 0.0, 0.45, True).kept == 0
