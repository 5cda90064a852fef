"""Several ranks are one: the same weights, figures and embeddings, one folder; and what if one of them is lost."""

import itertools
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from unittest import mock

import numpy as np
import pytest
import torch
from processes import run_in_ranks, torchrun
from runs import read_json, read_metrics, run, tiny_backbone, tiny_net, train_flags
from tolerances import assert_within, gamma, longest_sum, rattle, sensitivity
from torch import nn

import distributed
from benchmarks import ranks as bench
from config.script import run_script
from core.errors import InputError
from data.samplers import InOrder, PKSampler, RankBatches
from distributed import group, sync_batchnorm
from embeddings.rows import KeyedRows
from engine.objective import Objective
from losses import LOSSES


def flags_of(data_dir, run_dir, **flags):
    """Six steps of seven images, which no number of ranks divides, saved and tested after three."""
    common = {"train_batch_size": 7, "total_iter_num": 6, "test_iter_step": 3, "save_iter_step": 3}
    common |= {"lr": 0.05, "lr_strategy": "constant", "sync_bn": True, "test_batch_size": 4, "precision": "fp32"}
    return train_flags(data_dir, run_dir, **{**common, **flags})


def weights(run_dir, name="last.pt"):
    state = torch.load(run_dir / name, weights_only=True)
    return {**state["model"], **{f"loss.{name}": value for name, value in state["loss"].items()}}


NUDGE = 2.0**-12  # far above float32's rounding, far below 1
# The longest sums of a layer of Tiny: BatchNorm's mean and after it the variance, over 7 x 7 places of 12 images.
LAYER_ERROR = gamma(2 * 12 * 7 * 7 + 16, torch.float32)


def nudged_net(weights):
    """Tiny, each layer of which is off by NUDGE in every step."""
    net = tiny_net(weights)
    rattle(net, NUDGE)
    return net


def moves(data_dir, folder, script="train_elem", **flags):
    """The folder of the run of one process whose layers are off by NUDGE: what a change of NUDGE makes of the run."""
    with mock.patch("runs.tiny_net", nudged_net), tiny_backbone():
        run(script, flags_of(data_dir, folder, **flags))
    return folder


def assert_near(left, right, moved):
    """Weights (or an optimiser's state) of two runs that do the same in another order; moved: of the run by `moves`."""
    for name, value in left.items():
        slack = (moved[name].double() - right[name].double()).abs().max().item() / NUDGE * LAYER_ERROR
        size = right[name].double().abs().max().item() * gamma(1, torch.float32)  # each is stored in float32
        assert_within(value, right[name], slack + size)


@pytest.fixture(scope="module")
def moved(sop_tree, tmp_path_factory):
    """The run of `alone`, moved."""
    return moves(sop_tree, tmp_path_factory.mktemp("moved") / "run")


@pytest.fixture(scope="module")
def alone(sop_tree, tmp_path_factory):
    """The run of one process that those of several are held against."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with tiny_backbone():
        run("train_elem", flags_of(sop_tree, folder))
    return folder


@pytest.fixture(scope="module")
def together(sop_tree, tmp_path_factory):
    """The same run on two ranks, and what they printed."""
    folder = tmp_path_factory.mktemp("together") / "run"
    return folder, run_in_ranks(2, "train_elem", *flags_of(sop_tree, folder))


@pytest.fixture(scope="module")
def of_one_rank():
    """{(loss, setting): weights after three steps}."""
    return bench.train_all(LOSSES.names(), bench.SETTINGS)


@pytest.fixture(scope="module")
def condition(of_one_rank):
    """{(loss, setting): the largest move of a weight in three steps, for a relative change of 1 in every layer}."""
    relative = 2.0**-16  # weights are drawn in float32

    def made(*parts, **options):
        objective = Objective(*parts, **options)
        rattle(objective, relative)
        return objective

    with mock.patch.object(bench, "Objective", made):
        moved = bench.train_all(LOSSES.names(), bench.SETTINGS)
    return {pair: bench.difference(moved[pair], weights) / relative for pair, weights in of_one_rank.items()}


@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_weights_after_three_steps_are_those_of_one_rank(number, of_one_rank, condition):
    """Losses, micro-batches, clipping, BatchNorm's statistics; 13 to 15 images, cut through pairs and triplets."""
    found = bench.table(LOSSES.names(), list(bench.SETTINGS), [number], of_one_rank)
    worst = {(name, setting): own[setting][number] for name, own in found.items() for setting in own}
    only_some = 2 * len(LOSSES.names(stage="elem")) + len(LOSSES.names(memory=True))
    assert len(worst) == 3 * len(LOSSES.names()) + only_some
    # The longest sums of a layer: BatchNorm's mean and after it the variance, over 10 x 10 places of 15 images.
    error = gamma(2 * 15 * 10 * 10 + 16)
    allowed = [error * own for own in condition.values()]
    assert_within([worst[pair] for pair in condition], 0, allowed)
    assert min(own[setting]["moved"] for own in found.values() for setting in own) > 1e-4


def test_the_table_sees_a_wrong_sum(monkeypatch):
    """The figure that the test above bounds is far off when a gradient is half of what it should be."""
    right = bench.train("softmax", shard_classes=True)  # which leaves clipping out, and that would hide it
    backward = bench.backward

    def halved(learner, *batch):
        backward(learner, *batch)
        for parameter in learner.objective.parameters():
            parameter.grad /= 2

    monkeypatch.setattr(bench, "backward", halved)
    assert bench.difference(right, bench.train("softmax", shard_classes=True)) > 1e-4


def collectives():
    """What each of three ranks sees of the functions that all call together."""
    rank = distributed.rank()
    own = torch.arange(2.0 * rank, dtype=torch.bfloat16).view(rank, 2) + rank
    own.requires_grad_()
    rows = distributed.all_gather(own)
    (rows * torch.arange(len(rows))[:, None]).sum().backward()
    number = torch.tensor([rank + 1.0], requires_grad=True)
    summed = distributed.all_reduce_sum(number)
    ((rank + 1) * summed.sum()).backward()
    tensors = [torch.full((2, 3), float(rank)).T, torch.tensor(rank)]
    distributed.broadcast_tensors(tensors)
    layer = nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
    layer.weight.grad = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last) * (rank + 1)
    distributed.all_reduce_gradients(layer.parameters(), over=3)
    pairs = [(torch.tensor([10 * rank + turn]), torch.full((1, 2), 1.0 * rank)) for turn in range([2, 2, 1][rank])]
    dealt = list(distributed.gather_batches(iter(pairs)))
    return {
        "rows": rows.detach(),
        "slope": own.grad,
        "sum": summed.detach(),
        "sum slope": number.grad,
        "copied": tensors,
        "conv": layer.weight.grad,
        "dealt": [(numbers.tolist(), rows.tolist()) for numbers, rows in dealt],
        "said": distributed.broadcast_value(7 if rank == 0 else -1),
    }


def test_what_ranks_do_together():
    seen = bench.in_ranks(3, collectives)
    for rank, own in enumerate(seen):
        assert own["rows"].tolist() == [[1, 2], [2, 3], [4, 5]] and own["rows"].dtype == torch.bfloat16
        assert own["slope"].tolist() == [[], [[0, 0]], [[1, 1], [2, 2]]][rank]
        assert own["sum"].item() == 6 and own["sum slope"].item() == 1 + 2 + 3
        assert own["copied"][0].eq(0).all() and own["copied"][0].shape == (3, 2) and own["copied"][1] == 0
        assert torch.equal(own["conv"], torch.arange(24.0).view(2, 3, 2, 2) * 2)
        assert own["said"] == 7
    assert [numbers for numbers, _ in seen[0]["dealt"]] == [[0], [10], [20], [1], [11]]
    assert [rows for _, rows in seen[0]["dealt"]] == [[[rank, rank]] for rank in (0, 1, 2, 0, 1)]
    assert seen[1]["dealt"] == seen[2]["dealt"] == []


def test_a_shard_is_a_part_of_the_batch_that_one_rank_would_load():
    sampler = PKSampler(np.arange(40) // 4, 14, samples_each_class=2).starting(seed=3)
    whole = list(itertools.islice(sampler, 4))
    for number in (2, 3, 5):
        parts = [list(itertools.islice(RankBatches(sampler, rank, number), 4)) for rank in range(number)]
        assert [sum(batches, []) for batches in zip(*parts)] == whole
        sizes = {len(batch) for batches in parts for batch in batches}
        assert max(sizes) - min(sizes) <= 1
    assert len(RankBatches(sampler, 0, 2)) == len(sampler)
    with pytest.raises(InputError, match="train_batch_size 14 leaves some of 15 ranks without an image"):
        RankBatches(sampler, 0, 15)


def test_evaluation_cuts_between_batches():
    whole = list(InOrder(23, 4))
    for number in (1, 2, 3, 9):
        parts = [InOrder(23, 4, rank, number) for rank in range(number)]
        dealt = sorted(sum(map(list, parts), []))
        assert dealt == whole and [len(list(part)) for part in parts] == list(map(len, parts))
        assert len(parts[0]) == -(-6 // number)


def test_synchronised_layers_hold_what_the_layers_held():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4).requires_grad_(False)))
    net[1].running_mean.uniform_()
    images, state = torch.randn(5, 3, 2, 2), {name: value.clone() for name, value in net.state_dict().items()}
    expected, parameters = net.eval()(images), list(net.parameters())
    sync_batchnorm.synchronise(net)
    assert isinstance(net[1], sync_batchnorm.SyncBatchNorm) and not isinstance(net[2][0], sync_batchnorm.SyncBatchNorm)
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert net.state_dict().keys() == state.keys()
    assert torch.equal(net(images), expected)
    net.load_state_dict(state)


def test_synchronised_layers_keep_timms_activation():
    pytest.importorskip("timm", reason="EfficientNetLite0 needs requirements/demo.txt")
    from models import Embedder

    torch.manual_seed(0)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    model = Embedder("EfficientNetLite0").double().train()

    def slopes():
        model.zero_grad()
        model(images).square().mean().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    expected, condition = slopes(), sensitivity(model, slopes)
    sync_batchnorm.synchronise(model)
    found = slopes()
    assert sum(isinstance(layer, sync_batchnorm.SyncBatchNorm) for layer in model.modules()) > 40
    # A BatchNorm's mean and variance are sums over up to 16 x 16 places of 4 images.
    error = gamma(longest_sum(model) + 2 * 4 * 16 * 16)
    for name, slope in expected.items():
        assert_within(found[name], slope, error * condition[name].max())


def test_an_unknown_batchnorm_is_refused():
    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match="layers Odd"):
        sync_batchnorm.synchronise(nn.Sequential(Odd(3)))


def test_synchronised_layers_take_half_precision():
    torch.manual_seed(0)
    maps = 100 + torch.randn(6, 3, 5, 5)
    plain, synced = nn.BatchNorm2d(3), sync_batchnorm.SyncBatchNorm(nn.BatchNorm2d(3))
    found = synced(maps.bfloat16())
    assert found.dtype == torch.bfloat16
    rows = maps.bfloat16().float()
    expected, values = plain(rows), 6 * 5 * 5
    # In float32 a mean of so many values is off by gamma(n) of their mean size, which is large beside the deviation of
    # 1; then the output is rounded to bfloat16.
    shift = gamma(values + 8, torch.float32) * 2 * rows.abs().max() / rows.std(dim=(0, 2, 3), correction=0).min()
    assert_within(found, expected, shift + gamma(1, torch.bfloat16) * (expected.abs() + shift))
    # The mean of squared differences is off by gamma(n + 4) of itself and the mean's error squared (section 1.9), on
    # either side; the running one, around 1, takes a tenth of it, and is rounded itself.
    squares = gamma(values + 4, torch.float32) * plain.running_var + (gamma(values, torch.float32) * rows.max()) ** 2
    assert_within(synced.running_var, plain.running_var, 2 * squares / 10 + gamma(6, torch.float32))


def test_two_ranks_train_as_one_process_does(alone, together, moved):
    folder, printed = together
    assert_near(weights(folder, "step_3.pt"), weights(alone, "step_3.pt"), weights(moved, "step_3.pt"))
    assert_near(weights(folder), weights(alone), weights(moved))
    lines = zip(read_metrics(folder), read_metrics(alone), read_metrics(moved), strict=True)
    for own, expected, off in lines:
        assert own.keys() == expected.keys() and (own["step"], own["group"]) == (expected["step"], expected["group"])
        timeless = [name for name in own if name not in ("time", "images_per_second", "group")]
        found, expected, off = ([line[name] for name in timeless] for line in (own, expected, off))
        slack = [abs(one - other) / NUDGE * LAYER_ERROR for one, other in zip(off, expected)]
        assert_within(found, expected, np.array(slack) + gamma(4, torch.float32) * np.abs(expected))
    assert read_json(folder / "config.json")["ranks"] == 2


def test_one_rank_writes_and_prints(alone, together):
    folder, printed = together

    def kinds(folder):
        return sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name)

    assert kinds(folder) == kinds(alone)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert printed.count("trainbatch 6, lr") == 1 and printed.count("Recall@1") == 1


@pytest.mark.slow
def test_what_stands_beside_a_pair_loss_is_the_same_on_two_ranks(alone, sop_tree, tmp_path):
    """A memory, filled and then written over; stage 1's classes; the average of the weights."""
    flags = {"loss_name": "eml", "pretrained_model": alone, "train_batch_size": 6, "total_iter_num": 3}
    flags |= {"memory_size": 25, "memory_fill": True, "keep_classes": 0.1, "ema": 0.9, "interpolate": 0.5}
    with tiny_backbone():
        run("train_pair", flags_of(sop_tree, tmp_path / "one", **flags))
    moved = moves(sop_tree, tmp_path / "moved", "train_pair", **flags)
    run_in_ranks(2, "train_pair", *flags_of(sop_tree, tmp_path / "two", **flags))

    def state_of(folder):
        state = torch.load(folder / "last.pt", weights_only=True)
        numbers = {f"trained.{name}": value for name, value in state["averaging"]["model"].items()}
        numbers |= {**weights(folder), "memory": state["memory"]["embeddings"]}
        return numbers, state["memory"]

    found, memory = state_of(tmp_path / "two")
    expected, expected_memory = state_of(tmp_path / "one")
    assert_near(found, expected, state_of(moved)[0])
    assert memory["images"].tolist() == expected_memory["images"].tolist() and memory["next"] == 18
    assert memory["labels"].tolist() == expected_memory["labels"].tolist()


def test_a_run_goes_on_with_another_number_of_ranks(alone, together, moved, tmp_path):
    folder = shutil.copytree(together[0], tmp_path / "run")
    with tiny_backbone():
        run("train_elem", [f"--checkpoint={folder / 'step_3.pt'}"])
    assert_near(weights(folder), weights(alone), weights(moved))
    assert read_json(folder / "config.json")["ranks"] == 1


@pytest.mark.slow
def test_a_run_in_parts_is_saved_whole(sop_tree, tmp_path):
    """On two ranks, then on one that has all the classes, then on three again: as one process that was never stopped."""
    flags = {"loss_name": "arcmargin", "optimiser": "adamw", "lr": 0.01, "shard_classes": True}
    # adamw makes steps of the rounding in a bias before BatchNorm
    flags |= {"freeze_bn": True, "sync_bn": False, "clip_norm": 0.5}
    with tiny_backbone():
        run("train_elem", flags_of(sop_tree, tmp_path / "whole", **flags))
    moved = moves(sop_tree, tmp_path / "moved", **flags)
    run_in_ranks(2, "train_elem", *flags_of(sop_tree, tmp_path / "parts", **flags, total_iter_num=3))
    assert_near(weights(tmp_path / "parts"), weights(tmp_path / "whole", "step_3.pt"), weights(moved, "step_3.pt"))
    goes_on = [f"--checkpoint={tmp_path / 'parts'}", "--allow_changed=total_iter_num"]
    with tiny_backbone():
        run("train_elem", [*goes_on, "--total_iter_num=4"])
    run_in_ranks(3, "train_elem", *goes_on, "--total_iter_num=6")
    assert_near(weights(tmp_path / "parts"), weights(tmp_path / "whole"), weights(moved))
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("parts", "whole", "moved")]
    kept = [state["optimiser"]["state"] for state in states]
    assert kept[0].keys() == kept[1].keys()
    for number, values in kept[1].items():
        assert_near(values, kept[0][number], kept[2][number])


@pytest.mark.slow
def test_torchrun_goes_on_when_a_rank_was_killed(together, sop_tree, tmp_path):
    folder, _ = together
    done = torchrun(2, "train_elem", *flags_of(sop_tree, tmp_path / "run"), restarts=1, LOST_RANK="1", LOST_STEP="5")
    assert done.returncode == 0, done.stderr
    assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr  # it was killed indeed
    found, expected = weights(tmp_path / "run"), weights(folder)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["group"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert done.stdout.count("trainbatch 3, lr") == 1 and done.stdout.count("trainbatch 4, lr") == 2


@pytest.mark.slow
def test_images_that_are_skipped_are_told_and_counted_on_all_ranks(sop_copy, tmp_path):
    for path in (*sop_copy.glob("*/7_*.jpg"), *sop_copy.glob("*/2_0.jpg")):
        path.write_bytes(b"")
    flags = {"on_bad_image": "skip", "total_iter_num": 12, "train_batch_size": 12, "freeze_bn": True}
    with tiny_backbone():
        run("train_elem", flags_of(sop_copy, tmp_path / "alone", **flags))
    moved = moves(sop_copy, tmp_path / "moved", **flags)
    printed = run_in_ranks(2, "train_elem", *flags_of(sop_copy, tmp_path / "both", **flags))
    assert_near(weights(tmp_path / "both"), weights(tmp_path / "alone"), weights(moved))
    assert [read_json(tmp_path / name / "result.json")["bad_images"] for name in ("alone", "both")] == [4, 4]
    assert set(re.findall(r"Ebay_train.txt:(\d+): .*; skipped$", printed, re.M)) == {"5", "20", "21", "22"}


def test_a_restart_before_the_first_checkpoint_begins_anew(sop_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "launch" / "attempt_0" / "0" / "error.json"))
    line = flags_of(sop_tree, tmp_path / "run", total_iter_num=1)
    with tiny_backbone():
        run("train_elem", line)
        first = weights(tmp_path / "run")
        for file in (tmp_path / "run").glob("*.pt"):
            file.unlink()
        run("train_elem", line)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "other" / "attempt_1" / "0" / "error.json"))
        with pytest.raises(InputError, match="already holds a run"):
            run("train_elem", line)
    assert all(torch.equal(first[name], value) for name, value in weights(tmp_path / "run").items())


@pytest.mark.slow
def test_evaluation_on_three_ranks_is_that_of_one(alone, sop_tree, tmp_path):
    line = [f"--pretrained_model={alone}", f"--data_dir={sop_tree}", "--batch_size=4", "--num_workers=0"]
    line += ["--use_gpu=False", "--metrics=recall@1,map@r"]
    results, vectors = [], []
    for name in ("one", "three"):
        own = [*line, f"--output_dir={tmp_path / name}", f"--save_embeddings={tmp_path / name}.npz"]
        if name == "one":
            with tiny_backbone():
                run("eval", own)
        else:
            assert run_in_ranks(3, "eval", *own).count("End test 30") == 1
        results.append(read_json(tmp_path / name / "result.json"))
        vectors.append(np.load(tmp_path / f"{name}.npz")["embeddings"])
    assert np.array_equal(*vectors)
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]


@pytest.mark.slow
def test_same_or_not_on_two_ranks_is_that_of_one(alone, sop_tree, tmp_path):
    """A threshold that is chosen on another list, which the ranks embed as well, what is unknown, and intervals."""
    pytest.importorskip("sklearn")
    line = [f"--pretrained_model={alone}", f"--data_dir={sop_tree}", "--batch_size=4", "--num_workers=0"]
    line += ["--use_gpu=False", "--verification=True", "--threshold_on=Ebay_train.txt", "--open_set=0.5"]
    line += ["--resamples=20", "--pairs=True", "--fmr=0.1"]
    one, two = tmp_path / "one", tmp_path / "two"
    with tiny_backbone():
        printed = run("eval", [*line, f"--output_dir={one}"])
    printed_by_two = run_in_ranks(2, "eval", *line, f"--output_dir={two}")
    results = [read_json(folder / "result.json") for folder in (one, two)]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1] and results[0]["verification"]["tar_at_far"]
    told = [line for line in printed.splitlines() if "TAR" in line or "threshold" in line or "unknown" in line]
    assert told and all(printed_by_two.count(line) == 1 for line in told)


@pytest.mark.slow
def test_inference_on_two_ranks_is_that_of_one(alone, sop_tree, tmp_path):
    """A file of embeddings that a stopped process had begun, byte for byte."""
    line = [f"--pretrained_model={alone}", f"--data_dir={sop_tree}", "--batch_size=4", "--num_workers=0"]
    line += ["--use_gpu=False"]
    with tiny_backbone():
        run("infer", [*line, "--output", tmp_path / "one.npz"])
        stop_after(3, [*line, "--output", tmp_path / "two.npz"])
    kept = (tmp_path / "two.npz.rows").stat().st_size
    printed = run_in_ranks(2, "infer", *line, "--continue", "--output", tmp_path / "two.npz")
    assert kept > 0 and printed.count("12 of 30 images are embedded already") == 1
    assert printed.count("30 images, 8 numbers each") == 1
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_flags_that_do_not_go_together(monkeypatch, sop_tree, tmp_path):
    line = flags_of(sop_tree, tmp_path / "run", sync_bn=True, micro_batch=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with tiny_backbone(), pytest.raises(InputError, match="--sync_bn makes no sense with --micro_batch"):
        run("train_elem", line)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_first_ranks_running_statistics_are_tested_with_and_saved(sop_tree, tmp_path):
    flags = {"sync_bn": False, "total_iter_num": 12, "test_iter_step": 12, "train_batch_size": 12}
    run_in_ranks(2, "train_elem", *flags_of(sop_tree, tmp_path / "run", **flags))
    line = [f"--pretrained_model={tmp_path / 'run'}", f"--data_dir={sop_tree}", "--num_workers=0", "--use_gpu=False"]
    with tiny_backbone():
        run("eval", [*line, "--metrics=recall@1,recall@5,recall@10"])
    tested = [read_json(path / "result.json")["recall"] for path in (tmp_path / "run", tmp_path / "run" / "eval")]
    assert tested[0] == tested[1]


def stop_after(batches, line):
    """infer.py that is interrupted when it has embedded so many batches."""
    append, left = KeyedRows.append, [batches]

    def counted(self, rows, keys):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, rows, keys)

    with mock.patch.object(KeyedRows, "append", counted), pytest.raises(KeyboardInterrupt):
        run("infer", line)


def lose(how, rank, port, file):
    """Of two ranks, the second leaves at its second turn, or does not come to it; the first says what it met."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    sys.argv = ["train_elem.py", how]
    group.STEP_SECONDS, group.ANSWER_SECONDS = 6, 1
    with open(file, "w") as sys.stderr:
        run_script(be_lost)


def be_lost(argv):
    distributed.init(torch.device("cpu"))
    distributed.all_gather(torch.ones(1, 1))
    if distributed.rank() == 1:
        if argv == ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    distributed.all_gather(torch.ones(1, 1))


@pytest.mark.slow
def test_a_lost_rank_is_named(tmp_path):
    """Without torchrun, which would end the others itself."""
    started = {}
    for how in ("killed", "frozen"):
        port = bench.free_port()
        start = multiprocessing.get_context("forkserver").Process
        started[how] = [start(target=lose, args=(how, rank, port, tmp_path / f"{how}{rank}")) for rank in range(2)]
    processes = list(itertools.chain(*started.values()))
    try:
        for process in processes:
            process.start()
        for how, (left, _) in started.items():
            left.join(timeout=50)
            printed = (tmp_path / f"{how}0").read_text()
            assert left.exitcode == 2 and "--checkpoint" in printed
            assert printed.splitlines()[-1].startswith("train_elem.py, rank 0: rank 1 of 2 did not go on (")
    finally:
        for process in processes:
            process.kill()
            process.join()
