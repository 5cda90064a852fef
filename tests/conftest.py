"""A data set of 60 little pictures in SOP's format, made once per test session, learnable by shape and colour."""

# First, since it is for what is loaded below, and for the processes that tests start.
from core import openmp  # noqa: F401

# isort: split
import csv
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from oml_made import make_dino_weights
from runs import run, tiny_backbone, train_flags
from tolerances import COMPARED, SHARES, closeness_counted

LABELS, SAMPLES, SIDE = 20, 3, 40  # labels 1 … 10 are train, 11 … 20 are test
SHAPES = ("disc", "square", "triangle", "cross")

# Files that take longest, `make test` and `make test_slow` taken together: each ten seconds of a core or more.
LONGEST = """
    test_snippets test_ranks test_packaging test_scripts test_shards_embedded test_index test_stop test_losses
    test_serving test_fast_transformers test_search_script test_resume test_export test_serving_browser
    test_audio test_backbones test_bad_input test_pairs test_shards test_index_crash test_upgrade test_reranker
    test_codes test_lightning test_pgvector
""".split()

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that no core is left with one of them when the others are done."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """With --junitxml, the report says what a test has compared (recipes/seeds_table.py shows it)."""
    if not item.config.getoption("xmlpath"):
        return (yield)
    COMPARED.clear()
    try:
        with closeness_counted():
            return (yield)
    finally:
        item.user_properties += COMPARED.items()


def pytest_terminal_summary(terminalreporter):
    """How many code blocks the pages have, behind tests of them, and with SHARES=1, what the largest error of each test
    is of the one that is allowed (tolerances.py).
    """
    if pages := sys.modules.get("test_snippets"):
        terminalreporter.write_line(pages.what_is_found())
    for place, (share, line) in sorted(SHARES.items()) if os.environ.get("SHARES") else ():
        terminalreporter.write_line(f"{share:.1e} of the allowed error: {place}, {line}")


@pytest.fixture
def record_property(record_property):
    """pytest's own, for NumPy's numbers too, which one process of xdist cannot hand to the other."""

    def record(name, value):
        record_property(name, value.item() if isinstance(value, np.generic) else value)

    return record


@pytest.fixture(scope="session")
def sop_tree(tmp_path_factory):
    """The folder with Ebay_train.txt, Ebay_test.txt (10 labels x 3 pictures each), shapes.csv (the same) and pictures.

    Read only: a test that changes files takes `sop_copy`.
    """
    folder = tmp_path_factory.mktemp("sop")
    rng = np.random.default_rng(0)
    rows = [_picture(folder, rng, label, sample) for label in range(1, LABELS + 1) for sample in range(SAMPLES)]
    for name, split in (("Ebay_train.txt", "train"), ("Ebay_test.txt", "validation")):
        lines = ["image_id class_id super_class_id path"]
        chosen = [row for row in rows if row["split"] == split]
        lines += [f"{i} {r['label']} {1 + SHAPES.index(r['category'])} {r['path']}" for i, r in enumerate(chosen, 1)]
        (folder / name).write_text("\n".join(lines) + "\n")
    with open(folder / "shapes.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.fixture
def sop_copy(sop_tree, tmp_path):
    """A copy of the tree that the test may damage."""
    return shutil.copytree(sop_tree, tmp_path / "sop")


@pytest.fixture(scope="module")
def tiny():
    """The models have one more, `Tiny` (runs.py), for as long as the tests of a file run that asks for it."""
    with tiny_backbone():
        yield


@pytest.fixture(scope="session")
def emoji_index(tmp_path_factory):
    """The folder of an index of some emoji, as tests of the server take it. Read only."""
    from served import make_index

    folder = tmp_path_factory.mktemp("index") / "emoji.index"
    make_index(folder)
    return folder


@pytest.fixture(scope="module")
def finished_run(tiny, sop_tree, tmp_path_factory):
    """The folder of a stage 1 run of three steps. Read only."""
    run_dir = tmp_path_factory.mktemp("run") / "softmax"
    run("train_elem", train_flags(sop_tree, run_dir))
    return run_dir


def _picture(folder, rng, label, sample):
    """Draw sample `sample` of `label`: its shape and hue are the label's, place, size and brightness the sample's."""
    shape = SHAPES[label % len(SHAPES)]
    path = f"{shape}_final/{label}_{sample}.jpg"
    (folder / path).parent.mkdir(exist_ok=True)
    hsv = np.uint8([[[(label * 9) % 180, 220, rng.integers(170, 240)]]])
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    image = np.full((SIDE, SIDE + label % 3 * 8, 3), 245, np.uint8)
    centre = np.array([image.shape[1] // 2, SIDE // 2]) + rng.integers(-4, 5, 2)
    _draw(image, shape, centre, int(rng.integers(9, 14)), colour)
    cv2.imwrite(str(folder / path), image)
    split = "train" if label <= LABELS // 2 else "validation"
    flag = "" if split == "train" else "True"
    return {"label": label, "path": path, "split": split, "is_query": flag, "is_gallery": flag, "category": shape}


def _draw(image, shape, centre, radius, colour):
    x, y = centre.tolist()
    if shape == "disc":
        cv2.circle(image, (x, y), radius, colour, -1)
    elif shape == "square":
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    elif shape == "triangle":
        corners = [[x, y - radius], [x - radius, y + radius], [x + radius, y + radius]]
        cv2.fillPoly(image, [np.array(corners, np.int32)], colour)
    else:
        cv2.line(image, (x - radius, y), (x + radius, y), colour, 5)
        cv2.line(image, (x, y - radius), (x, y + radius), colour, 5)


@pytest.fixture(scope="session")
def oml_hub(tmp_path_factory):
    """Torch's cache with weights of vits16_dino in it."""
    pytest.importorskip("timm", reason="ViTs need requirements/models.txt")
    hub = tmp_path_factory.mktemp("hub")
    make_dino_weights(hub)
    return hub


@pytest.fixture
def oml_home(oml_hub, tmp_path, monkeypatch):
    """An empty folder that OML's examples work in, with that cache and one for mock data."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(oml_hub))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
