"""Batches of labels that are close to each other, as a training has them: looked for, refreshed, gone on with."""

import numpy as np
import pytest
import torch
from processes import run_in_ranks
from runs import run, train_flags
from sampling import make_sampler
from test_resume import assert_bit_equal

from core.errors import InputError
from data.samplers import nearest_labels
from engine import neighbours
from engine.checkpoint import Progress
from engine.neighbours import NeighbourBatches

LABELS = np.repeat(np.arange(10), 3)


def slow_nearest(points, count, lookalike):
    """As nearest_labels, by a sort of each row."""
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    table = []
    for code, row in enumerate(units @ units.T):
        others = [other for other in range(len(units)) if other != code]
        others.sort(key=lambda other: (row[other] > lookalike < 1, -row[other]))
        table.append(others[:count])
    return table


@pytest.mark.parametrize("count", [1, 4, 19])
@pytest.mark.parametrize("lookalike", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("block", [1, 45, 2**24])
def test_nearest_labels(monkeypatch, count, lookalike, block):
    monkeypatch.setattr("data.samplers.neighbours.BLOCK", block)
    points = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert nearest_labels(points, count, lookalike).tolist() == slow_nearest(points, count, lookalike)


def test_a_label_at_the_origin_is_close_to_nobody():
    points = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]] * np.float32([[1], [1e-30], [3], [0]])
    assert nearest_labels(points, 1)[:2].tolist() == [[1], [0]]


@pytest.mark.parametrize("nearest, labels_in_batch", [(2, 2), (2, 6), (5, 10), (10, 10), (3, 9)])
def test_a_batch_is_groups_of_the_nearest(nearest, labels_in_batch):
    sampler = make_sampler("neighbours", LABELS, 2 * labels_in_batch, nearest=nearest)
    groups = labels_in_batch // nearest
    assert len(sampler) == 10 // groups
    for number in range(3):
        seeds = []
        for batch in sampler.epoch(number):
            codes = LABELS[batch].reshape(-1, 2)
            assert (codes[:, 0] == codes[:, 1]).all()
            codes = codes[:, 0].reshape(groups, nearest)
            assert len(set(codes.ravel())) == labels_in_batch
            taken = set(codes[:, 0])
            for seed, *group in codes.tolist():
                free = [code for code in sampler.neighbours[seed].tolist() if code not in taken]
                assert group == free[: nearest - 1]
                taken.update(group)
            seeds += codes[:, 0].tolist()
        assert len(set(seeds)) == len(seeds) == len(sampler) * groups


class Loader:
    """Batches of a sampler, as they are, some of them asked for ahead of time."""

    def __init__(self, sampler, ahead):
        self.sampler = sampler
        self.ahead = ahead

    def __iter__(self):
        waiting = []
        for samples in self.sampler:
            waiting.append([sample.index for sample in samples])
            if len(waiting) > self.ahead:
                yield waiting.pop(0)


def stream(steps, refresh_steps, ahead=0, start=0, table=None):
    """Batches of a training in which the labels' points turn with every step, and the table at its end."""
    sampler = make_sampler("neighbours", LABELS, 8, refresh_steps=refresh_steps)
    sampler.neighbours = None if table is None else table.numpy()
    progress = Progress(start=start, step=start, neighbours=table)
    asked = []

    def points():
        asked.append(progress.step)
        return torch.randn(10, 3, generator=torch.Generator().manual_seed(progress.step))

    batches = []
    for batch in NeighbourBatches(Loader(sampler, ahead), sampler, progress, points):
        batches.append(batch)
        progress.step += 1
        if progress.step == steps:
            return batches, progress.neighbours, asked


@pytest.mark.parametrize("refresh_steps", [0, 1, 2, 7])
@pytest.mark.parametrize("ahead", [1, 6])
def test_what_is_loaded_ahead_is_of_the_table_of_its_step(refresh_steps, ahead):
    whole, _, asked = stream(20, refresh_steps)
    assert asked == (list(range(0, 20, refresh_steps)) if refresh_steps else [0])
    assert stream(20, refresh_steps, ahead)[0] == whole
    for step in (1, 6, 7, 8, 14):
        first, table, _ = stream(step, refresh_steps, ahead)
        assert first == whole[:step]
        assert stream(20, refresh_steps, ahead, step, table)[0] == whole[step:]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("refresh_steps, workers", [(0, 0), (2, 0), (2, 2), (3, 0)])
def test_three_and_three_are_six(sop_tree, tmp_path, refresh_steps, workers):
    def train(name, steps, **flags):
        flags = {"lr": 0.05, "save_iter_step": 3, "test_iter_step": 6, "samples_each_class": 3, **flags}
        flags |= {"sampler": "neighbours", "nearest": 2, "refresh_steps": refresh_steps, "train_batch_size": 12}
        line = train_flags(sop_tree, tmp_path / name, loss_name="eml", total_iter_num=steps, **flags)
        return run("train_pair", line)

    printed = train("whole", 6)
    assert printed.count("neighbours of 10 labels looked for") == (6 // refresh_steps if refresh_steps else 1)
    train("parts", 3, num_workers=workers)
    line = [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=6", "--allow_changed=total_iter_num"]
    run("train_pair", line)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for what in ("model", "optimiser", "neighbours", "rng"):
        assert_bit_equal(parts[what], whole[what])
    assert whole["neighbours"].shape == (10, 3)


def neighbours_of_run(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)["neighbours"].tolist()


@pytest.mark.usefixtures("tiny")
def test_class_weights_are_the_losss_own_or_those_of_the_run_before(sop_tree, tmp_path):
    flags = {"sampler": "neighbours", "nearest": 3, "closeness": "weights", "total_iter_num": 4, "lr": 0.5}
    run("train_elem", train_flags(sop_tree, tmp_path / "first", **flags, refresh_steps=2, save_iter_step=2))
    state = torch.load(tmp_path / "first" / "step_2.pt", weights_only=True)
    weights = state["loss"]["weight"].numpy()
    assert neighbours_of_run(tmp_path / "first") == nearest_labels(weights, 2).tolist()

    first = {"pretrained_model": tmp_path / "first", "loss_name": "eml"}
    run("train_pair", train_flags(sop_tree, tmp_path / "second", **flags, **first))
    weights = torch.load(tmp_path / "first" / "last.pt", weights_only=True)["loss"]["weight"].numpy()
    assert neighbours_of_run(tmp_path / "second") == nearest_labels(weights, 2).tolist()
    kept = {**flags, **first, "keep_classes": 0.5, "refresh_steps": 2, "save_iter_step": 2}
    run("train_pair", train_flags(sop_tree, tmp_path / "kept", **kept))
    state = torch.load(tmp_path / "kept" / "step_2.pt", weights_only=True)
    weights = state["loss"]["classes.weight"].numpy()
    assert neighbours_of_run(tmp_path / "kept") == nearest_labels(weights, 2).tolist()
    with pytest.raises(InputError, match="--test_loss fills batches from the test list: which of its labels are neigh"):
        run("train_pair", train_flags(sop_tree, tmp_path / "tested", **flags, **first, test_loss=True))
    with pytest.raises(InputError, match="first was trained on other labels; take --closeness=means"):
        run("train_pair", train_flags(sop_tree, tmp_path / "third", **flags, **first, val_classes=3))


@pytest.mark.usefixtures("tiny")
def test_images_that_cannot_be_read_do_not_count(sop_copy, tmp_path):
    for path in (*sop_copy.glob("*/7_*.jpg"), *sop_copy.glob("*/2_0.jpg")):
        path.write_bytes(b"")
    flags = {"sampler": "neighbours", "nearest": 3, "loss_name": "eml", "on_bad_image": "skip"}
    printed = run("train_pair", train_flags(sop_copy, tmp_path / "run", **flags))
    assert printed.count("; skipped") == 4
    model = tmp_path / "run"
    assert torch.load(model / "last.pt", weights_only=True)["neighbours"].shape == (10, 2)


@pytest.mark.parametrize(
    "table",
    [
        None,
        "a text",
        torch.zeros(10, 3),
        torch.zeros(10, 4, dtype=torch.int64),
        torch.full((10, 3), 10),
        -torch.ones(1),
    ],
)
def test_a_table_of_other_batches_is_not_taken(table):
    sampler = make_sampler("neighbours", LABELS, 8)
    assert not neighbours._is_table_of(table, sampler)
    assert neighbours._is_table_of(torch.from_numpy(sampler.neighbours), sampler)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_two_ranks_have_the_neighbours_of_one(sop_tree, tmp_path):
    flags = {"loss_name": "eml", "sampler": "neighbours", "nearest": 2, "refresh_steps": 2, "train_batch_size": 12}
    flags |= {"total_iter_num": 5, "lr": 0.05, "freeze_bn": True, "precision": "fp32", "test_batch_size": 4}
    run("train_pair", train_flags(sop_tree, tmp_path / "alone", **flags))
    printed = run_in_ranks(2, "train_pair", *train_flags(sop_tree, tmp_path / "both", **flags))
    assert printed.count("looked for") == 3
    alone, both = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("alone", "both"))
    assert torch.equal(alone["neighbours"], both["neighbours"])
