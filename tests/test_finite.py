"""Losses and gradients that are not finite: named with their batch, or left out of the weights, never taken."""

import math

import pytest
import torch
from runs import read_json, run, tiny_backbone, train_flags
from test_resume import assert_bit_equal, weights
from torch import nn

from core.errors import InputError
from engine.nan_guard import FiniteGuard, NotFinite
from engine.objective import Objective
from losses.softmax import SoftmaxLoss


@pytest.fixture
def failing(monkeypatch):
    """Softmax whose loss or gradient is not finite in the given calls (counted from 1)."""

    def set_up(kind, calls):
        plain, count = SoftmaxLoss.forward, []

        def forward(self, embeddings, labels):
            count.append(1)
            loss = plain(self, embeddings, labels)
            if len(count) not in calls:
                return loss
            return loss * math.nan if kind == "loss" else loss + (0 * embeddings).sum().sqrt()

        monkeypatch.setattr(SoftmaxLoss, "forward", forward)

    with tiny_backbone():
        yield set_up


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_the_step_and_its_batch_are_named(failing, sop_tree, tmp_path, kind):
    failing(kind, {2})
    with pytest.raises(InputError) as fault:
        run("train_elem", train_flags(sop_tree, tmp_path / "run", save_iter_step=1, display_iter_step=3))
    said = str(fault.value)
    assert "at step 2;" in said and "batch of 6 images" in said and "_final/" in said
    assert ("the loss is nan" in said) == (kind == "loss") and "norm nan" in said
    listed = (tmp_path / "run" / "not_finite_2.txt").read_text().splitlines()
    assert len(listed) == 6 and all(path.endswith(".jpg") for path in listed)
    saved = weights(tmp_path / "run" / "last.pt")
    assert saved["step"] == 1 and all(value.isfinite().all() for value in saved["model"].values())


def test_steps_left_out_change_nothing_and_are_counted(failing, sop_tree, tmp_path):
    """Neither weights nor BatchNorm's statistics move: two steps, of which one is left out, are the other one."""
    failing("loss", {2})
    flags = {"nan": "skip:1", "total_iter_num": 2, "save_iter_step": 1}
    run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    assert read_json(tmp_path / "run" / "result.json")["skipped"] == 1
    first, second = (weights(tmp_path / "run" / f"step_{step}.pt") for step in (1, 2))
    assert_bit_equal(second["model"], first["model"])
    assert_bit_equal(second["loss"], first["loss"])


@pytest.mark.parametrize("resumed", [False, True])
def test_no_more_are_left_out_than_allowed(failing, sop_tree, tmp_path, resumed):
    """Also over a pause: the count goes along in the checkpoint."""
    failing("loss", {1, 3})
    flags = {"nan": "skip:1", "save_iter_step": 1, "total_iter_num": 2 if resumed else 3}
    words = train_flags(sop_tree, tmp_path / "run", **flags)
    if resumed:
        run("train_elem", words)
        words = [f"--checkpoint={tmp_path / 'run'}", "--total_iter_num=3", "--allow_changed=total_iter_num"]
    with pytest.raises(InputError, match="at step 3 after 1 step left out"):
        run("train_elem", words)


class Accelerator:
    """Stands in for a device that must not be read back."""

    type = "cuda"


def test_devices_are_read_at_check_only():
    guard, indices = FiniteGuard(Objective(nn.Linear(1, 1), nn.Identity()), Accelerator()), torch.tensor([4, 5])
    one, bad = torch.tensor(1.0), torch.tensor(math.inf)
    for step, (loss, norm) in enumerate([(one, one), (one, bad), (bad, one)], start=1):
        assert guard.may_update(step, loss, norm, indices + step)
    with pytest.raises(NotFinite, match="the loss is 1.0 and the gradient's norm inf at step 2") as fault:
        guard.check()
    assert fault.value.indices == [6, 7]
    assert guard.may_update(4, one, one, indices) and guard.check() is None


def test_infinite_gradients_of_fp16_are_the_scalers_matter():
    guard = FiniteGuard(Objective(nn.Linear(1, 1), nn.Identity()), torch.device("cpu"), scaled=True)
    assert guard.may_update(1, torch.tensor(1.0), torch.tensor(math.inf), torch.tensor([0]))
    with pytest.raises(NotFinite):
        guard.may_update(2, torch.tensor(math.nan), torch.tensor(1.0), torch.tensor([0]))
