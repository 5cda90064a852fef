"""Processes that load images: when one dies, and where the memory that they share does not suffice."""

import collections
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import as_line, run, train_flags

from core.errors import InputError
from data import loader, workers
from data.image import transforms
from data.image.modality import ImageModality
from data.lists import open_list
from data.samplers.in_order import InOrder
from data.workers import loading_failure

pytestmark = pytest.mark.usefixtures("tiny")
Usage = collections.namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "text, word",
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "killed by signal: Killed"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "exited unexpectedly"),
        ("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)", "--shm-size"),
        ("Caught RuntimeError in DataLoader worker process 0.\nunable to write to file </torch_4_5>", "--shm-size"),
        ("unable to mmap 48 bytes from file <filename not specified>: Cannot allocate memory (12)", "--shm-size"),
    ],
)
def test_what_torch_says_is_understood(text, word):
    failure = loading_failure(RuntimeError(text))
    assert isinstance(failure, InputError) and word in str(failure) and "--num_workers" in str(failure)
    assert "\n" not in str(failure)


def test_another_error_stays_what_it_is():
    assert loading_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


DEADLY = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from config.script import run_script
from data.dataset import RecordDataset
from runs import SCRIPTS, tiny_backbone

begin = RecordDataset.begin

def kill_at_five(self, draw):
    if draw.index == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return begin(self, draw)

RecordDataset.begin = kill_at_five
name, sys.argv[1:] = sys.argv[3], sys.argv[4:]
with tiny_backbone():
    run_script(SCRIPTS[name].main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_elem", "eval"])
def test_a_process_that_dies_ends_the_run_in_a_sentence(sop_tree, tmp_path, script):
    """In a process of its own: torch raises the death of a loading process wherever its parent happens to be."""
    line = train_flags(sop_tree, tmp_path / "run", num_workers=1, total_iter_num=20)
    if script == "eval":
        line = as_line({"data_dir": sop_tree, "model": "Tiny", "image_shape": "3,32,32", "num_workers": 1})
        line += as_line({"use_gpu": False, "output_dir": tmp_path / "run"})
    tests = Path(__file__).parent
    command = [sys.executable, "-c", DEADLY, tests.parent, tests, script, *line]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "a process that loads images is gone" in done.stderr and "--num_workers" in done.stderr
    if script == "train_elem" and "is saved" in done.stderr:
        assert (tmp_path / "run" / "last.pt").is_file()


@pytest.mark.parametrize("free, count", [(10**9, 4), (5 * 10**6, 2), (3 * 10**6, 1), (2 * 10**6, 0), (0, 0)])
def test_as_many_processes_as_the_shared_memory_holds(monkeypatch, capsys, free, count):
    """Batches of 1 MB: each process makes two ahead, and one is in use."""
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert workers.workers_that_fit(4, 10**6) == count
    said = capsys.readouterr().out
    are = "is" if count == 1 else "are"
    told = f"{count} of 4 loading processes {are} started" if count else "this process loads images itself"
    assert (f"so {told}; docker run --shm-size=2g" in said) == (count < 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers.workers_that_fit(4, 10**6) <= count
    assert workers.workers_that_fit(0, 10**6) == 0 and workers.workers_that_fit(4, 0) == 4


def test_a_run_goes_on_without_shared_memory(sop_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: Usage(1000, 0, 1000))
    printed = run("train_elem", train_flags(sop_tree, tmp_path / "a", num_workers=2, total_iter_num=2))
    assert printed.count("so this process loads images itself") == 2  # those to train and those to test
    monkeypatch.undo()
    run("train_elem", train_flags(sop_tree, tmp_path / "b", num_workers=2, total_iter_num=2))
    ends = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in "ab"]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_dropped_images_are_told_and_the_others_come(sop_copy):
    images = open_list("Ebay_test.txt", sop_copy, "test").take(slice(0, 6))
    for row in (0, 1, 2, 4):
        with open(images.paths[row], "wb"):
            pass
    told = []
    feed = loader.open_loader(
        images,
        ImageModality(transforms.TestTransform(8, 8)),
        InOrder(6, 3),
        on_bad=lambda index, sentence: told.append(index),
        drops_bad=True,
    )
    batches = list(feed)
    assert told == [0, 1, 2, 4] and len(batches) == 1 and batches[0][2].tolist() == [3, 5]
