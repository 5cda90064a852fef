"""Checkpoints: complete, plain, whole or absent, and refused where they do not belong."""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import InputError
from engine import checkpoint
from engine.checkpoint import Checkpoints, restore, save, training_state
from engine.learner import Learner
from engine.objective import Objective
from engine.optimiser import build_optimiser
from engine.seeding import seed_everything
from models.plain_weights import read_weights


class Model(nn.Linear):
    facts = {"model": "Line", "embedding_size": 2, "pooling": "avg"}


def training(seed=0, classes=3, optimiser="momentum"):
    """A learner after two steps, so that every state is in use."""
    torch.manual_seed(seed)
    objective = Objective(Model(4, 2), nn.Linear(2, classes))
    optimiser = build_optimiser(objective.model, objective.loss, optimiser=optimiser, lr=0.1, class_lr=0.5)
    learner = Learner(objective, optimiser, torch.device("cpu"))
    for _ in range(2):
        step(learner)
    return learner


def step(learner):
    """One step on noise from the global generator, as dropout would take it."""
    learner.optimiser.zero_grad()
    embeddings = learner.objective.model(torch.randn(5, 4))
    learner.objective.loss(embeddings).square().mean().backward()
    learner.optimiser.step()


def state_of(learner, number=2, best=None):
    return training_state(learner, number, best, torch.arange(3), config={})


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_restored_training_goes_on_as_if_nothing_had_happened(tmp_path, name):
    best = {"step": 1, "recall": {"1": 0.5}, "chosen_on": "the test list"}
    learner = training(optimiser=name)
    save(state_of(learner, best=best), tmp_path / "a.pt")
    step(learner)
    other = training(seed=7, optimiser=name)
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert restore(state, other, "a.pt") == (2, best)
    step(other)
    for name, value in learner.objective.state_dict().items():
        assert torch.equal(other.objective.state_dict()[name], value), name


@pytest.mark.parametrize(
    "saved, asked",
    [
        ({"classes": 3}, {"classes": 4}),
        ({"optimiser": "momentum"}, {"optimiser": "adamw"}),
        ({"optimiser": "adamw"}, {"optimiser": "momentum"}),
    ],
)
def test_a_state_of_another_training_is_refused(saved, asked):
    state = state_of(training(**saved))
    with pytest.raises(InputError, match="a.pt belongs to another loss or optimiser: ."):
        restore(state, training(**asked), "a.pt")


@pytest.mark.parametrize("facts", [{"model": "Curve", "embedding_size": 2, "pooling": "avg"}, None])
def test_a_state_of_another_model_is_refused(facts):
    state = {**state_of(training()), "facts": facts}
    with pytest.raises(InputError, match="a.pt holds the model .*, but the flags ask for {'model': 'Line'"):
        restore(state, training(), "a.pt")


def test_a_failing_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    save({"step": 1}, tmp_path / "a.pt")

    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "disk full")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save({"step": 2}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"step": 1}


def no_links(*paths):
    raise OSError("no hard links here")


@pytest.mark.parametrize("linked", [True, False])
def test_last_is_the_newest_step_and_the_older_steps_stay(tmp_path, monkeypatch, linked):
    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    for number in (3, 6, 6):
        Checkpoints(tmp_path).save_step({"step": number})
        path = tmp_path / f"step_{number}.pt"
        assert torch.load(tmp_path / "last.pt", weights_only=True) == {"step": number}
        assert os.path.samefile(path, tmp_path / "last.pt") == linked
    assert torch.load(tmp_path / "step_3.pt", weights_only=True) == {"step": 3}
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "step_3.pt", "step_6.pt"]


def test_a_crash_before_the_rename_harms_no_older_step(tmp_path, monkeypatch):
    """The left-over last.pt.tmp is a link to step_3.pt: whoever writes into it writes into that."""
    Checkpoints(tmp_path).save_step({"step": 3})
    os.link(tmp_path / "step_3.pt", tmp_path / "last.pt.tmp")
    Checkpoints(tmp_path).save_step({"step": 6})
    assert torch.load(tmp_path / "step_3.pt", weights_only=True) == {"step": 3}
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"step": 6}


def test_only_the_newest_steps_stay(tmp_path):
    for number in (8, 9, 10, 11):
        Checkpoints(tmp_path, keep=2).save_step({"step": number})
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "step_10.pt", "step_11.pt"]


def test_a_disk_that_refuses_is_said_or_ends_the_run(tmp_path, monkeypatch, capsys):
    Checkpoints(tmp_path).save_step({"step": 1})

    def fail(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    Checkpoints(tmp_path).save_step({"step": 2})
    Checkpoints(tmp_path).save_best({"step": 2})
    printed = capsys.readouterr().out
    assert "step 2 is not saved" in printed and "No space left on device" in printed and "step so far, 2," in printed
    with pytest.raises(InputError, match="step 2 is not saved: .*No space left"):
        Checkpoints(tmp_path).save_step({"step": 2}, needed=True)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "step_1.pt"]


def test_numpy_and_python_go_on_where_they_were():
    """A loss may draw from either."""
    learner = training()
    seed_everything(5)
    state = state_of(learner)
    drawn = random.random(), np.random.rand(), np.random.randn()
    seed_everything(6)
    restore(state, learner, "a.pt")
    assert (random.random(), np.random.rand(), np.random.randn()) == drawn


@pytest.mark.parametrize("name", ["rng", "python_rng", "numpy_rng", "optimiser", "model", "step"])
@pytest.mark.parametrize("value", [None, "x", {"x": 1}, torch.zeros(2)], ids=["none", "text", "dict", "tensor"])
def test_odd_values_are_refused_in_a_sentence(name, value):
    with pytest.raises(InputError, match="^a.pt "):
        restore({**state_of(training()), name: value}, training(), "a.pt")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_that_was_cut_is_told_with_what_is_whole(tmp_path, share, mapped):
    """Not in the words of whoever tried to read it, but: which file, that it is cut, and what to go on from."""
    save({"weights": torch.zeros(9999)}, tmp_path / "step_1.pt")
    save({"weights": torch.zeros(9999)}, tmp_path / "step_2.pt")
    content = (tmp_path / "step_2.pt").read_bytes()
    (tmp_path / "step_2.pt").write_bytes(content[: int(share * len(content))])
    os.link(tmp_path / "step_2.pt", tmp_path / "last.pt")
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / "last.pt", mapped)
    said = str(caught.value)
    assert said.startswith(
        f"{str(tmp_path / 'last.pt')!r} is not a file of plain weights: it is cut short or damaged, "
    )
    assert said.endswith(f"or go on from an earlier step, {str(tmp_path / 'step_1.pt')!r}")
    assert read_weights(tmp_path / "step_1.pt", mapped)["weights"].shape == (9999,)
