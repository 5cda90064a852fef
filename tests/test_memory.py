"""The memory beside a pair loss: what enters, what a batch is compared with, and a run with it that goes on."""

import copy

import pytest
import torch
from runs import read_json, read_metrics, run, train_flags
from test_backward import CPU, Net
from test_losses import bounds, random_rows
from test_resume import assert_bit_equal
from tolerances import assert_within, gamma, longest_sum, sensitivity

from core.errors import InputError
from engine.learner import Learner
from engine.memory import Memory, build_memory
from engine.objective import Objective
from engine.step import backward
from losses import LOSSES, EmlLoss
from losses._mined import Reference

WITH_MEMORY = LOSSES.names(memory=True)
LABELS = torch.tensor([4, 4, 1, 1, 7])
REFERENCE = Reference(
    random_rows(7, seed=8),
    torch.tensor([4, 1, 1, 9, 4, 4, 9]),
    torch.tensor([20, 12, 30, 31, 10, 21, 32]),  # 12 and 10 are images of the batch
    torch.tensor([10, 11, 12, 13, 14]),
)


def eml_by_pairs(embeddings, labels, reference, beta=1e5):
    """The formula, pair by pair in float64, over batch and reference, an image's older self left out."""
    columns = torch.cat([embeddings, reference.embeddings])
    column_labels = labels.tolist() + reference.labels.tolist()
    images = reference.batch_images.tolist()
    terms = []
    for row, label in enumerate(labels.tolist()):
        far, near = [], []
        for column, other in enumerate(column_labels):
            if column == row or (column >= len(labels) and reference.images[column - len(labels)] == images[row]):
                continue
            distance = (embeddings[row] - columns[column]).square().sum()
            if other == label:
                far.append(distance.exp())
            else:
                near.append((-distance).exp())
        if far:
            terms.append((1 + beta * torch.stack(far).mean() * torch.stack(near).mean()).log())
    return torch.stack(terms).mean() / torch.tensor(1 + beta).double().log()


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_eml_over_batch_and_memory_is_the_formula(scale):
    rows = (scale * random_rows(5, seed=3)).requires_grad_()
    reference = REFERENCE._replace(embeddings=scale * REFERENCE.embeddings)
    loss = EmlLoss()
    value = loss(rows, LABELS, reference=reference)
    (slope,) = torch.autograd.grad(value, rows)
    expected = eml_by_pairs(rows, LABELS, reference)
    (expected_slope,) = torch.autograd.grad(expected, rows)
    # As a loss over all columns is off, and as much again for the sums of exponentials that are not logarithms here.
    everything = torch.cat([rows.detach(), reference.embeddings])
    value_error, (slope_error,) = bounds(loss, [everything], LABELS)
    assert_within(value, expected, 2 * value_error)
    assert_within(slope, expected_slope, 2 * slope_error)


def test_eml_logs_count_pairs_of_both():
    rows = torch.tensor([[0.0], [1.0], [5.0]])
    reference = Reference(
        torch.tensor([[3.0], [0.5], [9.0]]), torch.tensor([1, 0, 1]), torch.tensor([7, 0, 8]), torch.tensor([0, 1, 2])
    )
    loss = EmlLoss()
    loss(rows, torch.tensor([0, 0, 1]), reference=reference)
    # Positives: 0-1 twice, 1-0.5, 5-3, 5-9; that of image 0 with itself does not count.
    assert loss.logs["positive_distance"] == (1 + 1 + 0.25 + 4 + 16) / 5
    negatives = [25, 9, 81, 16, 4, 64, 25, 16, 4.5**2]
    assert loss.logs["negative_distance"] == sum(negatives) / len(negatives)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_extremes_stay_finite_beside_a_memory(name):
    for scale in (0.0, 1e-20, 1e4):
        rows = (scale * random_rows(5, dtype=torch.float32)).requires_grad_()
        older = REFERENCE.embeddings.float() * scale
        value = LOSSES[name]()(rows, LABELS, reference=REFERENCE._replace(embeddings=older))
        value.backward()
        assert value.isfinite() and rows.grad.isfinite().all()


def test_a_batch_may_have_its_pairs_in_the_memory():
    rows, labels = random_rows(2), torch.tensor([1, 9])
    images = torch.tensor([1, 2])
    memory = Reference(random_rows(1, seed=4), torch.tensor([9]), torch.tensor([3]), images)
    assert EmlLoss()(rows, labels, reference=memory).isfinite()
    with pytest.raises(InputError, match="no label occurs twice among the 3 rows"):
        EmlLoss()(rows, labels, reference=memory._replace(labels=torch.tensor([5])))


def test_the_ring_keeps_the_newest():
    memory = Memory(5, 2)
    images = torch.arange(9)
    for rows in images.split(3):
        memory.enter(torch.stack([rows, -rows], 1).float(), rows % 2, rows)
    found = memory.reference(images[:1])
    assert found.images.tolist() == [5, 6, 7, 8, 4]
    assert found.embeddings.tolist() == [[image, -image] for image in (5, 6, 7, 8, 4)]
    assert found.labels.tolist() == [1, 0, 1, 0, 0]
    memory.enter(torch.zeros(12, 2), torch.arange(12), torch.arange(12))
    assert sorted(memory.reference(images).images.tolist()) == [7, 8, 9, 10, 11]


def test_it_is_used_from_its_start_on():
    memory = Memory(4, 2, start=2)
    rows = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    seen = []
    for _ in range(4):
        seen.append(memory.reference(rows[2]))
        memory.enter(*rows)
    assert [reference if reference is None else len(reference.labels) for reference in seen] == [None, None, 2, 3]


def test_a_state_goes_on_where_it_was():
    memory, other = Memory(5, 2), Memory(5, 2)
    draw = torch.Generator().manual_seed(0)

    def enter(memories, count):
        batch = torch.rand(count, 2, generator=draw), torch.arange(count), torch.arange(count)
        for memory in memories:
            memory.enter(*batch)

    for count in (3, 3, 1):
        enter([memory], count)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
        assert_bit_equal(other.state_dict(), memory.state_dict())
        enter([memory, other], 2)
        assert_bit_equal(other.state_dict(), memory.state_dict())
    with pytest.raises(ValueError, match="its memory is of 5 x 2 numbers, not 6 x 2"):
        Memory(6, 2).load_state_dict(memory.state_dict())


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_micro_batches_have_the_gradient_of_the_whole_batch(name, micro_batch):
    torch.manual_seed(3)
    whole = Objective(Net(), LOSSES[name](), memory=Memory(7, 4)).double()
    whole.model.layers[1].train(False)
    reference = REFERENCE._replace(embeddings=REFERENCE.embeddings.float().double())
    whole.memory.enter(*reference[:3])
    parts = copy.deepcopy(whole)
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)

    def gradients(objective, size):
        objective.zero_grad()
        learner = Learner(objective, optimiser=None, device=CPU, micro_batch=size)
        value = backward(learner, images, LABELS, REFERENCE.batch_images)
        return {"value": value, **{name: weight.grad.clone() for name, weight in objective.named_parameters()}}

    expected, found = gradients(whole, 0), gradients(parts, micro_batch)
    condition = sensitivity(whole, lambda: gradients(whole, 0))
    error = gamma(longest_sum(whole.model) + 2 * 2 * 12 + 20)
    for weight, slope in expected.items():
        assert_within(found[weight], slope, error * condition[weight].max())


def test_what_cannot_be_is_said():
    with pytest.raises(
        InputError, match="memory_size is 8, but npairs compares a batch's images only; with a memory go .*eml"
    ):
        build_memory("npairs", 30, 2, CPU, memory_size=8)
    with pytest.raises(InputError, match="memory_size is 31, more than the train list's 30 images"):
        build_memory("eml", 30, 2, CPU, memory_size=31)
    for asked in ({"memory_start": 1}, {"memory_fill": True}):
        with pytest.raises(InputError, match="there is no memory to start or fill; give --memory_size"):
            build_memory("eml", 30, 2, CPU, **asked)
    assert build_memory("npairs", 30, 2, CPU) is None


@pytest.fixture
def train(tiny, sop_tree, finished_run, tmp_path):
    """Train eml with a memory of 20 rows, from the stage 1 run, to `steps` in the folder `name`; returns the folder."""

    def call(name, steps, **flags):
        flags = {"lr": 0.05, "lr_strategy": "constant", "save_iter_step": 3, "memory_size": 20, **flags}
        flags = {"loss_name": "eml", "pretrained_model": finished_run, **flags}
        run("train_pair", train_flags(sop_tree, tmp_path / name, total_iter_num=steps, **flags))
        return tmp_path / name

    return call


def state_of(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


@pytest.mark.parametrize("flags", [{}, {"memory_fill": True, "memory_size": 30}, {"memory_start": 2, "micro_batch": 2}])
def test_three_and_three_are_six_with_a_memory(train, flags):
    whole, parts = train("whole", 6, **flags), train("parts", 3, **flags)
    run("train_pair", [f"--checkpoint={parts}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    six, found = state_of(whole), state_of(parts)
    for name in ("model", "optimiser", "memory", "step", "rng"):
        assert_bit_equal(found[name], six[name])
    assert six["memory"]["batches"] == 6 and len(six["memory"]["labels"]) == flags.get("memory_size", 20)


def test_the_first_loss_is_that_of_the_whole_list(train, sop_tree):
    """Filled at once, every image of the list but the batch's own is there in the first step."""
    without = train("without", 1, memory_size=None)
    late = train("late", 2, memory_start=2)
    filled = train("filled", 1, memory_size=30, memory_fill=True)
    losses = {folder.name: read_metrics(folder)[0]["loss"] for folder in (without, late, filled)}
    assert losses["late"] == losses["without"] != losses["filled"]
    held = state_of(filled)["memory"]
    assert len(held["images"]) == 30 and held["next"] == 6
    # Those of the batch stand over six others: all the rest are there once.
    assert len(set(held["images"].tolist())) >= 24
    assert read_json(filled / "result.json")["step"] == 1


def test_a_memory_of_the_list_is_the_list_in_an_order_of_its_own(tiny, sop_tree, finished_run):
    from engine.memory import fill_memory
    from models import ModelSettings, open_model
    from reader import open_training

    records = open_training(data_dir=str(sop_tree), train_list="Ebay_train.txt", test_list="Ebay_test.txt").train
    settings = ModelSettings(model="Tiny", image_shape=(3, 32, 32), pretrained_model=str(finished_run))
    model = open_model(settings)
    memory = Memory(30, model.embedding_size, filled_first=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fill_memory(memory, model, records, settings, 7, 0, seed=3)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    images = memory.images
    assert images.sort().values.tolist() == list(range(30)) and images.tolist() != list(range(30))
    assert memory.labels.tolist() == records.vocabulary.codes[images.numpy()].tolist()
    assert memory.embeddings.norm(dim=1).min() > 0 and memory.batches == 0
    part = Memory(9, model.embedding_size, filled_first=True)
    fill_memory(part, model, records, settings, 4, 0, seed=3)
    assert part.images.tolist() == images[:9].tolist()
