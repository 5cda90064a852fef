"""Mistakes in a part of a user's own, where docs/architecture.md says it goes, meet a sentence that names the part."""

from argparse import ArgumentTypeError

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from config import parse as parsing
from config.commands import COMMANDS
from core import sources, types
from core.errors import InputError
from core.types import OneOf, SomeOf
from data.audio import augmentations as of_sounds
from data.audio.modality import AudioModality
from data.image import augmentations as of_images
from data.image.transforms import TrainTransform
from data.samplers import BatchSampler
from engine.loggers import LOGGERS, Logger
from engine.mining import Mining
from losses._mined import Pairs, Reference, Triplets
from miners import MINERS
from models import BACKBONES, Embedder, ModelSettings
from models.backbones import IMAGENET, Backbone
from models.build import check_forward

LABELS = torch.tensor([0, 0, 1, 1])


def rows(*numbers, dtype=torch.int64):
    return torch.tensor(numbers, dtype=dtype)


def mine(monkeypatch, chosen, reference=None):
    """What an own miner's choices come to, one a batch."""

    class Mine:
        def __call__(self, embeddings, labels, reference):
            return chosen.pop(0)

    others = {name: entry for name, entry in MINERS._entries.items() if name != "mine"}
    monkeypatch.setattr(MINERS, "_entries", others)
    MINERS.register("mine", gives="triplets")(Mine)
    mining = Mining("mine", "either", {})
    for _ in range(len(chosen)):
        given = mining(torch.eye(4), LABELS, reference)
    return given[2]


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (None, "gave a NoneType; a miner gives"),
        ((rows(0), rows(1), rows(2)), "gave a tuple; a miner gives"),
        (Triplets(rows(0), [1], rows(2)), r"gave positives as list; a miner gives numbers of rows, int64 \(n,\)$"),
        (Triplets(rows(0), rows(1), rows(2, dtype=torch.int32)), r"gave negatives as int32 \(1,\)"),
        (Triplets(rows(0) > 0, rows(1), rows(2)), r"gave anchors as bool \(1,\); .*mask\.nonzero\(\)\[:, 0\] makes"),
        (Triplets(rows(0)[None], rows(1), rows(2)), r"gave anchors as int64 \(1, 1\)"),
        (Triplets(rows(0), rows(1, 0), rows(2)), "gave 1 anchors, 2 positives, 1 negatives;"),
        (Pairs(rows(0), rows(1), rows(0), rows(2, 3)), "gave 1 negative_anchors, 2 negatives;"),
        (Triplets(rows(0), rows(-1), rows(2)), "gave positives from -1 to -1; here they are numbers from 0 to 3"),
        (Triplets(rows(0), rows(1), rows(4)), "gave negatives from 4 to 4; here they are numbers from 0 to 3"),
    ],
)
def test_what_is_no_choice_of_a_miner(monkeypatch, chosen, sentence):
    with pytest.raises(InputError, match=rf"test_own_parts\.\S*Mine {sentence}"):
        mine(monkeypatch, [chosen])


def test_a_choice_may_be_empty_and_reach_into_the_memory(monkeypatch):
    """Numbers are looked at once, since a look waits for the device: at the first choice that has some."""
    none = Triplets(rows(), rows(), rows())
    behind = Triplets(rows(0), rows(1), rows(5))
    memory = Reference(torch.eye(4)[:2], rows(0, 1), rows(8, 9), rows(0, 1, 2, 3))
    assert mine(monkeypatch, [none, behind], memory) is behind
    with pytest.raises(InputError, match="gave anchors from 4 to 4; here they are numbers from 0 to 3"):
        mine(monkeypatch, [none, Triplets(rows(4), rows(1), rows(5))], memory)


def fails(*_):
    return 1 / 0


WRONG_IMAGES = {
    r"gave NoneType of an image; the same shape is asked, uint8 \(6, 8, 3\)": lambda image: None,
    r"gave float64 \(6, 8, 3\) of an image": lambda image: image / 255,
    r"gave uint8 \(6, 8\) of an image": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
    r"gave uint8 \(8, 6, 3\) of an image": lambda image: image.transpose(1, 0, 2),
    r"raised ZeroDivisionError: division by zero \(\S*test_own_parts\.py:\d+\)": fails,
}


@pytest.mark.parametrize("sentence", WRONG_IMAGES)
def test_an_augmentation_that_makes_no_image(monkeypatch, sentence):
    """Half of the time, as many do."""

    def draw_mine(generator):
        return WRONG_IMAGES[sentence] if torch.rand((), generator=generator) < 0.5 else lambda image: image

    row = of_images.Augmentation("mine", draw_mine)
    monkeypatch.setitem(of_images.AUGMENTATIONS, "mine", row)
    with pytest.raises(InputError, match=f"the augmentation 'mine' {sentence}"):
        TrainTransform(6, 8, 0, ("flip", "mine"), (0.1, 1))


WRONG_SOUNDS = {
    r"gave NoneType of a clip; the same shape is asked, float32 \(80,\)": lambda wave: None,
    r"gave float32 \(79,\) of a clip": lambda wave: wave[1:],
    r"gave int16 \(80,\) of a clip": lambda wave: wave.astype(np.int16),
    r"gave float32 \(80,\) with NaN": lambda wave: wave * np.float32("nan"),
    r"raised ZeroDivisionError: division by zero \(": fails,
}


@pytest.mark.parametrize("sentence", WRONG_SOUNDS)
def test_an_augmentation_that_makes_no_sound(monkeypatch, sentence):
    row = of_sounds.Augmentation("mine", lambda samples, rate, draws: WRONG_SOUNDS[sentence](samples))
    monkeypatch.setitem(of_sounds.AUGMENTATIONS, "mine", row)
    with pytest.raises(InputError, match=f"the augmentation 'mine' {sentence}"):
        AudioModality(8000, 0.01, augment=("gain", "mine"))


def test_a_trial_of_augmentations_moves_no_random_numbers():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    TrainTransform(6, 8, 0, tuple(of_images.AUGMENTATIONS), (0.1, 1))
    assert torch.equal(torch.get_rng_state(), before)


class Rows(BatchSampler):
    """Two steps of two of five rows, as `table` has them."""

    steps = 2

    def __init__(self, table):
        super().__init__(np.arange(5), 2)
        self.table = table

    def epoch(self, number):
        return self.table


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (np.array([[0, 1], [2, 5]]), "gave a batch with row 5; a batch is 2 rows .* from 0 to 4"),
        (np.array([[0, 1], [2, -1]]), "gave a batch with row -1;"),
        (np.array([[0, 1, 2], [3, 4, 0]]), r"gave a batch of int64 \(3,\); a batch is 2 rows"),
        (np.array([[0.0, 1.0]]), r"gave a batch of float64 \(2,\);"),
        (np.zeros((0, 2), int), "gave no batch of epoch 0, which has 2"),
    ],
)
def test_a_sampler_of_rows_that_there_are_not(table, sentence):
    batches = iter(Rows(table))
    with pytest.raises(InputError, match=rf"test_own_parts\.Rows {sentence}"):
        [next(batches) for _ in range(3)]


def test_a_backbone_says_what_it_is(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_entries", {**BACKBONES._entries})
    monkeypatch.setattr(BACKBONES, "sources", {**BACKBONES.sources})
    with pytest.raises(InputError, match="output of the model mine: 'map'; there are: .* Did you mean 'maps'"):
        BACKBONES.register("mine", modality="image", output="map")
    with pytest.raises(InputError, match="modality of the model mine: None; there are: image"):
        BACKBONES.register("mine", output="maps")
    with pytest.raises(InputError, match="modality of the models mine:NAME: 'images'; .* Did you mean 'image'"):
        BACKBONES.register_source("mine:", modality="images")


@pytest.mark.parametrize(
    ("output", "width", "sentence"),
    [
        ("maps", 4, r"gives \(1, 8, 28, 28\), but its row says width=4 and output='maps', which is \(B, 4, h, w\)"),
        ("tokens", 8, r"gives \(1, 8, 28, 28\), .* which is \(B, N, 8\)"),
        ("vector", 8, r"gives \(1, 8, 28, 28\), .* which is \(B, 8\)"),
        ("maps", 8, None),
    ],
)
def test_a_backbone_gives_what_its_row_says(monkeypatch, output, width, sentence):
    def conv(name):
        return Backbone(lambda weights: nn.Conv2d(3, 8, 5), width, (), IMAGENET)

    monkeypatch.setattr(BACKBONES, "_entries", {**BACKBONES._entries})
    BACKBONES.register("mine", modality="image", output=output)(conv)
    model, settings = Embedder("mine"), ModelSettings(model="mine", image_shape=(3, 32, 32))
    if sentence is None:
        check_forward(model, settings, images=1, training=False)
        return
    with pytest.raises(InputError, match=rf"mine cannot embed 1 at a time of 32x32 pixels: \S*Conv2d {sentence}"):
        check_forward(model, settings, images=1, training=False)


def test_a_logger_has_what_a_run_asks(monkeypatch):
    monkeypatch.setattr(LOGGERS, "_entries", {**LOGGERS._entries})
    with pytest.raises(InputError, match=r"the logger mine, test_own_parts\.Mine, is no class of engine\.loggers\.L"):

        @LOGGERS.register("mine")
        class Mine:
            pass

    with pytest.raises(InputError, match=r"the logger mine, test_own_parts\.Own, has no class method open"):

        @LOGGERS.register("mine")
        class Own(Logger):
            pass

    assert "mine" not in LOGGERS


def test_a_name_that_stands_elsewhere(monkeypatch, tmp_path):
    """No file of its folder registers it, but another one does."""
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "mine.py").write_text('@MINERS.register("mine", gives="pairs")\nclass Mine:\n    pass\n')
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sentence = " losses/mine.py registers 'mine', but it is looked for in miners and solvers."
    assert sources.elsewhere("hard,mine", "miners", "solvers") == sentence
    assert sources.elsewhere("other", "miners") == sources.elsewhere("mine", "losses") == ""


@pytest.mark.parametrize("kind", [OneOf("miners"), SomeOf("retrieval/rerank")])
def test_whoever_names_it_is_told(monkeypatch, kind):
    monkeypatch.setattr(types, "elsewhere", lambda *asked: f" Asked for {asked}.")
    with pytest.raises(ArgumentTypeError, match=r"'mine' is not one of .* Asked for \('mine', '\w+"):
        kind("mine")


def test_a_command_line_is_told_too(monkeypatch):
    monkeypatch.setattr(parsing, "elsewhere", lambda *asked: f" Asked for {asked}.")
    with pytest.raises(InputError, match=r"unknown miner 'mine'; .* Asked for \('mine', 'miners'\)\.$"):
        parsing.parse(["--miner=mine"], COMMANDS["train_pair"], "")


def test_an_augmentation_stands_in_its_table():
    home = "data.image.augmentations:AUGMENTATIONS"
    with pytest.raises(
        ArgumentTypeError, match=r"They are the rows of AUGMENTATIONS in data/image/augmentations\.py\."
    ):
        SomeOf(home)("flip,mine")
