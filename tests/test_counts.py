"""What hot paths do, counted and not timed: torch operations of a step, Python's instructions of a batch's draw."""

import sys

import numpy as np
import pytest
import torch
from runs import tiny_backbone
from torch.utils._python_dispatch import TorchDispatchMode

from data.samplers import PKSampler
from engine.learner import Learner
from engine.objective import Objective
from engine.optimiser import build_optimiser
from engine.step import backward, update
from losses import LOSSES
from models import Embedder

# Operations that torch does in a step after the first: forward, backward and update, through `Tiny`. Whoever
# makes them fewer writes the new number here; more of them are to be worth it. A new torch may cut an operation in two.
OPERATIONS = {"arcmargin": 205, "softmax": 120, "multi_similarity": 139, "contrastive": 130}
SLACK = 1.1


class Counted(TorchDispatchMode):
    """Counts what reaches the devices."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_a_step(name):
    torch.manual_seed(0)
    facts = {"embedding_size": 8, "num_classes": 16}
    with tiny_backbone():
        model = Embedder("Tiny")
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)})
    learner = Learner(Objective(model, loss), build_optimiser(model, loss, lr=0.1), torch.device("cpu"))
    images = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    labels, rows = torch.arange(32) // 2, torch.arange(32)

    def step():
        learner.optimiser.zero_grad()
        backward(learner, images, labels, rows)
        update(learner)

    step()  # which makes the optimiser's state
    with Counted() as counted:
        step()
    assert 0 < counted.number <= SLACK * OPERATIONS[name], f"{name}: {counted.number} operations a step"


def instructions(function):
    """How many instructions of Python's bytecode a call takes."""
    number = 0

    def trace(frame, event, argument):
        nonlocal number
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        number += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return number


def test_drawing_a_batch_takes_as_long_in_a_long_list():
    """Python's part of a PK batch, which is the same for 100 times as many labels, and a handful an image."""
    counts = []
    for labels in (100, 10_000):
        sampler = PKSampler(np.arange(5 * labels) % labels, 64, 4).starting(seed=0)
        steps = len(sampler.epoch(0))
        counts.append(instructions(lambda: sampler.epoch(1)) / (64 * steps))
    assert counts[1] <= SLACK * counts[0] and counts[1] < 30
