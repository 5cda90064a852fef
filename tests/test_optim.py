"""The learning rate in closed form, parameter groups, and one step of each optimiser by hand."""

import copy
import math
from typing import get_args, get_type_hints

import pytest
import torch
from tolerances import about
from torch import nn

from core.errors import InputError
from engine.checkpoint import _restore_optimiser
from engine.optimiser import OPTIMISERS, build_optimiser, set_rate
from engine.schedule import Schedule, learning_rate

STRATEGIES = get_args(get_type_hints(Schedule)["lr_strategy"])
ANCESTOR = {"lr": 0.01, "strategy": "piecewise_decay", "lr_steps": (15000, 25000), "total": 30000}


@pytest.mark.parametrize(
    "step, rate", [(0, 0.01), (14999, 0.01), (15000, 0.001), (24999, 0.001), (25000, 0.0001), (29999, 0.0001)]
)
def test_piecewise_decay(step, rate):
    assert learning_rate(step, **ANCESTOR) == about(rate, 4)


@pytest.mark.parametrize("warmup", [0, 20])
def test_cosine(warmup):
    rates = [learning_rate(step, 0.3, "cosine", (), 100, warmup) for step in range(100)]
    length = 100 - warmup
    for step in range(warmup, 100):
        assert rates[step] == about(0.3 * math.cos(math.pi * (step - warmup) / length / 2) ** 2, 20, size=0.3)
    assert rates[warmup] == 0.3 and rates[warmup + length // 2] == about(0.15, 20, size=0.3)
    assert all(early > late for early, late in zip(rates[warmup:], rates[warmup + 1 :]))
    assert learning_rate(100, 0.3, "cosine", (), 100, warmup) == about(0, 20, size=0.3) and rates[-1] > 0


def test_constant():
    assert {learning_rate(step, 0.2, "constant", (5,), 10) for step in range(10)} == {0.2}


@pytest.mark.parametrize("strategy", STRATEGIES[:3])
def test_warm_up_rises_linearly_to_what_the_strategy_gives(strategy):
    rates = [learning_rate(step, 1.0, strategy, (50,), 100, warmup=8) for step in range(100)]
    assert rates[:8] == about([(step + 1) / 8 for step in range(8)], 4)
    assert rates[8] == 1.0
    unwarmed = [learning_rate(step, 1.0, strategy, (50,), 100) for step in range(100)]
    if strategy != "cosine":
        assert rates[8:] == unwarmed[8:]


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model, nn.Linear(2, 5)


def test_the_factor_of_piecewise_decay_is_the_users():
    rates = [learning_rate(step, 1.0, "piecewise_decay", (2, 3), 10, factor=0.25) for step in range(5)]
    assert rates == [1, 1, 0.25, 0.0625, 0.0625]  # powers of two: exact


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "lbfgs"])
@pytest.mark.parametrize("class_lr, ratio", [(None, 1.0), (0.5, 5.0), (0.01, 0.1), (0.0, 0.0)])
def test_class_weights_keep_their_ratio_at_every_rate(name, class_lr, ratio):
    model, loss = small()
    optimiser = build_optimiser(model, loss, optimiser=name, lr=0.1, class_lr=class_lr)
    for rate in (0.1, 0.003):
        set_rate(optimiser, rate)
        assert [group["lr"] for group in optimiser.param_groups] == about([rate, rate * ratio], 4)
    # the model's first layer is frozen
    groups = [{id(p) for p in group["params"]} for group in optimiser.param_groups]
    assert groups == [{id(p) for p in model[1].parameters()}, {id(p) for p in loss.parameters()}]


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "lbfgs"])
def test_losses_without_weights_have_no_group(name):
    optimiser = build_optimiser(small()[0], nn.Identity(), optimiser=name, lr=0.1, class_lr=0.5)
    assert [group["ratio"] for group in optimiser.param_groups] == [1.0]


def test_nothing_to_train_is_refused():
    with pytest.raises(InputError, match="nothing"):
        build_optimiser(nn.Identity(), nn.Identity(), lr=0.1)


def steps(name, gradients, **options):
    """What one weight of value 1 becomes after each of the gradients, at a rate of 0.1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimiser = build_optimiser(model, nn.Identity(), optimiser=name, lr=0.1, **options)
    values = []
    for gradient in gradients:
        model.weight.grad = torch.full((1, 1), gradient)
        optimiser.step()
        values.append(model.weight.item())
    return values


def test_momentum_sgd_by_hand(record_property):
    """v = 0.9 v + (g + 0.01 w); w = w - 0.1 v: the decay is part of the gradient, as the ancestor's L2."""
    weight, velocity, expected = 1.0, 0.0, []
    for gradient in (2.0, -1.0, 0.5):
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight -= 0.1 * velocity
        expected.append(weight)
    found = steps("momentum", (2.0, -1.0, 0.5), weight_decay=0.01, momentum=0.9)
    assert found == about(expected, 3 * 6, torch.float32, 2)
    record_property("largest difference", max(abs(one - other) for one, other in zip(found, expected)))


def test_adamw_by_hand():
    """Decay beside the gradient (arXiv 1711.05101): the first step is 0.1 sign(g) after w shrank by 0.1 * 0.01."""
    assert steps("adamw", (7.0,), weight_decay=0.01) == about([1 - 0.1 * 0.01 - 0.1], 12, torch.float32)


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_momenta_of_a_file_may_lie_in_memory_another_way(name):
    def stepped(model, optimiser):
        generator = torch.Generator().manual_seed(5)
        for _ in range(2):
            optimiser.zero_grad(set_to_none=True)
            image = torch.rand(1, 3, 4, 4, generator=generator)
            loss = model(image).square().sum()
            loss.backward()
            if name == "lbfgs":
                model.weight.grad = model.weight.grad.contiguous()
            optimiser.step(lambda: loss)
        return model.weight.detach()

    model = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    optimiser = build_optimiser(model, nn.Identity(), optimiser=name, lr=0.01)
    stepped(model, optimiser)
    state = copy.deepcopy({"kind": type(optimiser).__name__, **optimiser.state_dict()})
    for momenta in state["state"].values():
        for key, value in momenta.items():
            if isinstance(value, torch.Tensor):
                momenta[key] = value.contiguous()
    later = copy.deepcopy(model)
    resumed = build_optimiser(later, nn.Identity(), optimiser=name, lr=0.01)
    _restore_optimiser(resumed, state)
    assert torch.equal(stepped(later, resumed), stepped(model, optimiser))
