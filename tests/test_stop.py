"""Runs that are signalled, killed or out of disk: what was saved is whole, and what goes on ends as the undisturbed."""

import os
import random
import resource
import signal
import time

import pytest
import torch
from processes import start
from runs import read_json, run, tiny_backbone, train_flags
from test_resume import assert_bit_equal, untimed, weights

KILLS = int(os.environ.get("KILLS", 3))  # make fuzz: 20
MANY = {"lr": 0.05, "lr_strategy": "constant", "display_iter_step": 5, "loss_name": "arcmargin"}


def line(sop_tree, folder, **flags):
    return train_flags(sop_tree, folder, **{**MANY, **flags})


def wait_for(path, process):
    """Until a file is there; fails with what the process said if it ended before."""
    while not path.exists():
        if process.poll() is not None:
            pytest.fail(process.communicate()[1])
        time.sleep(0.005)


SIGNALS = [
    pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 2),
    pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("number, workers", SIGNALS)
def test_a_signal_saves_the_step_and_ends(sop_tree, tmp_path, number, workers):
    """As a terminal or a scheduler sends it: to the whole process group, loader workers included."""
    flags = {"total_iter_num": 5000, "num_workers": workers, "save_iter_step": 5000, "test_iter_step": 7}
    process = start("train_elem", line(sop_tree, tmp_path / "run", **flags), start_new_session=True)
    wait_for(tmp_path / "run" / "best.pt", process)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number, said
    step = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    sentence = f"train_elem.py: stopped by {number.name} after step {step}, which is saved; go on by --checkpoint="
    assert said.splitlines()[-1] == f"{sentence}{tmp_path / 'run'}"
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("at", ["step", "test"])
def test_a_signalled_run_goes_on_as_if_nothing_had_happened(sop_tree, tmp_path, monkeypatch, at):
    """Signalled within step 4, or while step 4 is tested, which is done again when the run goes on."""
    from engine import loop, testing

    flags = {"total_iter_num": 6, "test_iter_step": 2, "save_iter_step": 6, "display_iter_step": 1}
    module, name = (loop, "backward") if at == "step" else (testing, "embed")
    original, calls = getattr(module, name), []

    def signalled(*words, **more):
        calls.append(words)
        if len(calls) == (4 if at == "step" else 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*words, **more)

    from engine.stop import Stopped

    with tiny_backbone():
        run("train_elem", line(sop_tree, tmp_path / "whole", **flags))
        monkeypatch.setattr(module, name, signalled)
        with pytest.raises(Stopped, match="after step 4, which is saved"):
            run("train_elem", line(sop_tree, tmp_path / "parts", **flags))
        monkeypatch.undo()
        run("train_elem", [f"--checkpoint={tmp_path / 'parts'}"])
    assert_bit_equal(weights(tmp_path / "parts" / "last.pt"), weights(tmp_path / "whole" / "last.pt"))
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


def test_a_run_killed_before_its_result_gets_it(sop_tree, tmp_path, monkeypatch):
    from engine import trainer

    with tiny_backbone():
        run("train_elem", line(sop_tree, tmp_path / "whole"))
        monkeypatch.setattr(trainer, "export_model", lambda *words: os.kill(0, 99999))
        with pytest.raises(OSError):
            run("train_elem", line(sop_tree, tmp_path / "parts"))
        monkeypatch.undo()
        run("train_elem", [f"--checkpoint={tmp_path / 'parts'}"])
    whole, parts = (read_json(tmp_path / name / "result.json") for name in ("whole", "parts"))
    for name in ("recall", "best", "step"):
        assert parts[name] == whole[name]
    assert parts["train"]["loss"] == whole["train"]["loss"]
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_random_moments(sop_tree, tmp_path, capfd):
    """SIGKILL, saving at every step, so that it also falls into the middle of saving."""
    total = 25 * KILLS  # more than a fast machine gets through between the kills
    flags = {"total_iter_num": total, "save_iter_step": 1, "test_iter_step": total // 5, "keep_checkpoints": 2}
    folder, moments = tmp_path / "parts", random.Random(KILLS)
    with tiny_backbone():
        run("train_elem", line(sop_tree, tmp_path / "whole", **flags))
    last, steps, words = folder / "last.pt", [], line(sop_tree, folder, **flags)
    for kill in range(KILLS):
        process = start("train_elem", words)
        board = set(folder.glob("events*"))
        while set(folder.glob("events*")) <= board and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, min(0.3, 2.0 / KILLS)))
        process.kill()
        process.communicate()
        if last.exists():
            steps.append(torch.load(last, weights_only=True)["step"])
            words = [f"--checkpoint={folder}"]
        else:  # killed before its first save
            words = [*line(sop_tree, folder, **flags), "--overwrite=True"]
        if (folder / "result.json").exists():
            break
    if not (folder / "result.json").exists():
        process = start("train_elem", words)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    with capfd.disabled():
        print(f"\n{kill + 1} kills; saved at each: {', '.join(map(str, steps))} of {total} steps")
    assert steps == sorted(steps)
    assert_bit_equal(weights(last), weights(tmp_path / "whole" / "last.pt"))
    assert untimed(folder) == untimed(tmp_path / "whole")
    assert {file.name for file in folder.glob("*.pt*")} == {
        f"step_{total - 1}.pt",
        f"step_{total}.pt",
        "last.pt",
        "best.pt",
    }


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_checkpoint_and_goes_on(sop_tree, tmp_path):
    """A quota stands in for it: no file may be larger than the first checkpoint was."""
    flags = {"save_iter_step": 1, "total_iter_num": 3}
    with tiny_backbone():
        run("train_elem", line(sop_tree, tmp_path / "run", **{**flags, "total_iter_num": 1}))
    good = (tmp_path / "run" / "last.pt").read_bytes()
    limit = len(good) // 2
    words = [f"--checkpoint={tmp_path / 'run'}", "--total_iter_num=3", "--allow_changed=total_iter_num"]
    quota = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    process = start("train_elem", words, preexec_fn=quota)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "step 2 is not saved: cannot write" in printed and "and the run goes on" in printed
    assert "File too large" in printed and "step 3 is not saved" in said.splitlines()[-1]
    assert (tmp_path / "run" / "last.pt").read_bytes() == good
    assert not list((tmp_path / "run").glob("*.tmp"))
