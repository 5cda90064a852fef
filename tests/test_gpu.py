"""Training, search, inference and the memory of pair losses on a GPU, beside the CPU; skipped where none is.

The tests of training run on the CPU, too: there the same steps in another layout of memory and by another kernel of the
optimiser, which rounds elsewhere.
"""

import numpy as np
import pytest
import torch
from processes import torchrun
from runs import read_json, tiny_backbone, train_flags
from tolerances import assert_within, cosine_error, gamma, rattle

from benchmarks import gpu as lane
from engine.learner import Learner
from engine.objective import Objective, build_objective
from engine.optimiser import build_optimiser
from engine.step import backward, clip_gradient, update
from losses import LOSSES
from models import Embedder, fast_model
from retrieval.best_positive import positive_ranks
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

CPU, DEVICE = torch.device("cpu"), torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
on_each_device = pytest.mark.parametrize("device", [CPU, pytest.param(DEVICE, marks=needs_gpu)], ids=str)
NUDGE = 2.0**-12  # far above float32's rounding, far below 1
# The longest sums of a step: BatchNorm's mean and variance over 7 x 7 places of 12 images, and rows of 75 weights.
STEP_ERROR = gamma(2 * 12 * 7 * 7 + 75 + 16, torch.float32)
IMAGES = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) // 3


def made_up(rows, width=32):
    """Unit rows (N, D), labels (N,) of five images each; no two scores of a query are closer than rounding."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(table), torch.arange(rows) // 5


@needs_gpu
def test_ranks_are_those_of_the_cpu():
    table, labels = made_up(600)
    expected = positive_ranks(QueryGallery.of(table, labels), (1, 10))
    found = positive_ranks(QueryGallery.of(table.to(DEVICE), labels), (1, 10))
    # A rank that is beyond the largest k may be any that is.
    for k in (1, 10):
        assert torch.equal(found.cpu() < k, expected < k)


@needs_gpu
def test_neighbours_are_those_of_the_cpu():
    table, labels = made_up(600)
    rows, scores = search(QueryGallery.of(table, labels), 7)
    found_rows, found_scores = search(QueryGallery.of(table.to(DEVICE), labels), 7)
    assert torch.equal(found_rows.cpu(), rows)
    assert_within(found_scores.cpu(), scores, 2 * cosine_error(table.shape[1]))


@needs_gpu
@pytest.mark.parametrize("precision, least", [("fp32", 0.99999), ("bf16", 0.99)])
def test_images_are_embedded_as_on_the_cpu(precision, least):
    torch.manual_seed(0)
    with tiny_backbone():
        model = Embedder("Tiny").eval()
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(images)
        fast = fast_model(model.to(DEVICE), precision, "torch", (3, 32, 32)).eval()
        found = fast(images.to(DEVICE)).cpu()
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(found, expected).min() > least


@needs_gpu
@pytest.mark.parametrize("name", ["multi_similarity", "contrastive", "supcon", "triplet_margin", "fast_ap"])
def test_a_pair_loss_takes_memory_of_its_pairs(name):
    """Twice the batch takes at most about four times the bytes: nothing lists triplets. The value is the CPU's."""
    loss = LOSSES[name]()
    peaks = []
    for images in (64, 512, 1024):  # the first makes what the libraries keep for themselves
        table, _ = made_up(images)
        labels = torch.arange(images) // 4
        rows = table.to(DEVICE).requires_grad_()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value = loss(rows, labels.to(DEVICE))
        value.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        assert np.isclose(value.item(), loss(table, labels).item(), rtol=1e-3, atol=1e-5)
    assert peaks[2] <= 4.5 * peaks[1] + 2**20


def learner_on(device, name, precision="fp32", nudge=0.0, usual=True):
    """A learner of Tiny with the loss of that name; usual: as training has it, else contiguous and without fused."""
    torch.manual_seed(0)
    with tiny_backbone():
        model = Embedder("Tiny")
    if nudge:
        rattle(model, nudge)
    facts = {"embedding_size": 8, "num_classes": 4}
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)})
    if usual:
        objective = build_objective(model, loss, device)
        optimiser = build_optimiser(model, loss, lr=0.01)
        assert optimiser.defaults["fused"]
        assert model.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    else:
        objective = Objective(model, loss).to(device)
        optimiser = torch.optim.SGD(objective.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, foreach=True)
    objective.train()
    return Learner(objective, optimiser, device, precision)


def losses_of_steps(learner, steps):
    """The loss (steps,) float64 of each of so many steps on the same images."""
    found = []
    for _ in range(steps):
        learner.optimiser.zero_grad()
        found.append(backward(learner, IMAGES, LABELS))
        clip_gradient(learner)
        update(learner)
    return torch.stack(found).double().cpu()


def learned(learner):
    """Everything that the steps so far have made, by name."""
    losses_of_steps(learner, 3)
    return {name: value.cpu() for name, value in learner.objective.state_dict().items() if value.is_floating_point()}


@on_each_device
@pytest.mark.parametrize("name", ["arcmargin", "softmax", "contrastive", "smooth_ap", "triplet_margin", "npairs"])
def test_steps_make_the_weights_of_the_cpu(name, device, monkeypatch):
    """Within what rounding of each layer explains, as a change of NUDGE in each layer tells it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = learned(learner_on(CPU, name))
    moved = learned(learner_on(CPU, name, nudge=NUDGE))
    found = learned(learner_on(device, name, usual=device == DEVICE))
    for weight, value in found.items():
        slack = (moved[weight] - expected[weight]).abs().max().item() / NUDGE * STEP_ERROR
        rounding = expected[weight].abs().max().item() * gamma(3, torch.float32)  # of what is stored after each step
        assert_within(value, expected[weight], slack + rounding)


@on_each_device
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_learns(precision, device):
    """The loss of the same images falls, and about as far as in float32; what learns stays float32."""
    if precision == "fp16" and device == CPU:
        pytest.skip("fp16 needs an accelerator")
    learner = learner_on(device, "softmax", precision)
    losses = losses_of_steps(learner, 30)
    exact = losses_of_steps(learner_on(device, "softmax"), 30)
    assert 0.8 < (losses[0] - losses[-1]) / (exact[0] - exact[-1]) < 1.25
    assert losses[-1] < losses[0] - 0.05
    assert all(weight.dtype == torch.float32 for weight in learner.objective.parameters())


@pytest.mark.slow
@on_each_device
def test_a_compiled_network_takes_the_same_steps(device):
    """As torch.compile follows it; on a GPU with the code that it makes, too."""
    plain, compiled = learner_on(device, "softmax"), learner_on(device, "softmax")
    compiled.objective.model.compile(backend="inductor" if device == DEVICE else "aot_eager")
    expected, found = losses_of_steps(plain, 3), losses_of_steps(compiled, 3)
    assert_within(found, expected, expected.max().item() * 3 * STEP_ERROR)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_make_the_weights_of_one(sop_tree, tmp_path):
    """By NCCL; BatchNorm is left alone, so that the batch is the same whichever rank has which of its images."""
    found = []
    for number in (1, 2):
        flags = {"loss_name": "smooth_ap", "freeze_bn": True, "use_gpu": True, "lr": 0.01, "augment": "none"}
        done = torchrun(number, "train_pair", *train_flags(sop_tree, tmp_path / str(number), **flags))
        assert done.returncode == 0, done.stderr
        assert read_json(tmp_path / str(number) / "config.json")["ranks"] == number
        found.append(torch.load(tmp_path / str(number) / "last.pt", weights_only=True)["model"])
    for name, value in found[0].items():
        assert_within(found[1][name], value, value.abs().max().item() * 1e-3 + 1e-6)


@on_each_device
def test_the_lane_runs(device, tmp_path, capsys):
    pytest.importorskip("timm")
    sizes = ["--networks=ResNet18:resnet18:32:4", "--rows=500", "--classes=300", "--pair_rows=40"]
    sizes += ["--rounds=1", "--steps=1"]
    lane.main([f"--device={device}", *sizes, f"--output={tmp_path}"])
    lanes = read_json(tmp_path / "gpu.json")["lanes"]
    assert len(lanes) == 6 and all(len(figures) >= 2 for figures in lanes.values())
    assert all(figure["seconds"] > 0 for figures in lanes.values() for figure in figures.values())
    assert "| ours, --precision=fp32 |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_lane_says_that_there_is_no_gpu():
    with pytest.raises(SystemExit, match="torch sees no GPU here; --device=cpu shows"):
        lane.main([])
