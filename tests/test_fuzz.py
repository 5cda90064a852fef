"""Made-up lists, images, embeddings and indexes: whatever is in them, the worst that comes of it is an InputError.

FUZZ=10000 python -m pytest tests/test_fuzz.py      so many cases of each kind, others every time (make fuzz_input)
"""

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images import frames, jpeg_of, pil, png_of, tiff_of, webp_canvas, webp_lossless
from test_trust import npy_of

from core.errors import InputError
from data.formats.csv import CSV_BOX, CSV_REQUIRED
from data.formats.problems import SHOWN_FAULTS
from data.image import header
from data.image.decode import DECODERS, decode_whole, open_image
from data.image.transforms import TrainTransform
from data.records import COLUMNS
from embeddings.files import load_table
from reader import open_lists
from retrieval.index.index import Index
from retrieval.index.items import item_name

INSTALLED = [name for name in DECODERS[1:] if name != "simplejpeg" or importlib.util.find_spec(name)]
CASES = int(os.environ.get("FUZZ", 200))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder():
    """A folder with the images a.jpg, b c.jpg and sub/d.jpg, which nothing but its list is written into."""
    with tempfile.TemporaryDirectory() as path:
        for name in ("a.jpg", "b c.jpg", "sub/d.jpg"):
            (Path(path) / name).parent.mkdir(exist_ok=True)
            (Path(path) / name).touch()
        yield Path(path)


# Values that are right, that are nearly so, and that are anything.
PATHS = st.sampled_from(
    ["a.jpg", "b c.jpg", "sub/d.jpg", "sub/../a.jpg", "../a.jpg", "/etc/passwd", "gone.jpg", "", "sub"]
)
NUMBERS = st.one_of(st.integers(-5, 5), st.integers(), st.floats()).map(str)
FLAGS = st.sampled_from(["True", "false", "0", "1.0", "yes", ""])
SPLITS = st.sampled_from(["train", "train", "validation", "validation", "test", ""])
ANYTHING = st.text(max_size=12)
KINDS = {"label": NUMBERS, "path": PATHS, "split": SPLITS, "is_query": FLAGS, "is_gallery": FLAGS, "category": ANYTHING}
KINDS |= {"sequence": ANYTHING, **{name: NUMBERS for name in CSV_BOX}}
SOP_LINES = st.one_of(
    st.tuples(st.integers(0, 9).map(str), NUMBERS, NUMBERS, PATHS).map(" ".join),
    st.lists(st.one_of(NUMBERS, PATHS, ANYTHING), max_size=6).map(" ".join),
    st.text(max_size=40),
    st.just("image_id class_id super_class_id path"),
)


@st.composite
def tables(draw):
    """A csv's text: a header that may lack columns or have more, and rows that may be too short, too long or broken."""
    header = list(CSV_REQUIRED) + draw(st.lists(st.sampled_from(list(KINDS)), max_size=6))
    header = list(dict.fromkeys(header)) if draw(st.integers(0, 3)) else header
    header = draw(st.permutations(header)) + draw(st.lists(ANYTHING, max_size=1))
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        row = [draw(KINDS.get(name, ANYTHING)) for name in header]
        rows.append(draw(st.sampled_from([row, row, row, row[:-1], [*row, "more"], [f'"{row[0]}', *row[1:]]])))
    ends = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return ends.join(",".join(row) for row in [header, *rows])


def encodings(texts):
    return st.one_of(
        texts.map(lambda text: text.encode(errors="surrogatepass")),
        texts.map(lambda text: text.encode("utf-8-sig", errors="replace")),
        texts.map(lambda text: text.encode("utf-16", errors="replace")),
        st.binary(max_size=100),
    )


def look(folder, name, content):
    """Open a list for both splits: Records that hold together, or an InputError, each of whose lines names it."""
    (folder / name).write_bytes(content)
    try:
        lists = open_lists([(name, "train"), (name, "test")], folder)
    except InputError as error:
        lines = str(error).split("\n")
        assert len(lines) <= SHOWN_FAULTS + 1 and max(map(len, lines)) < 500
        assert all(line.startswith((f"{folder / name}:", "and ")) for line in lines)
        return
    for images in lists:
        columns = [getattr(images, name) for name in COLUMNS]
        assert {len(column) for column in columns if column is not None} == {len(images)} and len(images)
        assert images.labels.dtype.kind in "iU" and images.is_query.dtype == images.is_gallery.dtype == bool
        assert all(Path(path).resolve().is_relative_to(folder.resolve()) for path in images.paths.tolist())
        assert all(os.path.isfile(path) for path in images.paths.tolist())


@fuzz
@given(content=encodings(st.lists(SOP_LINES, max_size=30).map("\n".join)))
def test_sop_lists(folder, content):
    look(folder, "list.txt", content)


@fuzz
@given(content=encodings(st.one_of(tables(), tables(), st.text())))
def test_csv_lists(folder, content):
    look(folder, "list.csv", content)


def corpus():
    """Small files of each format, by name."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (48, 36)))
    files = {form: pil(noise, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}
    files |= {f"first of {form}": frames(form) for form in ("PNG", "WEBP", "TIFF", "GIF")}
    files |= {"progressive": pil(noise, "JPEG", progressive=True), "lossless": pil(noise, "WEBP", lossless=True)}
    files |= {"CMYK": pil(noise.convert("CMYK"), "JPEG"), "grey": pil(noise.convert("L"), "JPEG")}
    files |= {"alpha": pil(noise.convert("RGBA"), "PNG"), "palette": pil(noise.quantize(8), "PNG", transparency=0)}
    files |= {"packed": pil(noise, "TIFF", compression="tiff_lzw"), "deep": pil(noise.convert("I;16"), "PNG")}
    tall = noise.resize((40, 160))  # so that crops leave rows below to be left out
    files |= {"tall": pil(tall, "JPEG"), "tall grey": pil(tall.convert("L"), "JPEG", restart_marker_rows=1)}
    exif = Image.Exif()
    exif[0x0112] = 6
    return files | {"turned": pil(noise, "JPEG", exif=exif), "JPEG in TIFF": pil(noise, "TIFF", compression="jpeg")}


CORPUS = corpus()
SIDES = st.one_of(st.integers(1, 50), st.integers(1, 2**14 - 1))
PATCHES = st.lists(st.tuples(st.integers(0, 2**12), st.binary(min_size=1, max_size=8)), max_size=6)


@st.composite
def pictures(draw):
    """A file of the corpus, or one whose header is made up, with bytes changed, cut off, put in or taken out."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        make = draw(st.sampled_from([png_of, jpeg_of, tiff_of, webp_canvas, webp_lossless]))
        return make(draw(SIDES), draw(SIDES))
    content = bytearray(CORPUS[draw(st.sampled_from(sorted(CORPUS)))])
    for place, patch in draw(PATCHES):
        place %= len(content) if place % 2 else min(len(content), 64)  # half of them in the header
        content[place : place + draw(st.sampled_from([len(patch), len(patch), 0, 20]))] = patch
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


BOXES = st.one_of(st.none(), st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=4, max_size=4))


@fuzz
@given(content=pictures(), decode=st.sampled_from(INSTALLED), box=BOXES, seed=st.integers(0, 99))
def test_images(content, decode, box, seed):
    encoded = np.frombuffer(content, np.uint8)
    size = header.image_size(encoded)
    assert size is None or min(size) > 0
    try:
        image = open_image(decode, encoded, "a.jpg", None if box is None else np.array(box))
        assert 0 < image.shape[0] * image.shape[1] <= header.MAX_PIXELS and image.shape[2] == 3
        crop = TrainTransform(16, 16, 0, ("crop",), (0.08, 1.0))(image)
    except InputError as error:
        assert "'a.jpg'" in str(error) and "\n" not in str(error)
    else:
        assert size is not None and crop.shape == (16, 16, 3)


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_sound(name):
    """So that what is refused above is so for what was done to it."""
    encoded = np.frombuffer(CORPUS[name], np.uint8)
    if name not in ("GIF", "first of GIF"):  # which OpenCV reads from 4.12 on
        assert decode_whole(encoded, name).shape[2] == 3


# Files of results


def arrays_file():
    with tempfile.TemporaryDirectory() as path:
        columns = {"paths": np.array(["a", "b", "c"]), "is_query": np.ones(3, bool), "boxes": np.zeros((3, 4))}
        columns |= {"embeddings": np.eye(3, dtype=np.float32), "labels": np.array([1, 1, 2]), "model": np.array("{}")}
        np.savez(Path(path) / "x.npz", **columns)
        return (Path(path) / "x.npz").read_bytes()


ARRAYS = arrays_file()


@fuzz
@given(patches=PATCHES, length=st.one_of(st.just(len(ARRAYS)), st.integers(0, len(ARRAYS))))
def test_embeddings(folder, patches, length):
    content = bytearray(ARRAYS)
    for place, patch in patches:
        place %= len(content)
        content[place : place + len(patch)] = patch
    (folder / "x.npz").write_bytes(content[:length])
    try:
        table = load_table(folder / "x.npz")
        images = table.records
        embeddings = table.matrix
    except InputError as error:
        assert "x.npz'" in str(error) and "\n" not in str(error)
    else:
        assert len(images) == len(embeddings) == len(images.labels)


@pytest.fixture(scope="module")
def sound_index(tmp_path_factory):
    """The folder of an index of two segments and some deleted items. Read only."""
    path = tmp_path_factory.mktemp("index") / "index"
    embeddings = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    names = [f"/photos/{i}.jpg" for i in range(30)]
    boxes = np.where(np.arange(20)[:, None] % 2, [0.0, 0.0, 3.0, 4.0], np.nan)
    labels = ["cat", "dog", None, 7] * 5
    index = Index.build(path, embeddings[:20], names[:20], labels, None, boxes=boxes, names={"cat": "Felis", "7": "x"})
    index.add(embeddings[20:], names[20:], np.arange(10))
    index.delete([0, 25])
    return path


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
SHAPES = st.one_of(
    st.integers(), st.tuples(), st.tuples(st.integers(0, 40)), st.tuples(st.integers(0, 40), st.integers())
)


@fuzz
@given(data=st.data())
def test_indexes(sound_index, data):
    with tempfile.TemporaryDirectory() as path:
        folder = Path(shutil.copytree(sound_index, Path(path) / "index"))
        card = json.loads((folder / "index.json").read_text())
        files = [path for path in sorted(folder.rglob("*.*")) if path.suffix in (".npy", ".json")]
        files.remove(folder / "index.json")
        file = data.draw(st.sampled_from([None, *range(len(files))]))
        if file is None:
            for name in data.draw(st.lists(st.sampled_from(sorted(card)), max_size=2)):
                card[name] = data.draw(JSON)
            (folder / "index.json").write_text(json.dumps(card))
        else:
            content = bytearray(files[file].read_bytes())
            for place, patch in data.draw(PATCHES):
                place %= len(content)
                content[place : place + len(patch)] = patch
            if data.draw(st.booleans()):
                is_json = files[file].suffix == ".json"
                content = json.dumps(data.draw(JSON)).encode() if is_json else npy_of(data.draw(SHAPES), content[128:])
            files[file].write_bytes(content)
        try:
            index = Index.open(folder)
            index.search(np.eye(4, dtype=np.float32), 3)
            index.delete([int(index.rows.ids[0])])
            index.delete(item_name(index.rows.paths()[0], index.rows.boxes()[0]))
            index.add(np.ones((1, 4), np.float32), ["/new.jpg"], np.array([1]), names={"1": "one"})
        except InputError as error:
            assert "\n" not in str(error)
        assert sorted(entry.name for entry in Path(path).iterdir()) == ["index"]
