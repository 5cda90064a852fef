"""What hot paths do, counted and not timed: torch operations of a step and of a loss, Python's instructions of a batch's
draw, a processor's of what a search ends with.

Torch operations and calls are the same on every machine, whatever its products take; a processor's instructions are
not, so that they are compared with those of the same sort alone, in the same process.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import tiny_backbone

from benchmarks.pairs import operations
from data.samplers import PKSampler
from engine.learner import Learner
from engine.objective import Objective
from engine.optimiser import build_optimiser
from engine.step import backward, update
from losses import LOSSES
from models import Embedder

# Operations that torch does in a step after the first: forward, backward and update, through `Tiny`. Whoever
# makes them fewer writes the new number here; more of them are to be worth it. A new torch may cut an operation in two.
OPERATIONS = {"arcmargin": 188, "softmax": 120, "multi_similarity": 110, "contrastive": 94}
SLACK = 1.1


# Of a pair loss and its gradient, once it was called: operations, and calls of functions by Python.
OF_A_LOSS = {
    "multi_similarity": (84, 345),
    "smooth_ap": (72, 365),
    "triplet_margin": (70, 387),
    "npairs": (54, 306),
    "quadruplet_chen": (156, 623),
    "clip": (111, 327),
}


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
    number = operations(step)
    assert 0 < number <= SLACK * OPERATIONS[name], f"{name}: {number} operations a step"


def instructions(function):
    """How many instructions of Python's bytecode a call takes, the second time."""
    number = 0

    def trace(frame, event, argument):
        nonlocal number
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        number += event == "opcode"
        return trace

    before = sys.gettrace()
    # From Python 3.12 on, a trace sees no instructions before it was there once.
    for _ in range(2):
        number = 0
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


def calls(function):
    """How many functions a call of the function calls, those of C included, of which a loop in Python makes more."""
    number = 0

    def profile(frame, event, argument):
        nonlocal number
        number += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return number


def counts_of_a_loss(name):
    """(operations, calls) of a loss and its gradient; these have no part in the embedding's size, nor in threads."""
    rows, labels = torch.rand(32, 8, requires_grad=True), torch.arange(32) // 4
    loss = LOSSES[name]()

    def slopes():
        return torch.autograd.grad(loss(rows, labels), rows)

    slopes()
    return operations(slopes), calls(slopes)


@pytest.mark.parametrize("name", OF_A_LOSS)
def test_what_a_pair_loss_and_its_gradient_take(name):
    for found, known in zip(counts_of_a_loss(name), OF_A_LOSS[name], strict=True):
        assert 0 < found <= SLACK * known, f"{name}: {found} where there were {known}"


def test_a_loss_that_is_computed_twice_is_noticed(monkeypatch):
    kind = LOSSES["smooth_ap"]
    terms = kind.row_terms
    monkeypatch.setattr(kind, "row_terms", lambda self, block: (terms(self, block), terms(self, block))[1])
    assert counts_of_a_loss("smooth_ap")[0] > SLACK * OF_A_LOSS["smooth_ap"][0]


# Forks count on where their parent was: each of the two calls one function 20 times more.
SELECTION = """
import os, sys
import numpy as np
sys.path.insert(0, {root!r})
from retrieval import plain

scores = np.random.default_rng(0).random((8, 512), dtype=np.float32)
ids = np.tile(np.arange(512), (8, 1))

def sort():
    return np.lexsort((ids, -scores), axis=1)

def select():
    return plain.best_scored(ids, scores, 10)

sort(), select()
for function in (os.getpid, sort, select):
    if os.fork() == 0:
        for _ in range(20):
            function()
        os._exit(0)
    os.wait()
"""


def instructions_of_selection(folder):
    """A processor's instructions for the best of rows of scores, over those of the sort alone."""
    script = folder / "selection.py"
    script.write_text(SELECTION.format(root=str(Path(__file__).parents[1])))
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out.%p"]
    done = subprocess.run([*valgrind, sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Forks end one after the other, before their parent does.
    nothing, sort, select, _ = (int(count) for count in re.findall(r"Collected : (\d+)", done.stderr))
    return (select - nothing) / (sort - nothing)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed; the counts above are taken anyway")
def test_the_best_of_scores_take_little_more_than_their_sort(tmp_path):
    assert 1 <= instructions_of_selection(tmp_path) < 1.3
