"""Mistakes in a loss or a miner of a user's own meet a sentence that names the class and what is asked of it."""

import pytest
import torch
from torch import nn

from core.errors import InputError
from engine.mining import Mining
from engine.objective import Objective, build_loss
from losses import LOSSES, ContrastiveLoss
from miners import MINERS

LABELS = torch.tensor([0, 0, 1, 1])


class Of(nn.Module):
    """What a function makes of embeddings."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, embeddings, labels):
        return self.formula(embeddings)


def value_of(formula, embeddings):
    return Objective(nn.Identity(), Of(formula)).compare(embeddings, LABELS)


@pytest.mark.parametrize(
    ("formula", "sentence"),
    [
        (lambda rows: rows @ rows.T, r"a loss of shape \(4, 4\); \.mean\(\) or \.sum\(\)"),
        (lambda rows: rows.detach().sum(), "a loss without a gradient"),
        (lambda rows: rows.sum().item(), "a loss of type float;"),
        (lambda rows: (rows.sum(), {}), "a loss of type tuple;"),
        (lambda rows: None, "a loss of type NoneType;"),
    ],
)
def test_what_is_no_loss_is_refused(formula, sentence):
    with pytest.raises(InputError, match=rf"test_own_loss\.Of\.forward gave {sentence}"):
        value_of(formula, torch.eye(4).requires_grad_())


def test_a_loss_may_be_below_nought_have_one_row_and_be_asked_without_a_gradient():
    rows = torch.eye(4).requires_grad_()
    assert value_of(lambda rows: -rows.sum(), rows) == -4
    assert value_of(lambda rows: rows.sum()[None], rows) == 4
    with torch.no_grad():
        assert value_of(torch.sum, rows) == 4
    assert value_of(torch.sum, torch.eye(4)) == 4  # of a network of which nothing learns


def test_a_keyword_without_a_default_is_no_flag(monkeypatch):
    class Mine(nn.Module):
        def __init__(self, embedding_size, my_margin):
            super().__init__()

    monkeypatch.setattr(LOSSES, "_entries", {**LOSSES._entries})
    LOSSES.register("mine", stage="pair")(Mine)
    with pytest.raises(
        InputError, match="the loss mine has my_margin without a default, which only embedding_size and"
    ):
        build_loss({}, 8, 3, "fp32", loss_name="mine")


def test_what_is_no_choice_of_a_miner_is_refused(monkeypatch):
    class Mine:
        def __call__(self, embeddings, labels, reference):
            return embeddings @ embeddings.T

    monkeypatch.setattr(MINERS, "_entries", {**MINERS._entries})
    MINERS.register("mine", gives="pairs")(Mine)
    objective = Objective(nn.Identity(), ContrastiveLoss(), miner=Mining("mine", "pairs", {}))
    with pytest.raises(InputError, match=r"Mine gave a Tensor; a miner gives losses\._mined\.Pairs or Triplets"):
        objective.compare(torch.eye(4), LABELS)
