"""The lines that say where training goes wrong: said once, where it is so, and not otherwise."""

import json
import re
import shutil

import pytest
import torch
from runs import read_json, run, train_flags

from data.provenance import list_facts
from engine.health import FirstRecall, Health, first_recall
from reader import open_training
from retrieval.metrics.spread import spread_of

FLAGS = {"loss_name": "eml", "lr": 0.1, "train_batch_size": 6, "freeze_bn": False, "memory_size": 0}
SPREAD = torch.eye(4)


def test_recall_below_the_start_is_said_once():
    health = Health({**FLAGS, "keep_classes": 0.0}, FirstRecall("output/arc", 0.5))
    assert health.after_test(0.49, 1000, SPREAD) == []  # within two deviations of a share of 1,000: 0.032
    (sentence,) = health.after_test(0.46, 1000, SPREAD)
    expected = "Recall@1 is 46.00 %, below the 50.00 % of output/arc, from which it started; try a smaller --lr, "
    assert sentence == expected + "--keep_classes=0.1 or --freeze_bn=True"
    assert health.after_test(0.1, 1000, SPREAD) == []


def test_recall_below_the_test_before_is_said_where_the_start_is_unknown():
    health = Health(FLAGS)
    assert health.after_test(0.5, 1000, SPREAD) == [] and health.after_test(0.9, 1000, SPREAD) == []
    (sentence,) = health.after_test(0.6, 1000, SPREAD)
    assert sentence.startswith(
        "Recall@1 is 60.00 %, below the 90.00 % of the test before; try a smaller --lr or --free"
    )


@pytest.mark.parametrize("after", [SPREAD[:1] + 1e-3 * SPREAD, torch.zeros(4, 4), 1e-20 * SPREAD[:1].expand(4, 4)])
def test_embeddings_that_become_one_are_said(after):
    health = Health({**FLAGS, "loss_name": "triplet"})
    assert health.after_display({"loss": 0.3, "active_share": 0.5}, SPREAD) == []
    (sentence,) = health.after_display({"loss": 0.1, "active_share": 0.5}, after)
    assert re.match(
        r"the embeddings of a batch are nearly one: they spread by \S+, at first by 7.5e-01; try a", sentence
    )
    assert health.after_display({"loss": 0.1, "active_share": 0.5}, after) == []


def test_embeddings_that_are_close_from_the_first_are_no_collapse():
    """As those of a network with random weights are, whose features are positive."""
    health = Health({**FLAGS, "loss_name": "triplet"})
    close = SPREAD[:1] + 0.03 * SPREAD
    assert 1e-5 < spread_of(close) < 0.01
    assert health.after_display({"loss": 0.3}, close) == []
    assert health.after_display({"loss": 0.3}, SPREAD) == []


def test_a_test_says_that_its_embeddings_are_nearly_one_vector():
    health = Health(FLAGS)
    close = SPREAD[:1] + 0.01 * SPREAD
    assert health.after_test(0.5, 1000, SPREAD) == []
    assert health.after_test(0.5, 1000, torch.zeros(9)) == []  # distances of pairs, which point nowhere
    (sentence,) = health.after_test(0.5, 1000, close)
    assert sentence.startswith("the embeddings are nearly one vector, their mean cosine is 0.9999")
    assert health.after_test(0.5, 1000, close) == []


def test_emls_fixed_point_is_said():
    passing = {"loss": 1.0002, "negative_distance": 30.0, "active_share": 0.5}
    standing = {"loss": 1.0002, "negative_distance": 0.001, "active_share": 0.5}
    assert Health(FLAGS).after_display(passing, SPREAD) == []
    (sentence,) = Health(FLAGS).after_display(standing, SPREAD)
    assert sentence.startswith("eml stands at 1.0002: 1 is where all embeddings are one point; try a --feature_scale")
    assert Health({**FLAGS, "loss_name": "quadruplet"}).after_display(standing, SPREAD) == []
    # Wide features far from the origin: apart by more than nothing, and still in one direction.
    apart = {"loss": 1.00014, "negative_distance": 0.4}
    (sentence,) = Health(FLAGS).after_display(apart, SPREAD[:1] + 0.01 * SPREAD)
    assert sentence.startswith("eml stands at 1.0001")
    assert Health(FLAGS).after_display(apart, SPREAD) == []
    # Beside a class loss it is the part of the pairs that counts.
    assert Health(FLAGS).after_display({**standing, "loss": 2.0, "pair_loss": 1.0}, SPREAD) != []


def test_pairs_that_are_all_solved_are_said():
    solved, other = {"loss": 0.0, "active_share": 0.0}, {"loss": 0.1, "active_share": 0.1}
    health = Health({**FLAGS, "margin": 0.1, "loss_name": "triplet"})
    for figures in (*[solved] * 4, other, *[solved] * 4):
        assert health.after_display(figures, SPREAD) == []
    (sentence,) = health.after_display(solved, SPREAD)
    expected = (
        "no pair was active in the last 5 displays, so that nothing is learned; try a larger --margin or a larger"
    )
    assert sentence == f"{expected} --train_batch_size"
    assert health.after_display(solved, SPREAD) == []
    health = Health({**FLAGS, "miner": "none", "sampler": "pk"})
    said = [health.after_display(solved, SPREAD) for _ in range(5)]
    assert said[-1][0].endswith("try --miner=hard, --memory_size or a larger --train_batch_size")
    assert Health(FLAGS).after_display({"loss": 0.0}, SPREAD) == []  # class losses have no such share


def test_the_start_is_known_from_a_run_on_the_same_list(finished_run, sop_tree, tmp_path):
    data = {"data_dir": str(sop_tree), "test_list": "Ebay_test.txt"}
    facts = list_facts(open_training(train_list="Ebay_train.txt", **data).test)
    result = read_json(finished_run / "result.json")
    tested_on = result["tested_on"]
    for source in (finished_run, finished_run / "last.pt"):
        assert first_recall(str(source), tested_on, facts) == FirstRecall(str(source), result["recall"]["1"])
    for source in (None, "imagenet", str(finished_run / "best.pt"), str(tmp_path)):
        assert first_recall(source, tested_on, facts) is None
    assert first_recall(str(finished_run), "3 held-out labels", facts) is None
    assert first_recall(str(finished_run), tested_on, {**facts, "sha256": "0"}) is None
    odd = shutil.copytree(finished_run, tmp_path / "odd")
    for text in ("[]", "{", json.dumps({"recall": 3, "tested_on": tested_on})):
        (odd / "result.json").write_text(text)
        assert first_recall(str(odd), tested_on, facts) is None


def test_a_run_that_goes_wrong_says_so(finished_run, sop_tree, tmp_path):
    """From a stage 1 run that (says that it) had all right, and at a rate that drives the embeddings together."""
    start = shutil.copytree(finished_run, tmp_path / "start")
    result = read_json(start / "result.json")
    result["recall"]["1"] = 1.0
    (start / "result.json").write_text(json.dumps(result))
    flags = {"loss_name": "eml", "pretrained_model": start, "feature_scale": 1e-3, "lr": 1e-9}
    printed = run("train_pair", train_flags(sop_tree, tmp_path / "run", **flags))
    assert printed.count("note: Recall@1 is ") == 1 and f"below the 100.00 % of {start}" in printed
    assert printed.count("note: eml stands at 1.0") == 1
