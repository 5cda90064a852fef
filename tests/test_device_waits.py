"""No step of training waits for the device: nothing is read back to choose what is computed next.

The same steps run on two devices. On torch's `meta` tensors have a shape and no numbers, so that whoever would read one
gets an error, on any machine; on CUDA, where there is one, torch itself says who waits.
"""

import contextlib

import pytest
import torch
from runs import tiny_backbone
from torch.overrides import TorchFunctionMode

from benchmarks.pairs import operations
from core.pairs import InputPairs
from engine.averaging import Averaging
from engine.kept_classes import WithKeptClasses
from engine.learner import Learner
from engine.memory import Memory
from engine.mining import build_miner
from engine.nan_guard import FiniteGuard
from engine.objective import build_objective
from engine.optimiser import build_optimiser
from engine.pair_loss import PairLoss
from engine.step import backward, clip_gradient, update
from losses import LOSSES
from losses._nested_widths import NestedWidths
from models import Embedder
from models.pair_scorer import PAIR_SCORERS

META, CUDA = torch.device("meta"), torch.device("cuda")
on_each_device = pytest.mark.parametrize(
    "device",
    [META, pytest.param(CUDA, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
    ids=str,
)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
FACTS = {"embedding_size": 8, "num_classes": 7}


class Crossings(TorchFunctionMode):
    """Raises AssertionError where numbers of the host go to the meta device, and the host would wait for a real one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.device == META:
            assert function not in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor), "numbers made on the host"
            crosses = function is torch.Tensor.to and args[0].device != META
            assert not crosses or kwargs.get("non_blocking"), "a tensor of the host"
        return result


@contextlib.contextmanager
def waits_are_errors(device, monkeypatch):
    """A context in which whatever waits for the device raises an error."""
    if device == CUDA:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        autocast = torch.autocast

        def known(device_type, *args, **kwargs):  # torch has no autocast for meta
            return contextlib.nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

        with monkeypatch.context() as patch, Crossings():
            patch.setattr(torch, "autocast", known)
            yield


def loss_of(name, width=8, **options):
    facts = {**FACTS, "embedding_size": width}
    return LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)}, **options)


def network():
    with tiny_backbone():
        return Embedder("Tiny")


def learner_of(model, loss, device, *, miner=None, memory=None, **settings):
    objective = build_objective(model, loss, device, miner=miner, memory=memory)
    return Learner(objective, build_optimiser(model, loss, lr=0.1), device, **settings)


def take_steps(learner, monkeypatch, images=None, labels=LABELS):
    """Three steps as the loop does them, the last two without a wait; in the first libraries set themselves up."""
    if images is None:
        images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    rows = torch.arange(6)
    guard = FiniteGuard(learner.objective, learner.device, scaled=learner.scaler.is_enabled())
    learner.objective.train()

    def step(number):
        learner.optimiser.zero_grad()
        guard.begin()
        loss = backward(learner, images, labels, rows)
        guard.may_update(number, loss, clip_gradient(learner), rows)
        update(learner)

    if learner.device == CUDA:
        step(0)
    with waits_are_errors(learner.device, monkeypatch):
        step(1)
        step(2)


@on_each_device
@pytest.mark.parametrize("name", LOSSES.names())
def test_no_loss_waits(name, device, monkeypatch):
    torch.manual_seed(0)
    take_steps(learner_of(network(), loss_of(name), device), monkeypatch)


def operations_of_loss(name, images, classes, monkeypatch):
    """How many operations a loss and its gradient are on an accelerator."""
    facts = {"embedding_size": 8, "num_classes": classes}
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)}).to(META)
    embeddings = torch.empty(images, 8, device=META, requires_grad=True)
    labels = torch.arange(images) // 3
    if not getattr(loss, "reads_labels", False):
        labels = labels.to(META)
    with waits_are_errors(META, monkeypatch):
        return operations(lambda: loss(embeddings, labels).backward())


@pytest.mark.parametrize("name", LOSSES.names())
def test_operations_of_a_loss_are_as_many_in_a_large_batch(name, monkeypatch):
    """An accelerator is not fed slices that are small enough for the cache of a CPU: each operation has its price."""
    few = operations_of_loss(name, 96, 50, monkeypatch)
    assert operations_of_loss(name, 1536, 50, monkeypatch) == few
    assert operations_of_loss(name, 96, 50_000, monkeypatch) == few


def with_memory(device):
    return learner_of(network(), loss_of("contrastive"), device, memory=Memory(12, 8, device))


def with_kept_classes(device):
    return learner_of(network(), WithKeptClasses(loss_of("smooth_ap"), loss_of("arcmargin"), 0.5), device)


def with_nested_widths(device):
    return learner_of(network(), NestedWidths(lambda width: loss_of("fast_ap", width), 8, (4,)), device)


def with_averages(device):
    learner = learner_of(network(), loss_of("arcmargin"), device, clip_norm=1.0)
    learner.averaging = Averaging(learner.objective, ema=0.9)
    return learner


def with_a_rule(device):
    """Semihard triplets, of which no list is made."""
    mining = build_miner({}, "triplet_margin", {}, miner="semihard")
    return learner_of(network(), loss_of("triplet_margin"), device, miner=mining)


def of_virtual_rows(device):
    return learner_of(network(), loss_of("recall_at_k", simix=True), device)


FEATURES = [with_memory, with_kept_classes, with_nested_widths, with_averages, with_a_rule, of_virtual_rows]


@on_each_device
@pytest.mark.parametrize("build", FEATURES, ids=lambda build: build.__name__)
def test_no_feature_waits(build, device, monkeypatch):
    torch.manual_seed(0)
    take_steps(build(device), monkeypatch)


@on_each_device
@pytest.mark.parametrize("name", PAIR_SCORERS.names())
def test_no_pair_scorer_waits(name, device, monkeypatch):
    torch.manual_seed(0)
    scorer = PAIR_SCORERS[name](network())
    if not scorer.learns:
        pytest.skip("has nothing to learn")
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    pairs = InputPairs(images, torch.tensor([0, 2, 4, 1]), torch.tensor([1, 3, 5, 4]))
    take_steps(learner_of(scorer, PairLoss(), device), monkeypatch, pairs, torch.tensor([0, 0, 0, 1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"precision": "bf16"}, {"micro_batch": 2}], ids=str)
def test_no_setting_waits_for_cuda(settings, monkeypatch):
    """fp16 with its scaler, whose fused optimiser looks for infinities on the device."""
    torch.manual_seed(0)
    take_steps(learner_of(network(), loss_of("arcmargin"), CUDA, **settings), monkeypatch)


def test_what_waits_is_seen(monkeypatch):
    """The search itself: numbers that are read, lists whose length is one, and numbers that are sent."""
    rows = torch.ones(3, device=META)
    waits = [rows[0].item, rows.nonzero, lambda: rows[rows > 0], rows.cpu, lambda: bool(rows.any()), rows.unique]
    waits += [lambda: rows.new_tensor(1), lambda: torch.tensor([1], device=META), lambda: LABELS.to(META)]
    for wait in waits:
        with waits_are_errors(META, monkeypatch), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
            wait()


def test_a_list_of_triplets_waits(monkeypatch):
    """How many triplets a miner lists is known to nobody but the device."""
    mining = build_miner({}, "triplet_margin", {}, miner="hard")
    learner = learner_of(network(), loss_of("triplet_margin"), META, miner=mining)
    with pytest.raises((RuntimeError, NotImplementedError)):
        take_steps(learner, monkeypatch)
