"""Optimisers and schedules by name: those of torch and timm, step for step, and each resumable to the bit."""

import copy
import io
from typing import get_args, get_type_hints

import pytest
import torch
from runs import read_json, read_metrics, run, train_flags
from torch import nn
from torch.optim import lr_scheduler

from core.errors import InputError
from core.formula import Formula
from engine.checkpoint import _restore_optimiser
from engine.optimiser import OPTIMISERS, build_optimiser, set_rate
from engine.schedule import Schedule

STRATEGIES = get_args(get_type_hints(Schedule)["lr_strategy"])
LR, TOTAL = 0.3, 60
FORMULA = "0.9 if step < 20 else 0.5 + 0.5 * cos(pi * step / total) ** 2"
# {our strategy: (our flags, the peer's scheduler of an optimiser)}.
PEERS = {
    "multi_step": ({"lr_steps": (9, 31), "lr_factor": 0.3}, lambda o: lr_scheduler.MultiStepLR(o, [9, 31], 0.3)),
    "step": ({"lr_period": 7, "lr_factor": 0.5}, lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "exponential": ({"lr_factor": 0.93}, lambda o: lr_scheduler.ExponentialLR(o, 0.93)),
    "cosine_annealing": ({"lr_period": 25, "lr_min": 0.01}, lambda o: lr_scheduler.CosineAnnealingLR(o, 25, 0.01)),
    "cyclic": (
        {"lr_period": 8, "lr_min": 0.02},
        lambda o: lr_scheduler.CyclicLR(o, 0.02, LR, step_size_up=8, cycle_momentum=False),
    ),
    "one_cycle": ({}, lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=TOTAL, cycle_momentum=False)),
    "lambda": (
        {"lr_formula": "0.95 ** (step // 4)"},
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.95 ** (step // 4)),
    ),
    "multiplicative": (
        {"lr_formula": "1 - step / (2 * total)"},
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 1 - step / (2 * TOTAL)),
    ),
}


def weights():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def rates_of(schedule, reductions=()):
    return [schedule.rate(step, LR) for step in range(TOTAL)]


@pytest.mark.parametrize("strategy", PEERS)
@pytest.mark.filterwarnings("ignore")
def test_schedules_of_torch(strategy):
    flags, peer = PEERS[strategy]
    ours = rates_of(Schedule(lr_strategy=strategy, total_iter_num=TOTAL, **{"lr_steps": (), **flags}))
    optimiser = torch.optim.SGD(weights().parameters(), lr=LR)
    scheduler = peer(optimiser)
    theirs = []
    for _ in range(TOTAL):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(theirs) < TOTAL:
            scheduler.step()
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert len(set(ours)) > 2


def test_tanh_is_timms():
    scheduler = pytest.importorskip("timm.scheduler")
    optimiser = torch.optim.SGD(weights().parameters(), lr=LR)
    peer = scheduler.TanhLRScheduler(optimiser, t_initial=TOTAL, lr_min=0.01)
    ours = Schedule(lr_strategy="tanh", lr_steps=(), lr_min=0.01, total_iter_num=TOTAL)
    for step in range(TOTAL):
        peer.step(step)
        assert ours.rate(step, LR) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize("smaller_is_better", [False, True])
@pytest.mark.parametrize("patience", [0, 2])
def test_reduce_on_plateau_is_torchs(patience, smaller_is_better):
    generator = torch.Generator().manual_seed(3)
    figures = torch.randint(0, 8, (80,), generator=generator).double() / 10 + 0.1
    optimiser = torch.optim.SGD(weights().parameters(), lr=LR)
    mode = "min" if smaller_is_better else "max"
    peer = lr_scheduler.ReduceLROnPlateau(optimiser, mode, 0.7, patience, min_lr=0.01)
    schedule = Schedule(
        lr_strategy="reduce_on_plateau",
        lr_steps=(),
        lr_factor=0.7,
        lr_patience=patience,
        lr_min=0.01,
        total_iter_num=TOTAL,
    )
    plateau = schedule.plateau(smaller_is_better)
    for number, figure in enumerate(figures.tolist()):
        peer.step(figure)
        plateau.after_test(figure)
        rate = schedule.rate(number, LR, plateau.reductions)
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        # As a checkpoint would hand it on.
        before, plateau = plateau, schedule.plateau(smaller_is_better)
        plateau.restore(before.state())
    assert rate < LR


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_schedule_is_a_function_of_the_step(strategy):
    """Asked in any order it gives the same to the bit, and it warms up as the others do."""
    flags = {
        "lr_steps": (9,),
        "lr_period": 5,
        "lr_formula": FORMULA if strategy in ("lambda", "multiplicative") else None,
    }
    schedule = Schedule(lr_strategy=strategy, total_iter_num=TOTAL, **flags)
    rates = rates_of(schedule)
    assert [schedule.rate(step, LR) for step in reversed(range(TOTAL))] == rates[::-1]
    warmed = Schedule(lr_strategy=strategy, total_iter_num=TOTAL, warmup_steps=10, **flags)
    assert warmed.rate(1, LR) < LR and all(rate >= 0 for rate in rates)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"lr_strategy": "step"}, "needs --lr_period"),
        ({"lr_strategy": "reduce_on_plateau", "lr_factor": 2.0}, "one below 1"),
        ({"lr_strategy": "lambda"}, "--lr_formula and --lr_strategy=lambda or multiplicative go together"),
        ({"lr_formula": "1"}, "go together"),
        ({"lr_strategy": "lambda", "lr_formula": "1 / abs(step - 7)"}, "has no value at step 7"),
        ({"lr_strategy": "lambda", "lr_formula": "1 - step"}, "is -1 at step 2; a rate is 0 or more"),
        ({"lr_strategy": "lambda", "lr_formula": "9 ** 9 ** 9 ** step"}, "has no value at step"),
        ({"lr_strategy": "lambda", "lr_formula": "(0 - 2) ** 0.5 + step"}, "has no value at step 0"),
    ],
)
def test_schedules_that_cannot_be(flags, sentence):
    with pytest.raises(InputError) as caught:
        Schedule(lr_steps=(), total_iter_num=TOTAL, **flags)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("step +", "is no formula"),
        ("stepp / 2", "there is no 'stepp'; there are: step, total, pi. Did you mean 'step'?"),
        ("__import__('os')", "there is no '__import__'"),
        ("step.real", "is nothing that a formula is made of"),
        ("(lambda: 1)()", "a call is one of min, max"),
        ("'a' * step", "'a' is no number"),
        ("[1][0]", "is nothing that a formula is made of"),
        ("1 < step < 3", "one comparison at a time"),
        ("min(step, key=1)", "a call is one of"),
    ],
)
def test_what_is_no_formula(text, sentence):
    with pytest.raises(ValueError) as caught:
        Formula(text, ("step", "total"))
    assert sentence in str(caught.value)


def test_formulas():
    assert Formula("max(1, 2 ** -step) + abs(-pi) * (step >= 2)", ("step",))(step=3) == pytest.approx(1 + 3.14159265)


def closure_of(optimiser, model, inputs, loss_of):
    def closure():
        optimiser.zero_grad()
        loss = loss_of(model(inputs))
        loss.backward()
        return loss

    return closure


def loss_of(outputs):
    return (outputs - 1).square().mean() + outputs.abs().mean()


# What ours are beside the peer's: {name: its class and options}.
OF_TORCH = {
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
    "sgd": (torch.optim.SGD, {"weight_decay": 0.01}),
    "adadelta": (torch.optim.Adadelta, {"weight_decay": 0.01}),
    "adagrad": (torch.optim.Adagrad, {"weight_decay": 0.01}),
    "adamax": (torch.optim.Adamax, {"weight_decay": 0.01}),
    "asgd": (torch.optim.ASGD, {"weight_decay": 0.01}),
    "lbfgs": (torch.optim.LBFGS, {}),
    "rmsprop": (torch.optim.RMSprop, {"weight_decay": 0.01}),
    "rprop": (torch.optim.Rprop, {}),
}


def test_all_names_are_there():
    assert OPTIMISERS.keys() == OF_TORCH.keys()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_are_torchs_and_go_on_to_the_bit(name):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    kind, options = OF_TORCH[name]

    def steps(model, optimiser, count):
        for _ in range(count):
            optimiser.step(closure_of(optimiser, model, inputs, loss_of))
        return model.weight.detach().clone()

    def ours(model):
        return build_optimiser(model, nn.Identity(), optimiser=name, lr=0.05, weight_decay=0.01)

    theirs = weights()
    expected = steps(theirs, kind(theirs.parameters(), lr=0.05, **options), 6)
    model = weights()
    optimiser = ours(model)
    set_rate(optimiser, 0.05)
    half = steps(model, optimiser, 3)
    state = {"kind": type(optimiser).__name__, **optimiser.state_dict()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    later = copy.deepcopy(model)
    resumed = ours(later)
    _restore_optimiser(resumed, torch.load(file, weights_only=True))
    set_rate(resumed, 0.05)
    whole = steps(model, optimiser, 3)
    assert not torch.equal(half, whole)
    assert torch.equal(steps(later, resumed, 3), whole)
    assert whole == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_what_an_optimiser_has_not_is_said(capsys):
    build_optimiser(weights(), nn.Identity(), optimiser="rprop", lr=0.1, weight_decay=0.5)
    assert "rprop has no weight decay; --weight_decay=0.5 does nothing" in capsys.readouterr().out
    with pytest.raises(InputError, match="lbfgs has one rate for all weights"):
        build_optimiser(weights(), nn.Linear(2, 4), optimiser="lbfgs", lr=0.1, class_lr=0.5)


@pytest.mark.parametrize(
    "flags",
    [
        {"optimiser": "lbfgs", "lr": 0.02},
        {"optimiser": "asgd"},
        {"optimiser": "rprop", "lr": 1e-3},
        {"lr_strategy": "reduce_on_plateau", "lr_factor": 0.5, "lr_patience": 0},
        {"lr_strategy": "multiplicative", "lr_formula": "0.9"},
    ],
    ids=lambda flags: next(value for name, value in flags.items() if name in ("optimiser", "lr_strategy")),
)
def test_three_and_three_are_six(flags, tiny, sop_tree, tmp_path):
    """Through the script, which stops and goes on."""
    flags = {"loss_name": "softmax", "lr": 0.05, "test_iter_step": 1, "save_iter_step": 3, **flags}
    run("train_elem", train_flags(sop_tree, tmp_path / "whole", **flags, total_iter_num=6))
    run("train_elem", train_flags(sop_tree, tmp_path / "parts", **flags))
    longer = ["--total_iter_num=6", "--allow_changed=total_iter_num"]
    run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", *longer])
    files = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")]
    for name, value in files[0]["model"].items():
        assert torch.equal(value, files[1]["model"][name]), name
    assert files[0]["plateau"] == files[1]["plateau"]
    lines = [read_metrics(tmp_path / name) for name in ("whole", "parts")]
    rates = [[line["lr"] for line in own if line["group"] == "train"] for own in lines]
    assert rates[0] == rates[1]
    if flags.get("lr_strategy") == "reduce_on_plateau":
        tests = [line["recall@1"] for line in lines[0] if line["group"] == "test"]
        assert files[0]["plateau"]["reductions"] > 0 and min(rates[0]) < 0.05 and len(tests) == 6
    assert read_json(tmp_path / "whole" / "result.json")["step"] == 6


def test_lbfgs_learns_and_refuses_fp16(tiny, sop_tree, tmp_path):
    flags = {"loss_name": "softmax", "optimiser": "lbfgs", "lr": 0.02, "weight_decay": 0}
    run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if line["group"] == "train"]
    assert len(losses) == 3 and all(loss == loss for loss in losses)
    with pytest.raises(InputError, match="fp16"):
        run("train_elem", train_flags(sop_tree, tmp_path / "half", **flags, precision="fp16"))
    assert not (tmp_path / "half").exists()
