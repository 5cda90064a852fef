"""What a run hands on in place of its last step's weights: moving averages, and points between first and last."""

import copy

import pytest
import torch
from runs import read_json, run, train_flags
from safetensors.torch import load_file
from test_backward import Net
from test_resume import assert_bit_equal
from tolerances import assert_within, gamma
from torch import nn

from core.errors import InputError
from engine.averaging import Averaging, build_averaging
from engine.objective import Objective

pytestmark = pytest.mark.usefixtures("tiny")


def objective():
    torch.manual_seed(0)
    return Objective(Net(), nn.Linear(4, 3)).double()


def move(objective, seed):
    """Other weights, and BatchNorm has seen another batch."""
    torch.manual_seed(seed)
    for parameter in objective.parameters():
        parameter.data.normal_()
    objective.model(torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8))
    return copy.deepcopy(objective.state_dict())


def test_the_average_is_the_formula_for_weights_and_statistics():
    learned = objective()
    expected = copy.deepcopy(learned.state_dict())
    averaging = Averaging(learned, ema=0.2)
    for step in range(5):
        now = move(learned, step)
        averaging.update()
        decay = min(0.2, (1 + step) / (10 + step))
        for name, value in expected.items():
            expected[name] = decay * value + (1 - decay) * now[name] if value.is_floating_point() else now[name]
    network = averaging.network(is_last=False)
    assert decay == 0.2 and network is not learned.model
    for name, value in network.state_dict().items():
        own = expected[f"model.{name}"]
        assert_within(value, own, gamma(5 * 6) * (own.abs().max().item() + 5))
    state = averaging.into_state({"model": "trained", "loss": "trained"}, is_last=True)
    assert_within(state["loss"]["weight"], expected["loss.weight"], gamma(5 * 6) * 10)
    assert state["model"]["layers.1.num_batches_tracked"] == 5
    assert torch.equal(learned.state_dict()["loss.weight"], now["loss.weight"])


def test_between_first_and_last():
    learned = objective()
    first = copy.deepcopy(learned.model.state_dict())
    averaging = Averaging(learned, interpolate=0.25)
    last = move(learned, 1)
    averaging.update()
    for is_last in (False, True):
        for name, value in averaging.network(is_last).state_dict().items():
            own = last[f"model.{name}"]
            if is_last and value.is_floating_point():
                own = 0.75 * first[name] + 0.25 * own
            assert_within(value, own, gamma(6) * 10)
    handed_on = averaging.into_state({"model": None, "loss": None}, is_last=True)
    assert torch.equal(handed_on["loss"]["weight"], last["loss.weight"])  # class weights did not begin anywhere


def test_what_cannot_be_is_said():
    learned = objective()
    assert build_averaging(learned, None) is None
    with pytest.raises(InputError, match="interpolate is 0.5, but without --pretrained_model the first weights are"):
        build_averaging(learned, None, interpolate=0.5)
    learned.loss.is_sharded = True
    with pytest.raises(InputError, match="--ema and --interpolate do not go with --shard_classes"):
        build_averaging(learned, None, ema=0.9)


@pytest.fixture
def train(sop_tree, finished_run, tmp_path):
    """Train to `steps` from the stage 1 run in the folder `name`; returns the folder."""

    def call(name, steps, script="train_pair", **flags):
        common = {"pretrained_model": finished_run, "lr": 0.05, "lr_strategy": "constant", "save_iter_step": 3}
        run(script, train_flags(sop_tree, tmp_path / name, total_iter_num=steps, **{**common, **flags}))
        return tmp_path / name

    return call


def state_of(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def embed(sop_tree, source, output):
    import numpy as np

    line = [f"--data_dir={sop_tree}", f"--pretrained_model={source}", f"--output={output}"]
    run("infer", [*line, "--use_gpu=False", "--num_workers=0", "--precision=fp32"])
    return np.load(output)["embeddings"]


@pytest.mark.parametrize(
    "script, flags",
    [
        ("train_pair", {"loss_name": "eml", "ema": 0.9}),
        ("train_pair", {"loss_name": "eml", "ema": 0.9, "interpolate": 0.5}),
        ("train_elem", {"loss_name": "arcmargin", "ema": 0.9, "optimiser": "adamw"}),
    ],
)
def test_three_and_three_are_six(train, script, flags):
    whole, parts = train("whole", 6, script, **flags), train("parts", 3, script, **flags)
    run(script, [f"--checkpoint={parts}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    six, found = state_of(whole), state_of(parts)
    for name in ("model", "loss", "averaging", "optimiser", "step", "rng"):
        assert_bit_equal(found[name], six[name])
    assert read_json(parts / "result.json")["recall"] == read_json(whole / "result.json")["recall"]


def test_the_average_is_what_is_tested_saved_and_exported(train, sop_tree, tmp_path):
    plain, folder = train("plain", 4), train("average", 4, ema=0.9)
    trained, state = state_of(plain), state_of(folder)
    assert_bit_equal(state["averaging"]["model"], trained["model"])
    assert not torch.equal(state["model"]["backbone.conv1.weight"], trained["model"]["backbone.conv1.weight"])
    assert not torch.equal(state["model"]["backbone.bn1.running_mean"], trained["model"]["backbone.bn1.running_mean"])
    assert state["averaging"]["updates"] == 4
    exported = load_file(folder / "model.safetensors")
    for name, value in state["model"].items():
        assert torch.equal(exported[name], value)
    # The recall of the last test is that of the network that the run gives to others.
    printed = run(
        "eval", [f"--data_dir={sop_tree}", f"--pretrained_model={folder}", "--use_gpu=False", "--num_workers=0"]
    )
    assert f"test_recall {read_json(folder / 'result.json')['recall']['1']:.5f}" in printed


def test_half_of_the_way_back(train, finished_run):
    plain, folder = train("plain", 4), train("half", 4, interpolate=0.5)
    first, trained, state = state_of(finished_run)["model"], state_of(plain)["model"], state_of(folder)
    assert_bit_equal(state["averaging"]["model"], trained)
    for name, value in state["model"].items():
        if value.is_floating_point():
            assert torch.equal(value, torch.lerp(first[name], trained[name], 0.5))
    # A step on the way is as it was trained.
    assert_bit_equal(state_of(folder, "step_3.pt")["model"], dict(state_of(plain, "step_3.pt")["model"]))


def test_a_run_that_averaged_nothing_goes_on(train):
    folder = train("run", 3)
    line = [f"--checkpoint={folder}", "--total_iter_num=5"]
    with pytest.raises(InputError, match="the weights that it began with, for --interpolate, are not in it"):
        run("train_pair", [*line, "--interpolate=0.5", "--allow_changed=total_iter_num,interpolate"])
    run("train_pair", [*line, "--ema=0.9", "--allow_changed=total_iter_num,ema"])
    assert state_of(folder)["averaging"]["updates"] == 2
    # And without it again: what goes on are the trained weights.
    run("train_pair", [f"--checkpoint={folder}", "--total_iter_num=6", "--ema=0", "--allow_changed=total_iter_num,ema"])
    whole = train("whole", 6)
    assert_bit_equal(state_of(folder)["model"], state_of(whole)["model"])
