"""Files for other programs: proven against torch, used without it; what is refused leaves nothing behind."""

import base64
import json
import os
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import run

from core.errors import InputError
from core.packages import needed
from data.image.files import read_image
from data.image.geometry import LONGEST
from data.image.reading import smart_read_image
from data.image.transforms import TestTransform
from embeddings import export as exporting
from embeddings.golden import GoldenImages
from embeddings.image_embedder import ImageEmbedder
from models import Embedder, fast_model
from models.export import hub
from models.export.geometry import CropGeometry
from models.export.network import Crop, ExportedNetwork, example_crops
from models.export.safetensors import licence_of
from models.export.script import script_for

SHAPE = (3, 32, 32)
# What a program that has no torch prints of images: torch cannot be imported in it.
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def onnx():
    pytest.importorskip("onnx", reason="requirements/export.txt is not installed")
    pytest.importorskip("onnxruntime", reason="requirements/export.txt is not installed")


@pytest.fixture(scope="module")
def whitened(finished_run, sop_tree, tmp_path_factory):
    """The folder of a whitening behind a run. Read only."""
    folder = tmp_path_factory.mktemp("white") / "run"
    run(
        "train_pair",
        [
            f"--data_dir={sop_tree}",
            f"--model_save_dir={folder}",
            "--loss_name=whitening",
            "--epsilon=0.1",
            f"--pretrained_model={finished_run}",
            "--num_workers=0",
            "--use_gpu=False",
        ],
    )
    return folder


@pytest.fixture(scope="module")
def photos(sop_tree):
    return sorted((sop_tree / "disc_final").iterdir())[:3]


@pytest.fixture(scope="module")
def exported(onnx, whitened, tmp_path_factory):
    """(the folder of an ONNX export of the whitening, what was printed). Read only."""
    folder = tmp_path_factory.mktemp("exported") / "new" / "onnx"
    return folder, export(whitened, "onnx", f"--output={folder}")


def export(source, kind, *more):
    return run("infer", [f"--pretrained_model={source}", f"--export={kind}", "--num_workers=0", *more])


def embedded_by_torch(run_dir, paths):
    network = ImageEmbedder.from_pretrained(run_dir, normalises=False)
    return network.embed_images(paths)


def least_cosine(found, expected):
    return F.cosine_similarity(torch.tensor(found).double(), torch.tensor(expected).double()).min().item()


def entries(folder):
    return {path.name for path in folder.iterdir()}


# One file.


def test_onnx_is_used_without_torch(exported, whitened, photos, tmp_path, record_property):
    folder, _ = exported
    # One that lies on its side, and is turned as it is read.
    exif = Image.Exif()
    exif[0x0112] = 5
    Image.open(photos[0]).save(tmp_path / "turned.tif", exif=exif)
    photos = [*photos, tmp_path / "turned.tif"]
    assert entries(folder) == {"model.onnx", "model.json", "embed.py"}
    command = [sys.executable, "-c", WITHOUT_TORCH, folder / "embed.py", *photos]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(photo) for photo in photos]
    found = np.array([line[1:] for line in lines], float)
    cosine = least_cosine(found, embedded_by_torch(whitened, photos))
    assert cosine > 0.9999
    record_property("least cosine to torch", f"{cosine:.8f}")


def test_the_script_has_ten_lines_of_code(exported):
    text = (exported[0] / "embed.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 10


def test_figures_are_printed_and_kept(exported, whitened):
    folder, printed = exported
    card = json.loads((folder / "model.json").read_text())
    entry = card["exports"]["onnx"]
    assert f"least cosine to torch, crops: {entry['least_cosine_crops']:.8f}" in printed
    assert f"least cosine to torch, images: {entry['least_cosine_images']:.8f}" in printed
    assert min(entry["least_cosine_crops"], entry["least_cosine_images"]) >= 0.9999
    assert entry["resize"]["grey_levels"] <= 1 and entry["golden_images"].startswith("8 images of")
    assert entry["geometry"] == {
        "short_side": 32,
        "height": 32,
        "width": 32,
        "resize_filter": "area",
        "resize_mode": "crop",
    }
    assert entry["width"] == 8 and entry["versions"]["onnxruntime"] and not entry["normalised"]
    assert card["model"]["head"] == "unit_linear" and card["fingerprint"]["weights"] and card["licence"]
    assert card["recall"] == json.loads((whitened / "model.json").read_text())["recall"]
    assert f"written: {folder / 'model.onnx'}" in printed


def test_one_file_may_be_named_and_normalised(onnx, whitened, photos, tmp_path):
    import onnxruntime

    file = tmp_path / "mine" / "shapes.onnx"
    export(whitened, "onnx", f"--output={file}", "--export_normalise", "--input", *map(str, photos))
    assert entries(file.parent) == {"shapes.onnx", "model.json", "embed.py"}
    session = onnxruntime.InferenceSession(str(file))
    expected = F.normalize(torch.tensor(embedded_by_torch(whitened, photos))).numpy()
    for photo, row in zip(photos, expected):
        images = read_image(photo).transpose(2, 0, 1)[None].repeat(2, axis=0)
        found = session.run(None, {"images": images})[0]
        np.testing.assert_allclose(found, [row, row], atol=1e-4)


def test_torchscript_takes_any_batch(whitened, photos, tmp_path):
    printed = export(whitened, "torchscript", f"--output={tmp_path / 'out'}")
    assert "least cosine to torch, crops: 1.0000" in printed
    network = torch.jit.load(tmp_path / "out" / "model.torchscript")
    crops = torch.stack([TestTransform(32, 32)(read_image(photo)) for photo in photos]).permute(0, 3, 1, 2)
    expected = embedded_by_torch(whitened, photos)
    for count in (1, 3):
        assert least_cosine(network(crops[:count]).tolist(), expected[:count]) > 0.9999


def test_openvino_resizes_too(onnx, whitened, photos, tmp_path):
    pytest.importorskip("openvino", reason="requirements/openvino.txt is not installed")
    export(whitened, "openvino", f"--output={tmp_path}")
    assert entries(tmp_path) == {"model.xml", "model.bin", "model.json", "embed.py"}
    command = [sys.executable, tmp_path / "embed.py", *photos]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    found = [[float(word) for word in line.split()[1:]] for line in done.stdout.splitlines()]
    assert least_cosine(found, embedded_by_torch(whitened, photos)) > 0.999


def test_openvino_is_asked_for_the_precision_that_it_was_held_against():
    """Left to itself it computes in bf16 where the processor can."""
    assert '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in script_for("openvino", "model.xml")


def test_int8_says_what_it_costs(onnx, finished_run, tmp_path):
    printed = export(finished_run, "onnx", "--export_precision=int8", f"--output={tmp_path}")
    facts = json.loads((tmp_path / "model.json").read_text())["exports"]["onnx"]
    figures = facts["int8"]
    assert facts["precision"] == "int8" and figures["calibrated_on"] == 30
    before, after = figures["recall@1_before"], figures["recall@1_after"]
    assert f"{100 * before:.2f} % before, {100 * after:.2f} % after" in printed
    recall = json.loads((finished_run / "result.json").read_text())["recall"]["1"]
    assert abs(before - recall) <= 1 / 30 and abs(after - before) <= 0.2
    assert 0.9 < figures["least_cosine_crops"] < 1


def test_kinds_share_a_folder_and_a_card(onnx, whitened, tmp_path):
    export(whitened, "onnx", f"--output={tmp_path}")
    export(whitened, "safetensors", f"--output={tmp_path}")
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["exports"].keys() == {"onnx", "safetensors"} and card["weights"] == "model.safetensors"


def test_made_up_images_do_where_there_is_no_list(onnx, finished_run, tmp_path):
    more = [f"--output={tmp_path}", "--test_list=/nowhere/x.txt"]
    assert "golden images are made up alone: " in export(finished_run, "onnx", *more)
    with pytest.raises(InputError, match="no list '/nowhere/x.txt'"):
        export(finished_run, "onnx", "--export_precision=int8", *more)


# The test geometry as a network.


@pytest.mark.parametrize("sides", [(100, 90), (64, 64), (40, 30), (32, 32), (33, 200), (5, 400), (1, 1)])
@pytest.mark.parametrize("short", [32, 40])
def test_exported_resizing_is_the_loaders(sides, short):
    generator = np.random.default_rng(0)
    blots = generator.integers(0, 256, (max(1, sides[0] // 4), max(1, sides[1] // 4), 3), dtype=np.uint8)
    image = cv2.resize(blots, sides[::-1], interpolation=cv2.INTER_CUBIC)
    expected = TestTransform(32, 24, short)(image).permute(2, 0, 1).int()
    geometry = CropGeometry(Crop(32, 24, short, LONGEST * 32 / 24))
    found = geometry(torch.from_numpy(image).permute(2, 0, 1)[None])[0].int()
    assert (found - expected).abs().max() <= 1
    # Bicubic weights are exact in OpenCV 5 alone.
    share = (found != expected).float().mean()
    assert share <= (0.01 if int(cv2.__version__.split(".")[0]) >= 5 else 0.1)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(100, 90), (40, 30), (20, 64)])
def test_exported_resizing_by_pillows_filters(name, sides):
    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    expected = TestTransform(32, 32, 0, name)(image).permute(2, 0, 1).numpy().astype(int)
    geometry = CropGeometry(Crop(32, 32, 32, LONGEST, name))
    found = geometry(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy().astype(int)
    assert abs(found - expected).max() <= 1 and (found != expected).mean() < 0.05


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(100, 90), (40, 30), (20, 64), (5, 400)])
@pytest.mark.parametrize("side", [32, 36])
def test_exported_squashing(name, sides, side):
    blots = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = cv2.resize(blots, sides[::-1], interpolation=cv2.INTER_CUBIC)
    expected = TestTransform(32, 32, side, name, "squash")(image).permute(2, 0, 1).numpy().astype(int)
    geometry = CropGeometry(Crop(32, 32, side, LONGEST, name, "squash"))
    found = geometry(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy().astype(int)
    # Pillow's weights are whole multiples of 2^-22, which decides otherwise where a mean lies between two levels.
    assert abs(found - expected).max() <= 1 and (found != expected).mean() < 0.2


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic", "linear"])
@pytest.mark.parametrize("sides", [(100, 90), (40, 30), (20, 64), (5, 400), (64, 64)])
@pytest.mark.parametrize("side", [32, 36])
def test_exported_padding(name, sides, side):
    blots = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = cv2.resize(blots, sides[::-1], interpolation=cv2.INTER_CUBIC)
    expected = TestTransform(32, 32, side, name, "pad")(image).permute(2, 0, 1).numpy().astype(int)
    geometry = CropGeometry(Crop(32, 32, side, LONGEST, name, "pad"))
    found = geometry(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy().astype(int)
    # OpenCV's bilinear weights are whole multiples of 2^-11.
    assert abs(found - expected).max() <= 1 and (found != expected).mean() < 0.2


def test_a_padded_geometry_is_exported(onnx, whitened, tmp_path):
    export(whitened, "onnx", f"--output={tmp_path}", "--resize_mode=pad", "--resize_filter=linear")
    card = json.loads((tmp_path / "model.json").read_text())
    geometry = card["exports"]["onnx"]["geometry"]
    assert (geometry["resize_mode"], geometry["resize_filter"]) == ("pad", "linear")
    assert card["exports"]["onnx"]["least_cosine_images"] > 0.9999 and card["fingerprint"]["resize_mode"] == "pad"


# A runtime.


@pytest.mark.parametrize("head", ["linear:12,unit_linear", "mlp", "residual"])
@pytest.mark.parametrize("pooling", ["gem", "avg+max"])
def test_onnx_runs_every_head(onnx, tiny, head, pooling):
    torch.manual_seed(0)
    model = Embedder("Tiny", 6, pooling, head).eval()
    fast = fast_model(model, "fp32", "onnx", SHAPE)
    assert fast.embedding_size == 6 and fast.session.get_session_options().intra_op_num_threads == 1
    for count in (1, 3):
        images = example_crops(SHAPE, count).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert least_cosine(fast(images).tolist(), model(images).tolist()) > 0.9999


@pytest.mark.parametrize("name", ["EfficientNetLite0", pytest.param("ResNet18", marks=pytest.mark.slow)])
def test_onnx_runs_networks(onnx, name):
    if name == "EfficientNetLite0":
        pytest.importorskip("timm", reason="requirements/demo.txt is not installed")
    torch.manual_seed(0)
    model = Embedder(name).eval()
    images = example_crops(SHAPE, 3)
    with torch.inference_mode():
        assert least_cosine(fast_model(model, "fp32", "onnx", SHAPE)(images).tolist(), model(images).tolist()) > 0.9999


def test_the_scripts_embed_by_onnx(onnx, whitened, sop_tree, tmp_path):
    line = [f"--pretrained_model={whitened}", f"--data_dir={sop_tree}", "--num_workers=0"]
    found = {}
    for runtime in ("torch", "onnx"):
        file = tmp_path / f"{runtime}.npz"
        run("infer", [*line, f"--runtime={runtime}", f"--output={file}"])
        found[runtime] = np.load(file)["embeddings"].tolist()
    assert least_cosine(found["onnx"], found["torch"]) > 0.9999
    printed = run("eval", [*line, "--runtime=onnx", f"--output_dir={tmp_path}"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["runtime"] == "onnx" and "recall@1" in printed.lower()


def test_onnx_has_fp32_alone(finished_run):
    with pytest.raises(InputError, match="--runtime=onnx computes in fp32; leave --precision=bf16 out"):
        run("infer", [f"--pretrained_model={finished_run}", "--runtime=onnx", "--precision=bf16"])


def test_networks_of_texts_are_refused(onnx):
    with pytest.raises(InputError, match="--runtime=onnx takes networks for images, and HashedNgrams is for texts"):
        fast_model(Embedder("HashedNgrams"), "fp32", "onnx", SHAPE)


@pytest.mark.slow
def test_a_network_that_no_trace_follows_is_captured(monkeypatch, onnx, tiny):
    pytest.importorskip("onnxscript", reason="requirements/export.txt is not installed")
    from models.export import onnx as module

    def refuse(*_):
        raise RuntimeError("control flow")

    torch.manual_seed(0)
    model = Embedder("Tiny", 6, "gem", "unit_linear").eval()
    monkeypatch.setattr(module, "_traced", refuse)
    network = module.network_onnx(ExportedNetwork(model), SHAPE, "--export=onnx")
    images = example_crops(SHAPE, 3)
    fast = module.OnnxRuntime(network, 6, "--export=onnx")
    assert least_cosine(fast(images).tolist(), model(images).tolist()) > 0.9999


# What is refused, and what it leaves behind.


def test_what_differs_from_torch_is_not_written(onnx, monkeypatch, finished_run, tmp_path):
    monkeypatch.setattr(GoldenImages, "cosine_of_crops", lambda self, network: 0.9998)
    for folder in (tmp_path / "a" / "b", tmp_path):
        with pytest.raises(InputError, match="does not do what torch does: the least cosine of the crops is 0.999800"):
            export(finished_run, "onnx", f"--output={folder}")
        assert not list(tmp_path.iterdir())


def test_a_trace_of_one_batch_size_is_refused(finished_run, tiny):
    model = Embedder("Tiny").eval()
    golden = GoldenImages(model, "", [np.zeros((40, 40, 3), np.uint8)] * 4, TestTransform(32, 32), False)
    with pytest.raises(InputError, match="takes no images of shape"):
        golden.cosine_of_crops(lambda images: model(images).view(1, 8))
    assert golden.cosine_of_crops(lambda images: -model(images)) == pytest.approx(-1)


def test_a_file_that_cannot_be_written_leaves_nothing(monkeypatch, finished_run, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "export_model", full)
    with pytest.raises(InputError, match="cannot write to folder .*: No space left on device"):
        export(finished_run, "safetensors", f"--output={tmp_path / 'new'}")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to folder .*/file/new': '.*/file' is no folder"):
        export(finished_run, "safetensors", f"--output={tmp_path / 'file' / 'new'}")


@pytest.mark.parametrize("name", ["model.json", "README.md", "embed.py"])
def test_files_of_others_stay(finished_run, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="was written by no export: give another folder"):
        export(finished_run, "safetensors", f"--output={tmp_path}")
    assert entries(tmp_path) == {name} and (tmp_path / name).read_text() == "{}"


def test_a_run_keeps_its_own_card(whitened):
    with pytest.raises(InputError, match="was written by no export"):
        export(whitened, "safetensors", f"--output={whitened}")


@pytest.mark.parametrize(
    "line, sentence",
    [
        (["--export=onxx"], "'onxx' is not one of onnx, torchscript, openvino, safetensors. Did you mean 'onnx'?"),
        (["--export=onnx", "--output=x.pt"], "cannot write 'x.pt': --export=onnx writes a folder, or a file that is a"),
        (["--export=onnx", "--output", "a", "b"], "--export writes one --output, a folder or a file; 2 are given"),
        (["--export=onnx"], "--export=onnx needs an --output"),
        (["--export=torchscript", "--export_precision=int8", "--output=x"], "made of --export=onnx alone"),
        (["--export=safetensors", "--export_normalise", "--output=x"], "holds weights, which nothing normalises"),
        (["--export=onnx", "--continue", "--output=x"], "--continue goes with --output of embeddings"),
        (["--export=onnx", "--precision=bf16", "--output=x"], "leave --precision and --runtime out"),
        (["--export_precision=int8"], "--export_precision goes with --export=onnx|torchscript|openvino|safetensors"),
        (["--push_to_hub=a/b"], "--push_to_hub goes with --export="),
    ],
)
def test_sentences(tiny, onnx, tmp_path, monkeypatch, line, sentence):
    monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path))
    with pytest.raises(InputError) as caught:
        run("infer", ["--model=Tiny", "--image_shape=3,32,32", "--num_workers=0", *line])
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "huggingface_hub"])
def test_a_missing_package_is_one_sentence(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"--x needs the package {module}: pip install -r requirements/export.txt"):
        needed(module, "--x", "export")


# The hub.


class FakeHub:
    """HfApi as far as it is used; keeps what it is asked for."""

    def __init__(self):
        self.asked = []

    def whoami(self):
        return {"name": "someone"}

    def create_repo(self, name, repo_type, exist_ok):
        self.asked.append(("create", name, repo_type, exist_ok))
        return f"https://hub/{name}"

    def upload_folder(self, repo_id, repo_type, folder_path, allow_patterns, commit_message):
        contents = {name: os.path.getsize(os.path.join(folder_path, name)) for name in allow_patterns}
        self.asked.append(("upload", repo_id, repo_type, contents))


@pytest.fixture
def fake_hub(monkeypatch):
    api = FakeHub()
    utils = types.SimpleNamespace(validate_repo_id=lambda name: None)
    module = types.SimpleNamespace(HfApi=lambda: api, utils=utils)
    monkeypatch.setattr(hub, "needed", lambda *_: module)
    return api


def test_push_uploads_weights_card_and_page(fake_hub, whitened, tmp_path):
    (tmp_path / "stray.txt").write_text("not ours")
    printed = export(whitened, "safetensors", f"--output={tmp_path}", "--push_to_hub=someone/shapes")
    sizes = {name: (tmp_path / name).stat().st_size for name in ("model.safetensors", "model.json", "README.md")}
    assert fake_hub.asked == [
        ("create", "someone/shapes", "model", True),
        ("upload", "someone/shapes", "model", sizes),
    ]
    assert "pushed: https://hub/someone/shapes" in printed


def test_the_page_has_what_the_hub_reads(whitened, tmp_path):
    yaml = pytest.importorskip("yaml")
    export(whitened, "safetensors", f"--output={tmp_path}")
    text = (tmp_path / "README.md").read_text()
    _, header, page = text.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "other" and facts["library_name"] and "Tiny" in facts["tags"]
    recall = json.loads((whitened / "result.json").read_text())["recall"]
    measured = {row["type"]: row["value"] for row in facts["model-index"][0]["results"][0]["metrics"]}
    assert measured == {f"recall@{k}": pytest.approx(value, abs=1e-5) for k, value in recall.items()}
    assert f"| Recall@1 | {100 * recall['1']:.2f} % |" in page and "ImageEmbedder.from_pretrained" in page
    assert "Ebay_train.txt, 30 images of 10 labels" in page


def test_a_hub_that_is_not_there_is_one_sentence(finished_run, tmp_path, monkeypatch):
    hub_package = pytest.importorskip("huggingface_hub")

    def fail(self):
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(hub_package.HfApi, "whoami", fail)
    with pytest.raises(InputError, match="--push_to_hub=a/b: the hub does not take it: .*Connection refused"):
        export(finished_run, "safetensors", f"--output={tmp_path / 'x'}", "--push_to_hub=a/b")
    with pytest.raises(InputError, match="the hub does not take it: Repo id must"):
        export(finished_run, "safetensors", f"--output={tmp_path / 'x'}", "--push_to_hub=a b c")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_nowhere_is_one_sentence(monkeypatch):
    package = pytest.importorskip("huggingface_hub")

    def fail(*_, **__):
        raise package.errors.OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled.\nMore.")

    monkeypatch.setattr(package, "snapshot_download", fail)
    with pytest.raises(InputError) as caught:
        Embedder.from_pretrained("someone/shapes")
    assert str(caught.value) == (
        "'someone/shapes' is no folder here, and the hub does not give it: Cannot reach the hub: offline mode is enabled"
    )


def test_a_network_comes_from_the_hub(monkeypatch, whitened, tiny):
    package = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(whitened)

    monkeypatch.setattr(package, "snapshot_download", download)
    network = Embedder.from_pretrained("someone/shapes")
    assert network.facts == Embedder.from_pretrained(whitened).facts and not network.training
    assert asked == [("someone/shapes", ["model.json", "model.safetensors"])]


# The library.


def test_from_pretrained_is_the_run(whitened, tmp_path, tiny):
    export(whitened, "safetensors", f"--output={tmp_path}")
    state = torch.load(whitened / "last.pt", weights_only=True)["model"]
    for folder in (whitened, tmp_path):
        network = Embedder.from_pretrained(folder)
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_the_scripts_take_an_exported_folder(whitened, photos, tmp_path, tiny):
    export(whitened, "safetensors", f"--output={tmp_path}")
    shown = []
    for source in (whitened, tmp_path):
        file = tmp_path / "x.npz"
        run("infer", [f"--pretrained_model={source}", "--num_workers=0", f"--output={file}", "--input", str(photos[0])])
        shown.append(np.load(file)["embeddings"])
    np.testing.assert_array_equal(*shown)


def test_a_folder_that_holds_none_is_one_sentence(whitened, tmp_path, tiny):
    with pytest.raises(InputError, match=r"no file '.*model.json': an exported network has"):
        Embedder.from_pretrained(tmp_path)
    card = json.loads((whitened / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="no file '.*model.safetensors'"):
        Embedder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="does not fit its card"):
        Embedder.from_pretrained(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(InputError, match="is no card of an exported network"):
        Embedder.from_pretrained(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"model": {"embedding_size": 3}}))
    with pytest.raises(InputError, match="holds no network of this repository"):
        Embedder.from_pretrained(tmp_path)


def test_images_are_embedded_however_they_are_given(whitened, photos, sop_tree, tmp_path):
    network = ImageEmbedder.from_pretrained(whitened)
    file = tmp_path / "x.npz"
    run(
        "infer", [f"--pretrained_model={whitened}", "--num_workers=0", f"--output={file}", "--input", *map(str, photos)]
    )
    expected = F.normalize(torch.tensor(np.load(file)["embeddings"])).numpy()
    for images in (photos, [str(photo) for photo in photos], [Image.open(photo) for photo in photos]):
        found = network.embed_images(images, batch_size=2)
        assert found.shape == (3, 8) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-3)
    one = network.embed_image(photos[0])
    assert one.shape == (8,) and np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert network.embed_images([]).shape == (0, 8)
    with pytest.raises(InputError, match="batch_size is 0"):
        network.embed_images(photos, batch_size=0)


def test_embedding_leaves_the_mode_and_no_gradient(whitened, photos):
    network = ImageEmbedder.from_pretrained(whitened)
    expected = network.embed_image(photos[0])
    network.train()
    network.pooling.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    np.testing.assert_array_equal(network.embed_image(photos[0]), expected)
    assert network.training and network.backbone.training and not network.pooling.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.get_features()["embedding"].requires_grad


def test_features_are_those_of_the_last_batch_or_of_the_one_given(tiny):
    network = ImageEmbedder("Tiny", 5, image_shape=SHAPE)
    with pytest.raises(InputError, match="has seen none"):
        network.get_features()
    images = example_crops(SHAPE, 3)
    with torch.no_grad():
        raw = network.eval()(images)
    last = network.get_features()
    shapes = {name: tuple(value.shape) for name, value in last.items()}
    assert shapes == {"pre_pooling": (3, 8, 7, 7), "post_pooling": (3, 8), "embedding": (3, 5)}
    torch.testing.assert_close(last["embedding"], F.normalize(raw))
    torch.testing.assert_close(last["post_pooling"], last["pre_pooling"].mean((2, 3)))
    given = network.train().get_features(images[:1])
    torch.testing.assert_close(given["embedding"], last["embedding"][:1])
    assert network.training
    unscaled = ImageEmbedder("Tiny", 5, image_shape=SHAPE, normalises=False)
    unscaled.load_state_dict(network.state_dict())
    torch.testing.assert_close(unscaled.get_features(images)["embedding"], raw)


def test_an_image_by_any_name(photos, tmp_path):
    photo = photos[0]
    expected = read_image(photo)
    content = photo.read_bytes()
    text = base64.b64encode(content).decode()
    names = [photo, str(photo), photo.as_uri(), f"base64://{text}", f"data:image/jpeg;base64,{text}", content, expected]
    for name in names:
        np.testing.assert_array_equal(smart_read_image(name), expected)
    grey = expected[:, :, 0]
    np.testing.assert_array_equal(smart_read_image(grey), np.stack([grey] * 3, axis=2))
    png = tmp_path / "turned.png"
    picture = Image.fromarray(expected).convert("RGBA")
    picture.getexif()[0x0112] = 6
    picture.save(png, exif=picture.getexif())
    np.testing.assert_array_equal(smart_read_image(Image.open(png)), smart_read_image(png))
    deep = Image.fromarray(grey.astype(np.uint16) << 8)
    np.testing.assert_array_equal(smart_read_image(deep)[:, :, 1], grey)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("/nowhere/x.png", "cannot read image '/nowhere/x.png'"),
        ("file:///nowhere/x.png", "cannot read image '/nowhere/x.png': No such file"),
        ("base64://!!", "is not base64"),
        ("base64://aGVsbG8=", "base64://aGVsbG8="),
        ("http://127.0.0.1:9/x.png", "cannot fetch image 'http://127.0.0.1:9/x.png': "),
        ("s3x://bucket/x.png", "cannot read image 's3x://bucket/x.png'"),
        (b"hello", "the bytes given"),
        (3, "an image is a path, an address, bytes, PIL's image or an array, not a int"),
        (np.zeros((4, 4, 3)), "has to be uint8, 0 to 255, not float64"),
        (np.zeros((4, 4, 2), np.uint8), "has to be (H, W), (H, W, 3) or (H, W, 4), not (4, 4, 2)"),
    ],
)
def test_what_is_no_image_is_one_sentence(source, sentence):
    if str(source).startswith("s3x"):
        pytest.importorskip("fsspec")
    with pytest.raises(InputError) as caught:
        smart_read_image(source)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_other_file_systems_are_read_by_fsspec(photos):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://pictures/x.jpg", "wb") as file:
        file.write(photos[0].read_bytes())
    np.testing.assert_array_equal(smart_read_image("memory://pictures/x.jpg"), read_image(photos[0]))


def test_a_card_names_the_licence_of_the_row_s_weights():
    assert "the weights it started from (EfficientNetLite0's: Apache-2.0)" in licence_of("EfficientNetLite0")
    assert licence_of("timm:test_vit").endswith("the weights it started from")
