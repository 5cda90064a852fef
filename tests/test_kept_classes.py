"""Stage 1's class loss that goes on beside a pair loss: the sum of both, its weights, and where it cannot be."""

import json
import shutil

import pytest
import torch
from runs import read_metrics, run, train_flags
from test_losses import random_rows
from test_resume import assert_bit_equal
from tolerances import assert_within, gamma

from core.errors import InputError
from data.records import Records
from engine.kept_classes import WithKeptClasses, with_kept_classes
from engine.mining import Mining
from losses import ArcMarginLoss, EmlLoss

RECORDS = Records.of_columns("list.csv", {"paths": [f"{label}.jpg" for label in range(1, 11)], "labels": range(1, 11)})
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def arc(tiny, sop_tree, tmp_path_factory):
    """A stage 1 run of arcmargin with options of its own. Read only."""
    folder = tmp_path_factory.mktemp("arc") / "run"
    run("train_elem", train_flags(sop_tree, folder, loss_name="arcmargin", arc_scale=20.0, arc_margin=0.3))
    return folder


@pytest.fixture
def train(sop_tree, arc, tmp_path):
    def call(name, steps, **flags):
        common = {"loss_name": "eml", "pretrained_model": arc, "keep_classes": 0.1, "lr": 0.05, "class_lr": 0.5}
        common |= {"lr_strategy": "constant", "save_iter_step": 3}
        run("train_pair", train_flags(sop_tree, tmp_path / name, total_iter_num=steps, **{**common, **flags}))
        return tmp_path / name

    return call


def state_of(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def test_the_loss_is_the_weighted_sum_of_both():
    torch.manual_seed(0)
    pairs, classes = EmlLoss(), ArcMarginLoss(4, 7).double()
    rows, labels = random_rows(6).requires_grad_(), torch.tensor([1, 1, 2, 2, 0, 0])
    both = WithKeptClasses(pairs, classes, 0.25)
    value = both(rows, labels, reference=None)
    (slope,) = torch.autograd.grad(value, rows)
    own = [pairs(rows, labels), classes(rows, labels)]
    slopes = [torch.autograd.grad(part, rows)[0] for part in own]
    assert_within(value, 0.75 * own[0] + 0.25 * own[1], gamma(4) * (own[0] + own[1]).item())
    assert_within(slope, 0.75 * slopes[0] + 0.25 * slopes[1], gamma(4) * (slopes[0].abs() + slopes[1].abs()))
    assert both.logs["pair_loss"] == own[0] and both.logs["class_loss"] == own[1]
    assert {"active_share", "positive_distance", "acc1", "acc5"} <= both.logs.keys()
    assert list(both.state_dict()) == ["classes.weight"]


def test_it_goes_on_with_stage_1s_loss_options_and_weights(arc, sop_tree):
    loss = with_kept_classes(EmlLoss(), str(arc), 8, RECORDS, keep_classes=0.1)
    assert type(loss.classes) is ArcMarginLoss
    assert loss.classes.arc_scale == 20.0 and loss.classes.arc_margin == 0.3
    assert torch.equal(loss.classes.weight, state_of(arc)["loss"]["weight"])
    pairs = EmlLoss()
    assert with_kept_classes(pairs, None, 8, RECORDS) is pairs


def test_figures_show_both_parts_and_the_weights_learn_by_class_lr(train, arc):
    before = state_of(arc)["loss"]["weight"]
    folder = train("moving", 2)
    line = next(line for line in read_metrics(folder) if line["group"] == "train")
    assert line["loss"] == pytest.approx(
        0.9 * line["pair_loss"] + 0.1 * line["class_loss"], rel=gamma(4, torch.float32)
    )
    assert {"active_share", "acc1", "acc5", "recall"} <= line.keys()
    state = state_of(folder)
    assert not torch.equal(state["loss"]["classes.weight"], before)
    assert [group["ratio"] for group in state["optimiser"]["param_groups"]] == [1.0, 10.0]
    still = train("still", 2, class_lr=0.0, weight_decay=0.0)
    assert torch.equal(state_of(still)["loss"]["classes.weight"], before)


@pytest.mark.parametrize("flags", [{}, {"micro_batch": 2, "memory_size": 20, "ema": 0.9}])
def test_three_and_three_are_six(train, flags):
    whole, parts = train("whole", 6, **flags), train("parts", 3, **flags)
    run("train_pair", [f"--checkpoint={parts}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    for name in ("model", "loss", "optimiser", "memory", "step", "rng"):
        assert_bit_equal(state_of(parts)[name], state_of(whole)[name])


def test_a_start_that_has_no_such_classes_is_refused(train, arc, sop_tree, tmp_path, finished_run):
    pair = train("pair", 1)
    needs = "--keep_classes needs a run of train_elem.py as --pretrained_model, got"
    for source in (None, pair, arc / "model.safetensors"):
        with pytest.raises(InputError, match=needs):
            train("refused", 1, pretrained_model=source)
    with pytest.raises(InputError, match="the class weights of .* are 8 wide, the embeddings 5"):
        train("refused", 1, embedding_size=5)
    with pytest.raises(InputError, match="goes on with the 10 labels of .*, but the train list has 7 that are not"):
        train("refused", 1, val_classes=3)
    # As many labels, but others: those of the test list.
    with pytest.raises(InputError, match="goes on with the 10 labels of .*, but the train list has 10 that are not"):
        train("refused", 1, train_list="Ebay_test.txt")
    with pytest.raises(InputError, match="does not go with --init_embedding, whose layer makes other embeddings"):
        with_kept_classes(EmlLoss(), str(arc), 8, RECORDS, True, keep_classes=0.1)
    means = Mining("hard_cluster", "triplets", {})
    with pytest.raises(InputError, match="does not go with a miner that compares means of labels"):
        with_kept_classes(EmlLoss(), str(arc), 8, RECORDS, False, means, keep_classes=0.1)
    assert not (tmp_path / "refused").exists()


def test_a_margin_by_frequency_is_told_the_counts_again(sop_tree, tmp_path):
    folder = tmp_path / "dynamic"
    run("train_elem", train_flags(sop_tree, folder, loss_name="cosface", dynamic_margin=True))
    train = {"loss_name": "eml", "pretrained_model": folder, "keep_classes": 0.5}
    run("train_pair", train_flags(sop_tree, tmp_path / "run", total_iter_num=1, **train))
    assert "class_loss" in read_metrics(tmp_path / "run")[0]


def test_a_run_of_before_an_option_takes_its_default(arc, tmp_path):
    """What a loss is asked for today need not stand in the config of a run that is older."""
    older = shutil.copytree(arc, tmp_path / "older")
    state = state_of(older)
    del state["config"]["flags"]["chunk_classes"]
    torch.save(state, older / "last.pt")
    config = json.loads((older / "config.json").read_text())
    del config["flags"]["chunk_classes"]
    (older / "config.json").write_text(json.dumps(config))
    assert with_kept_classes(EmlLoss(), str(older), 8, RECORDS, keep_classes=1.0).classes.chunk_classes == "auto"
