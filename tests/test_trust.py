"""Files of a stranger: nothing in them is executed, nothing is written outside of their folder, and none crashes."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import as_line, run, train_flags
from test_download_sop import archive, assert_whole, folder  # noqa: F401 (fixtures)
from test_download_sop import run as download_sop

from config.replay import read_flags
from core.arrays import read_npy, read_npz
from core.errors import InputError
from data import embedded
from data.embedded import embedded_data
from data.image.files import read_image
from embeddings.files import load_table
from models import Embedder, load_pretrained
from models.trained import read_settings
from reader import open_list
from retrieval.index.folder import CARD, LOCK
from retrieval.index.index import Index
from retrieval.results import RetrievalResults

pytestmark = [
    pytest.mark.usefixtures("tiny"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Validating sparse tensor"),
]


class Trap:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), "w")


@pytest.fixture(autouse=True)
def witness(tmp_path):
    """The file that any code that ran would have made; it must not be there when the test ends."""
    path = tmp_path / "witness"
    yield path
    assert not path.exists(), "the file ran code"


def test_the_trap_works(witness):
    pickle.loads(pickle.dumps(Trap(witness))).close()
    assert witness.exists()
    witness.unlink()


FORMS = ("pickle", "old pickle", "torch", "torch before 1.6", "array", "npz", "dict in npz")


def write_trap(path, form, witness):
    """A file with a Trap in it, whatever its name says."""
    trap = Trap(witness)
    if "pickle" in form:
        path.write_bytes(pickle.dumps({"model": trap}, protocol=2 if form == "old pickle" else None))
    elif "torch" in form:
        torch.save({"model": {"x": trap}}, path, _use_new_zipfile_serialization=form == "torch")
    else:
        named = {"labels": np.arange(3), "embeddings": np.array([trap] * 3, dtype=object)}
        named |= {"model": np.array({"x": trap})} if form == "dict in npz" else {}
        with open(path, "wb") as file:
            np.save(file, named["embeddings"], allow_pickle=True) if form == "array" else np.savez(file, **named)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "load",
    [
        read_npz,
        read_npy,
        load_table,
        read_flags,
        RetrievalResults.load,
        lambda path: load_pretrained(Embedder("Tiny"), path),
        lambda path: open_list(path, path.parent, "train"),
        read_image,
    ],
    ids=["npz", "npy", "embeddings", "config", "results", "weights", "list", "image"],
)
def test_no_loader_runs_code(tmp_path, witness, form, load):
    with pytest.raises(InputError) as caught:
        load(write_trap(tmp_path / "x.bin", form, witness))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("form", FORMS)
def test_no_script_runs_code(sop_tree, finished_run, tmp_path, witness, form):
    trap = write_trap(tmp_path / "x.npz", form, witness)
    stranger = shutil.copytree(finished_run, tmp_path / "run")
    shutil.copy(trap, stranger / "last.pt")
    data = {"data_dir": sop_tree, "use_gpu": False, "num_workers": 0}
    lines = [
        ("train_elem", train_flags(sop_tree, tmp_path / "a", pretrained_model=trap)),
        ("train_pair", train_flags(sop_tree, tmp_path / "a", pretrained_model=stranger)),
        ("train_elem", as_line({"checkpoint": stranger, "total_iter_num": 6})),
        ("eval", as_line({"embeddings": trap, "output_dir": tmp_path / "a"})),
        ("eval", as_line({**data, "pretrained_model": stranger, "output_dir": tmp_path / "a"})),
        ("infer", as_line({**data, "pretrained_model": stranger, "output": tmp_path / "a" / "x.npz"})),
        ("infer", [*as_line({**data, "pretrained_model": stranger}), "--scores"]),
    ]
    for script, line in lines:
        with pytest.raises(InputError):
            run(script, line)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_of_a_stranger_is_made_anew(sop_tree, finished_run, tmp_path, witness, form):
    write_trap(tmp_path / "embeddings.npz", form, witness)
    flags = {"data_dir": sop_tree, "pretrained_model": finished_run, "use_gpu": False, "num_workers": 0}
    run("eval", as_line({**flags, "output_dir": tmp_path}))
    assert read_npz(tmp_path / "embeddings.npz")["embeddings"].shape == (30, 8)


WEIGHTS = {
    "facts that are none": {"model": {}, "facts": 3, "loss": {}},
    "no loss": {"model": {}, "facts": {"model": "Tiny"}},
    "no name": {"model": {}, "facts": {}, "loss": {}},
    "numbers for tensors": {"model": {"backbone.conv1.weight": 1}, "facts": {"model": "Tiny"}, "loss": {}},
    "numbers for names": {1: torch.ones(3), (2, 3): torch.ones(3)},
    "sparse": {"conv1.weight": torch.ones(8, 3, 5, 5).to_sparse(), "conv1.bias": torch.ones(8)},
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_odd_weights_are_refused(tmp_path, kind):
    torch.save(WEIGHTS[kind], tmp_path / "x.pt")
    with pytest.raises(InputError, match="x.pt' (is not a|does not hold a Tiny)"):
        load_pretrained(Embedder("Tiny"), tmp_path / "x.pt")


N = 4
SOUND = {"embeddings": np.eye(N, dtype=np.float32), "labels": np.array([1, 1, 2, 2])}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"embeddings": np.ones(N)}, r"the embeddings are \(4,\) float64; what is looked for is"),
        ({"embeddings": np.ones((0, 4))}, r"the embeddings are \(0, 4\)"),
        ({"embeddings": np.full((N, 2), "x")}, r"the embeddings are \(4, 2\) <U1"),
        ({"embeddings": np.float32(3)}, r"the embeddings are \(\)"),
        ({"labels": np.ones((N, 1), int)}, r"\(4, 1\) labels for 4 embeddings"),
        ({"labels": np.int64(3)}, r"\(\) labels for 4 embeddings"),
        ({"paths": np.arange(N)}, "the paths are int64"),
        ({"is_query": np.array(["yes"] * N)}, "the is_query are <U3"),
        ({"boxes": np.zeros(N)}, "4 boxes for 4 embeddings"),
        ({"sequences": np.zeros(N)}, "the sequences are float64"),
        ({"model": np.array("{")}, "model is 'no JSON', expected what tells of a model as JSON"),
        ({"model": np.array("[1]")}, r"model is '\[1\]', expected"),
    ],
)
def test_odd_embeddings_are_refused(tmp_path, change, sentence):
    np.savez(tmp_path / "x.npz", **SOUND)
    assert load_table(tmp_path / "x.npz").matrix.shape == (N, N)
    np.savez(tmp_path / "x.npz", **{**SOUND, **change})
    with pytest.raises(InputError, match=f"x.npz': {sentence}"):
        load_table(tmp_path / "x.npz")


def npy_of(shape, data=b""):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(-1,)", "(2" + ", 2" * 70 + ")", "(" * 3000])
def test_arrays_that_promise_too_much_are_refused(tmp_path, shape):
    (tmp_path / "x.npy").write_bytes(npy_of(shape))
    with pytest.raises(InputError, match="x.npy' is no .npy file of a plain array: "):
        read_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("embeddings.npy", npy_of(shape))
    with pytest.raises(InputError, match="x.npz' is no .npz file of plain arrays: "):
        read_npz(tmp_path / "x.npz")


def test_a_zip_of_other_files_is_no_npz(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("embeddings", b"raw")
        file.writestr("../../labels.npy", npy_of("(1,)", b"\0" * 4))
    with pytest.raises(InputError, match="it holds a file 'embeddings'"):
        read_npz(tmp_path / "x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    "flags",
    [
        {"model": ["Tiny"] * 2},
        {"model": {"x": 1}},
        {"image_shape": "wide"},
        {"image_shape": [3, -1, 5]},
        {"image_shape": {"a": 1}},
        {"embedding_size": 1e30},
        {"embedding_size": [1]},
        {"resize_short_size": "x"},
        {"pooling": 5},
    ],
    ids=str,
)
def test_odd_flags_of_a_run_are_refused(sop_tree, finished_run, tmp_path, flags):
    stranger = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((stranger / "config.json").read_text())
    config["flags"].update(flags)
    (stranger / "config.json").write_text(json.dumps(config))
    data = {"data_dir": sop_tree, "use_gpu": False, "num_workers": 0, "pretrained_model": stranger}
    try:
        run("eval", as_line({**data, "output_dir": tmp_path / "a"}))
    except InputError as error:
        assert "\n" not in str(error) and not (tmp_path / "a").exists()
    else:
        assert read_settings(flags, "x") == {"embedding_size": 1}


# Indexes


@pytest.fixture
def index(tmp_path):
    """A small index of the generation 1, in a folder of its own."""
    rng = np.random.default_rng(0)
    paths = [f"/photos/{i}.jpg" for i in range(20)]
    return Index.build(tmp_path / "index", rng.normal(size=(20, 8)).astype(np.float32), paths, np.arange(20) % 5, None)


def test_a_sound_recall_is_taken(index):
    """So that it is refused below for what is wrong with it."""
    rewrite(index, recall=RECALL)
    assert Index.open(index.folder).card["recall"] == RECALL


def rewrite(index, **changes):
    card = json.loads((index.folder / CARD).read_text())
    (index.folder / CARD).write_text(json.dumps({**card, **changes}))


def outside(tmp_path):
    """{path: content} of all that lies beside the index."""
    files = [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "index" not in (path, *path.parents)]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


RECALL = {"at": 10, "value": 0.9, "queries": 20, "items": 20, "changes": 3, "when_built": 1}
NAMES = ("../../x", "../x", "/etc/passwd", "segment-000001/../../x", "a/b", "..", ".", "segment-000001\n", "segment-1")


@pytest.mark.parametrize("place", ["segments", "deleted", "names", "state"])
@pytest.mark.parametrize(
    "name", [*NAMES, "segment-000002", "deleted-000009.npy", "names-000002.json", "faiss-000002.index"]
)
def test_cards_that_name_other_places_are_refused(index, place, name):
    """Among them names of generations to come: those would be written to, and could be links."""
    state = {"built": 1, "approximate": False, "file": name}
    rewrite(index, **{place: {"segments": [name], "state": state}.get(place, name)})
    with pytest.raises(InputError, match="index.json' is damaged: it names"):
        Index.open(index.folder)


@pytest.mark.parametrize(
    "changes, fact",
    [
        ({"origin": [1]}, "origin"),
        ({"width": 0}, "width"),
        ({"segments": [None]}, "segments"),
        ({"generation": -1}, "generation"),
        ({"state": {}}, "state.built, state.approximate"),
        ({"state": {"built": "1", "approximate": False}}, "state.built"),
        ({"names": ["names-000001.json"]}, "names"),
        ({"recall": {"at": 10, "value": "all"}}, "recall.queries, recall.items, recall.changes, recall.value"),
        ({"recall": {**RECALL, "value": 10**400}}, "recall.value"),
        ({"recall": {**RECALL, "value": float("nan")}}, "recall.value"),
        ({"recall": {**RECALL, "when_built": -0.1}}, "recall.when_built"),
        ({"recall": {**RECALL, "items": 10**400}}, "recall.items"),
        ({"recall": {**RECALL, "changes": None}}, "recall.changes"),
        ({"recall": {**RECALL, "changes": -1}}, "recall.changes"),
        ({"backend": "faiss", "state": {"built": 1, "approximate": True}}, "state.factory, state.file, state.built_of"),
    ],
)
def test_cards_of_odd_facts_are_refused(index, changes, fact):
    rewrite(index, **changes)
    with pytest.raises(InputError, match=f"index.json' is damaged: {fact}"):
        Index.open(index.folder)


@pytest.mark.parametrize("collection", ["customers", "images-", "images-0123456789ab\n", "images-0123456789ab/../x", 5])
def test_a_card_cannot_have_collections_deleted_that_are_not_of_an_index(index, collection):
    state = {"built": 1, "approximate": True, "last": 3, "collection": collection}
    rewrite(index, backend="qdrant", options={"qdrant_url": "http://127.0.0.1:1"}, state=state)
    with pytest.raises(InputError, match="index.json' is damaged: state.collection"):
        Index.build(index.folder, np.eye(3, dtype=np.float32), ["a", "b", "c"], np.arange(3), None, overwrite=True)


@pytest.mark.parametrize("name", ["index.json.tmp", "segment-000002", "deleted-000002.npy", "names-000003.json"])
def test_links_in_an_index_are_not_written_through(index, tmp_path, name):
    target = tmp_path / "target"
    target.mkdir() if name.startswith("segment") else target.write_text("mine")
    (index.folder / name).symlink_to(target)
    before = outside(tmp_path)
    opened = Index.open(index.folder)
    opened.delete([0])
    opened.add(np.eye(8, dtype=np.float32), [f"/new/{i}.jpg" for i in range(8)], np.arange(8), names={"3": "three"})
    assert outside(tmp_path) == before and not (target.is_dir() and list(target.iterdir()))
    assert len(Index.open(index.folder)) == 27


def test_a_lock_that_is_a_link_is_refused(index, tmp_path):
    (index.folder / LOCK).unlink(missing_ok=True)
    (index.folder / LOCK).symlink_to(tmp_path / "made")
    with pytest.raises(InputError, match="cannot write to index"):
        Index.open(index.folder).delete([0])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("source", [5, ["x"], {"a": 1}, "", True])
def test_an_odd_origin_is_no_model(index, sop_tree, source):
    rewrite(index, origin={"pretrained_model": source})
    line = as_line({"input": sop_tree, "use_gpu": False})
    with pytest.raises(InputError, match="give --pretrained_model"):
        run("search", ["find", index.folder, *line])


# Archives


SLIPS = ("../slip", "../../slip", "/tmp/slip-of-a-test", "a/../../slip", "..\\slip", "..")


@pytest.mark.parametrize("name", SLIPS)
def test_the_embedded_archive_cannot_leave_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "deep" / "shapes")
    (tmp_path / "deep").mkdir()
    with zipfile.ZipFile(tmp_path / "deep" / "shapes.zip", "w") as file:
        file.writestr("Ebay_train.txt", "1 1 1 a.jpg\n")
        file.writestr(name, "written")
    with pytest.raises(InputError, match="shapes.zip': .* in it leads out of the folder"):
        embedded_data()
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "shapes.zip"]


def test_a_link_in_the_embedded_archive_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "shapes")
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as file:
        file.writestr(link, "/etc")
    assert (embedded_data() / "link").read_text() == "/etc" and not (tmp_path / "shapes" / "link").is_symlink()


def test_an_embedded_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "shapes")
    monkeypatch.setattr(embedded, "MOST_UNPACKED", 10**6)
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(2 * 10**6))
    with pytest.raises(InputError, match="it would take 2,000,000 bytes, more than 1,000,000"):
        embedded_data()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.zip"]


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_half_an_embedded_archive(tmp_path, monkeypatch, share):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "shapes")
    whole = Path(__file__).parents[1].joinpath("data", "emoji.zip").read_bytes()
    (tmp_path / "shapes.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cannot unpack the embedded data set .*shapes.zip': File is not a zip file"):
        embedded_data()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.zip"]


def test_the_download_cannot_leave_its_folder(archive, folder, tmp_path):  # noqa: F811
    """Unpacked by Python's zipfile, which takes `..` and roots out of names; and its SHA-256 would not be right."""
    known = sorted(path for path in tmp_path.rglob("*"))
    with zipfile.ZipFile(archive, "a") as file:
        for name in SLIPS[:4]:
            file.writestr(f"Stanford_Online_Products/{name}" if name[0] == "." else name, "written")
    right = download_sop(archive, folder, SOP_ZIP=archive, SOP_SHA256="0" * 64)
    assert right.returncode == 1 and "SHA-256" in right.stderr and sorted(tmp_path.rglob("*")) == known
    done = download_sop(archive, folder, SOP_ZIP=archive)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
    new = {path for path in tmp_path.rglob("*")} - set(known)
    assert all(folder / "Stanford_Online_Products" in (path, *path.parents) for path in new)
    assert not Path("/tmp/slip-of-a-test").exists()
