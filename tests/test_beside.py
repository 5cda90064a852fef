"""All that stands beside a pair loss at once: a miner, a memory, a filter, stage 1's classes, averages."""

import pytest
import torch
from runs import read_metrics, run, train_flags
from test_resume import assert_bit_equal

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    "loss, miner", [("multi_similarity", "multi_similarity"), ("triplet_margin", "hard"), ("contrastive", "none")]
)
def test_three_and_three_are_six_with_all_of_it(loss, miner, sop_tree, finished_run, tmp_path):
    flags = {"loss_name": loss, "miner": miner, "pretrained_model": finished_run, "lr": 0.05, "save_iter_step": 3}
    flags |= {"memory_size": 20, "memory_fill": True, "skip_lookalikes": 0.95, "keep_classes": 0.1, "micro_batch": 4}
    flags |= {"ema": 0.9, "interpolate": 0.5, "lr_strategy": "constant"}
    for name, steps in (("whole", 6), ("parts", 3)):
        run("train_pair", train_flags(sop_tree, tmp_path / name, total_iter_num=steps, **flags))
    go_on = [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=6", "--allow_changed=total_iter_num"]
    run("train_pair", go_on)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for name in ("model", "loss", "averaging", "memory", "optimiser", "rng"):
        assert_bit_equal(parts[name], whole[name])
    assert {"pair_loss", "class_loss", "active_share", "acc1"} <= read_metrics(tmp_path / "whole")[0].keys()
