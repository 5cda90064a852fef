"""Batches of labels that are close to each other, as a training has them: looked for, refreshed, gone on with."""

import numpy as np
import pytest
import torch
from runs import run, train_flags
from sampling import make_sampler
from test_ranks import torchrun
from test_resume import assert_bit_equal

from data.samplers import nearest_labels
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


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_two_ranks_have_the_neighbours_of_one(sop_tree, tmp_path):
    flags = {"loss_name": "eml", "sampler": "neighbours", "nearest": 2, "refresh_steps": 2, "train_batch_size": 12}
    flags |= {"total_iter_num": 5, "lr": 0.05, "freeze_bn": True, "precision": "fp32", "test_batch_size": 4}
    run("train_pair", train_flags(sop_tree, tmp_path / "alone", **flags))
    done = torchrun(2, "train_pair", *train_flags(sop_tree, tmp_path / "both", **flags))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("looked for") == 3
    alone, both = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("alone", "both"))
    assert torch.equal(alone["neighbours"], both["neighbours"])
