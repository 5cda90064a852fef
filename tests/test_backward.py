"""Gradients of a batch in micro-batches against the batch in one piece, for every loss."""

import copy

import pytest
import torch
from tolerances import assert_within, gamma, longest_sum, sensitivity
from torch import nn

from engine.learner import Learner
from engine.objective import Objective
from engine.step import backward
from losses import LOSSES

CPU = torch.device("cpu")
LABELS = {"shuffled": [3, 0, 6, 3, 1, 5], "triplet": [5, 5, 2, 1, 1, 0], "pk": [4, 4, 4, 1, 1, 1]}
LABELS["siamese_pairs"] = [4, 4, 3, 1, 1, 1]


class Net(nn.Module):
    """Images (B, 3, 4, 4) to embeddings (B, 4), with what can go wrong in two passes: BatchNorm and dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(20, 4)
        )

    def forward(self, images):
        return self.layers(images.to(self.layers[-1].weight.dtype) / 255)


def make(name, dropout=0.0, frozen=True):
    torch.manual_seed(3)
    facts = {"embedding_size": 4, "num_classes": 7}
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)})
    objective = Objective(Net(dropout), loss).double()
    objective.model.layers[1].running_var.uniform_(0.5, 2)
    objective.model.layers[1].train(not frozen)
    return objective


def batch(name):
    labels = torch.tensor(LABELS[LOSSES.fact(name, "batch")])
    return torch.randint(256, (len(labels), 3, 4, 4), dtype=torch.uint8), labels


def gradients(objective, images, labels, micro_batch):
    learner = Learner(objective, optimiser=None, device=CPU, micro_batch=micro_batch)
    loss = backward(learner, images, labels)
    return loss, {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
@pytest.mark.parametrize("name", LOSSES.names())
def test_the_gradient_is_the_one_of_the_whole_batch(name, micro_batch):
    whole = make(name)
    parts = copy.deepcopy(whole)
    images, labels = batch(name)
    value, expected = gradients(whole, images, labels, 0)
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    found_value, found = gradients(parts, images, labels, micro_batch)
    assert not found_value.requires_grad

    def again():
        whole.zero_grad()
        value, slopes = gradients(whole, images, labels, 0)
        return {"value": value, **slopes}

    condition = sensitivity(whole, again)
    error = gamma(longest_sum(whole.model) + 2 * 2 * len(labels) + 20)  # a filter's slope: 2 x 2 places of all images
    assert_within(found_value, value, error * condition["value"])
    for parameter, gradient in expected.items():
        assert_within(found[parameter], gradient, error * condition[parameter].max())
    assert any(gradient.abs().max() > 1e-6 for gradient in expected.values())


def test_a_micro_batch_as_large_as_the_batch_is_one_piece():
    objective = make("eml", frozen=False)
    images, labels = batch("eml")
    gradients(objective, images, labels, len(labels))
    assert objective.model.layers[1].num_batches_tracked == 1


def test_batchnorm_counts_each_micro_batch_once():
    objective = make("eml", frozen=False)
    images, labels = batch("eml")
    other = copy.deepcopy(objective.model)
    gradients(objective, images, labels, 2)
    for part in images.split(2):
        other(part)
    for name, value in other.state_dict().items():
        assert torch.equal(objective.model.state_dict()[name], value)
    assert objective.model.layers[1].track_running_stats


def test_both_passes_drop_the_same():
    """With the loss linear in the embeddings the gradient of the last bias is known, dropout or not; of others not."""
    objective = make("softmax", dropout=0.5)
    images, labels = batch("softmax")
    seen = []
    objective.model.layers[4].register_forward_hook(lambda module, inputs, output: seen.append(output.detach() == 0))
    torch.manual_seed(0)
    gradients(objective, images, labels, 2)
    first, second = seen[:3], seen[3:]
    assert len(second) == 3 and all(torch.equal(one, two) for one, two in zip(first, second))
    assert not torch.equal(first[0], first[1])
    after = torch.rand(())
    torch.manual_seed(0)
    for part in images.split(2):
        objective.model(part)
    assert torch.rand(()) == after  # as if there had been one pass


def test_activations_of_one_micro_batch_are_held():
    objective = make("eml")
    images, labels = torch.randint(256, (64, 3, 4, 4), dtype=torch.uint8), torch.arange(64) // 2
    alive, most = [0], [0]

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            if rows.requires_grad:
                alive[0] += len(rows)
                most[0] = max(most[0], alive[0])
            return rows.clone()

        @staticmethod
        def backward(ctx, slope):
            alive[0] -= len(slope)
            return slope

    objective.model.layers[3].register_forward_hook(lambda module, inputs, output: Held.apply(output))
    gradients(objective, images, labels, 8)
    assert most[0] == 8 and alive[0] == 0
    gradients(objective, images, labels, 0)
    assert most[0] == 64
