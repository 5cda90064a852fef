"""Losses and miners of small batches work with one thread, others with all; either way the number is what it was."""

import pytest
import torch

from losses import LOSSES
from losses._threads import SMALL, one_thread_if_small
from miners import MINERS

SIDE = int(SMALL**0.5)


@pytest.fixture
def seen(monkeypatch):
    """How many threads torch was told to take, which here is kept and not done; it begins with 3."""
    told = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[-1])
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


@pytest.mark.parametrize("rows, expected", [(SIDE, [3, 1, 3]), (SIDE + 2, [3])])
def test_small_batches_take_one_thread(seen, rows, expected):
    LOSSES["contrastive"]()(torch.rand(rows, 2), torch.arange(rows) // 2)
    assert seen == expected
    MINERS["hard"]()(torch.rand(rows, 2), torch.arange(rows) // 2, None)
    assert seen == expected + expected[1:]


def test_weights_count_as_a_table(seen):
    softmax = LOSSES["softmax"](embedding_size=4, num_classes=SMALL)
    softmax(torch.rand(2, 4), torch.tensor([0, 1]))
    assert seen == [3]


def test_threads_are_given_back_after_an_error(seen):
    with pytest.raises(RuntimeError), one_thread_if_small(torch.device("cpu"), 1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 3


def test_a_device_is_left_alone(seen):
    with one_thread_if_small(torch.device("meta"), 1):
        assert seen == [3]
