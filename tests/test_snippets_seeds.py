"""Code blocks of other systems' pages, SEEDS=FOLDER, as printed but for `compat.` in front of their imports.

The project does not need these pages: what they import and call is tested by the tests of compat/ without them.
"""

import importlib
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pages import Block, blocks_of, commands_of
from PIL import Image
from test_ancestor import ARCMARGIN, EML, EVAL, INFER
from test_compat_hello import digits

SEEDS = os.environ.get("SEEDS")
pytestmark = pytest.mark.skipif(not SEEDS, reason="SEEDS names no folder with pages of other systems")
PAGES = sorted(Path(SEEDS).glob("*.txt")) if SEEDS else []
OURS = re.compile(r"^(\s*(?:from|import) )(easydl|oml)(?=[. ])", re.M)
# How a command begins, and why it does not run here.
NOT_RUN = {
    "pip install": "installs the other system",
    "docker pull": "fetches the other system's image",
    "cd data/": "fetches 3.1 GB; tests/test_download_sop.py runs it on a small archive",
    "sh download_sop.sh": "fetches 3.1 GB; tests/test_download_sop.py runs it on a small archive",
}
# What a block of Python has in it, and why it does not run here.
SCHEMATIC = {
    "DataLoader(CategoryBalanceSampler())": "a scheme: a loader of no data set and a sampler of no labels",
    "NeptunePipelineLogger()": "a server and its key; loggers are tested in their offline modes",
    "{'active_tri':": "what a block printed",
}


def named(page: Path) -> list[Block]:
    return blocks_of(page, page.name)


def each(language: str):
    blocks = [block for page in PAGES for block in named(page) if block.language == language]
    return pytest.mark.parametrize("block", blocks, ids=lambda block: block.place)


@each("sh")
def test_commands_run_elsewhere_or_say_why_not(block):
    copied = {
        command.text for text in (ARCMARGIN, EML, EVAL, INFER) for command in commands_of(Block("page", 1, "sh", text))
    }
    for command in commands_of(block):
        assert command.text in copied or any(command.text.startswith(beginning) for beginning in NOT_RUN)


def test_what_is_not_run_is_printed_somewhere():
    commands = [
        command.text
        for page in PAGES
        for block in named(page)
        if block.language == "sh"
        for command in commands_of(block)
    ]
    texts = [block.text for page in PAGES for block in named(page) if block.language == "python"]
    assert [beginning for beginning in NOT_RUN if not any(text.startswith(beginning) for text in commands)] == []
    assert [words for words in SCHEMATIC if not any(words in text for text in texts)] == []


def write_cat(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    file = folder / "cat.jpg"
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(file)
    return file


def names_of(page: Path, folder: Path) -> dict[str, object]:
    """What the blocks of a page take for given."""
    if "easydl" in page.read_text():
        transformers = pytest.importorskip("transformers", reason="HFVitModel needs requirements/models.txt")
        config = transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        transformers.ViTModel(config).save_pretrained("google/vit-base-patch16-224")
        files = [write_cat(folder)] * 5
        return {"np": np, "image_paths": files, "embedding_a": np.ones((2, 3)), "embedding_b": np.ones((4, 3))}
    if "MNIST" in page.read_text():
        functional = importlib.import_module("torch.nn.functional")
        return {
            "torch": torch,
            "nn": torch.nn,
            "F": functional,
            "np": np,
            "Image": Image,
            "Dataset": torch.utils.data.Dataset,
        }
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_as_printed(page, tmp_path, monkeypatch, capsys):
    if "from oml" in page.read_text():
        pytest.skip("run by tests/test_oml_readme.py")
    monkeypatch.chdir(tmp_path)
    torchvision = importlib.import_module("torchvision")
    monkeypatch.setattr(
        "models.backbones.torchvision._build", lambda name, row, weights: torchvision.models.get_model(name)
    )
    names = names_of(page, tmp_path)
    for block in named(page):
        if block.language != "python" or any(words in block.text for words in SCHEMATIC):
            continue
        exec(compile(OURS.sub(r"\1compat.\2", block.text), block.place, "exec"), names)
    check(page, names)


def check(page: Path, names: dict[str, object]) -> None:
    """What the blocks of a page have left behind is what the page says of it."""
    if "similarity_matrix" in names:
        assert names["embedding"].shape == (1, 128) and names["embeddings"].shape == (5, 128)
        assert names["pre_pooling"].shape == (1, 512, 7, 7) and names["post_pooling"].shape == (1, 512, 1, 1)
        assert names["similarity_matrix"].shape == (5, 5) and names["ground_truth"].shape == (5, 5)
    if "SiameseMNIST" in names:
        compare_with_the_story(SimpleNamespace(**names))


def compare_with_the_story(story: SimpleNamespace) -> None:
    """The same loss, the same network, and pairs of the same form; the story's own step runs on ours."""
    from compat.hello_mnist import ContrastiveLoss, ConvBackbone, SiameseMNIST, SiameseNetwork

    torch.manual_seed(0)
    first, second, target = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([1, 0, 1, 0, 0, 1])
    torch.testing.assert_close(
        ContrastiveLoss(1.0)(first, second, target), story.ContrastiveLoss(1.0)(first, second, target)
    )
    ours, theirs = ConvBackbone().eval(), story.ConvBackbone().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(ours(images), theirs(images))
    for train in (True, False):
        for wrapper in (SiameseMNIST, story.SiameseMNIST):
            (image, partner), (same, label) = wrapper(digits(train))[3]
            assert image.shape == partner.shape == (1, 28, 28) and same in (0, 1) and label == 3
    network = SiameseNetwork(ours, story.ContrastiveLoss(1.0))
    batch = next(iter(torch.utils.data.DataLoader(SiameseMNIST(digits(True)), batch_size=4)))
    step = story.training_step(network, batch, 0)
    assert step.keys() == network.training_step(batch, 0).keys() == {"loss", "log", "embeddings", "labels"}
    torch.testing.assert_close(step["loss"], network.training_step(batch, 0)["loss"])
