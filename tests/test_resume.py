"""A run that was interrupted and went on is the run that never was: three steps and three more are six."""

import pytest
import torch
from runs import read_json, read_metrics, run, train_flags

from losses import LOSSES

# That of pairs takes another list: tests/test_pairs.py.
CASES = [pytest.param(loss, {}, id=loss) for loss in LOSSES.names() if LOSSES.fact(loss, "pairs") is None]
CASES += [
    pytest.param("softmax", {"num_workers": 2}, id="softmax, two workers", marks=pytest.mark.slow),
    pytest.param("eml", {"num_workers": 2, "augment": "crop,flip,affine,erasing"}, id="eml, two workers"),
    pytest.param("arcmargin", {"optimiser": "adamw", "class_lr": 0.1}, id="arcmargin, adamw"),
    pytest.param("npairs", {"freeze_bn": True, "clip_norm": 0.1, "val_classes": 3}, id="npairs, held-out labels"),
    pytest.param("triplet", {"warmup_steps": 5}, id="triplet, warm-up"),
]


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def train(sop_tree, tmp_path):
    """Train `loss` to `steps` in the folder `name`; returns the folder."""

    def call(name, loss, steps, **flags):
        flags = {"lr": 0.05, "lr_strategy": "constant", "test_iter_step": 1, "save_iter_step": 3, **flags}
        line = train_flags(sop_tree, tmp_path / name, loss_name=loss, total_iter_num=steps, **flags)
        run(script(loss), line)
        return tmp_path / name

    return call


def script(loss):
    return f"train_{LOSSES.fact(loss, 'stage')}"


def go_on(loss, checkpoint, steps):
    return run(
        script(loss), [f"--checkpoint={checkpoint}", f"--total_iter_num={steps}", "--allow_changed=total_iter_num"]
    )


def weights(file):
    """Everything in a checkpoint that the next step depends on."""
    state = torch.load(file, weights_only=True)
    return {
        name: state[name]
        for name in ("model", "loss", "optimiser", "step", "best", "classes", "rng", "python_rng", "numpy_rng")
    }


def assert_bit_equal(left, right):
    """Compare nested dicts, lists and tensors to the last bit."""
    assert type(left) is type(right)
    if torch.is_tensor(left):
        assert torch.equal(left, right)
    elif isinstance(left, (dict, list, tuple)):
        pairs = left.items() if isinstance(left, dict) else enumerate(left)
        assert len(left) == len(right)
        for key, value in pairs:
            assert_bit_equal(value, right[key])
    else:
        assert left == right


def untimed(run_dir):
    """metrics.jsonl without what the clock decides."""
    clocked = ("time", "images_per_second")
    return [{name: value for name, value in line.items() if name not in clocked} for line in read_metrics(run_dir)]


@pytest.mark.parametrize("loss, flags", CASES)
def test_three_and_three_are_six(train, loss, flags, record_property):
    whole, parts = train("whole", loss, 6, **flags), train("parts", loss, 3, **flags)
    assert_bit_equal(weights(whole / "step_3.pt")["model"], weights(parts / "last.pt")["model"])
    go_on(loss, parts, 6)
    six = weights(whole / "last.pt")
    assert_bit_equal(weights(parts / "last.pt"), six)
    before = weights(whole / "step_3.pt")["model"]
    assert any(not torch.equal(before[name], value) for name, value in six["model"].items())
    assert untimed(parts) == untimed(whole)
    results = [read_json(folder / "result.json") for folder in (parts, whole)]
    assert results[0]["best"] == results[1]["best"] and results[0]["recall"] == results[1]["recall"]
    record_property("weights equal to the bit", sum(value.numel() for value in six["model"].values()))


def test_step_file_resumes_too(train):
    whole = train("whole", "triplet", 6)
    six = weights(whole / "last.pt")
    (whole / "last.pt").unlink()
    go_on("triplet", whole / "step_3.pt", 6)
    assert_bit_equal(weights(whole / "last.pt"), six)


def test_worker_count_changes_nothing(train):
    none, two = train("none", "softmax", 3), train("two", "softmax", 3, num_workers=2)
    assert_bit_equal(weights(two / "last.pt"), weights(none / "last.pt"))


def test_resumed_run_keeps_its_record(train):
    """A resumed run appends to its logs and writes on into its own folder, whatever --model_save_dir says."""
    parts = train("parts", "softmax", 2)
    changed = ["--total_iter_num=3", "--allow_changed=total_iter_num", f"--model_save_dir={parts / 'elsewhere'}"]
    run("train_elem", [f"--checkpoint={parts}", *changed])
    assert [line["step"] for line in read_metrics(parts) if line["group"] == "test"] == [1, 2, 3]
    assert read_json(parts / "result.json")["step"] == 3
    assert read_json(parts / "config.json")["flags"]["total_iter_num"] == 3
    assert not (parts / "elsewhere").exists()
    assert len(list(parts.glob("events.out.tfevents.*"))) == 2


def test_stopped_run_goes_on_to_its_own_total(train, monkeypatch):
    """A run that died at step 4 (here by its own test at that step) goes on from step 3 to the total it was given."""
    from engine.trainer import Trainer

    whole = train("whole", "softmax", 6)
    judge = Trainer._judge

    def die(self, step, embeddings):
        if step == 4:
            raise KeyboardInterrupt
        return judge(self, step, embeddings)

    monkeypatch.setattr(Trainer, "_judge", die)
    with pytest.raises(KeyboardInterrupt):
        train("parts", "softmax", 6)
    monkeypatch.undo()
    parts = whole.parent / "parts"
    assert weights(parts / "last.pt")["step"] == 3 and not (parts / "result.json").exists()
    run("train_elem", [f"--checkpoint={parts}"])
    assert_bit_equal(weights(parts / "last.pt"), weights(whole / "last.pt"))
