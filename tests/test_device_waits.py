"""No loss over class weights waits for the device: nothing is read back to choose what is computed next.

Where there is a CUDA device torch itself says so; elsewhere the operations that would wait are looked for on the CPU.
"""

import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses import LOSSES

ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
CHECKS = {"losses/_checks.py"}  # of labels, which look at them on the CPU only


class Reads(TorchDispatchMode):
    """Notes from which lines of the repository a device would be read back."""

    def __init__(self):
        super().__init__()
        self.lines = set()
        self.found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or function in READS:
            self.found += 1
            self.note()
        return function(*args, **(kwargs or {}))

    def note(self):
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path.is_relative_to(ROOT) and path.parent.name in ("losses", "miners", "engine", "distributed"):
                name = str(path.relative_to(ROOT))
                if name not in CHECKS:
                    self.lines.add(f"{name}:{frame.lineno}")
                return


def loss_and_batch(name, device):
    facts = {"embedding_size": 8, "num_classes": 7}
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)}).to(device)
    labels = torch.tensor([0, 0, 1, 1, 2, 2], device=device)
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    return loss, rows, labels


CLASS_LOSSES = [name for name in LOSSES.names() if LOSSES.fact(name, "stage") == "elem"]


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_no_class_loss_reads_back(name):
    torch.manual_seed(0)
    loss, rows, labels = loss_and_batch(name, "cpu")
    with Reads() as reads:
        loss(rows, labels).backward()
    assert not reads.lines


def test_what_reads_back_is_seen():
    """The search itself: a number, a mask and the places that are not 0."""
    rows = torch.ones(3)
    for read in (rows[0].item, rows.nonzero, lambda: rows[rows > 0]):
        with Reads() as reads:
            read()
        assert reads.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_no_class_loss_waits_for_cuda(name):
    torch.manual_seed(0)
    loss, rows, labels = loss_and_batch(name, "cuda")
    loss(rows, labels).backward()  # libraries are set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(rows, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
