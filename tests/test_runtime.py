"""--runtime=auto: what is chosen by seconds that are made up here, when nothing is measured, and what a stopped job
keeps. No test times anything."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import as_line, read_json, run
from test_shards_embedded import line_of, pictures, write_tar

import models
from core.errors import InputError
from embeddings import runtime
from embeddings.runtime import Way, ways_of

CPU = torch.device("cpu")
TORCH, HALF, ONNX, OPENVINO, OPENVINO_HALF = runtime.WAYS
FLAGS = {"use_gpu": False, "num_workers": 0, "batch_size": 4, "runtime": "auto", "precision": "auto"}

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def machine(monkeypatch):
    """A CPU with bfloat16 on which a batch takes `seconds` of each way; one that has none there lacks its package.

    Every runtime computes as torch does. `made` are the ways that networks were made for.
    """
    machine = SimpleNamespace(seconds={}, made=[])

    def fast_model(model, precision, runtime, shape):
        way = Way(precision, runtime)
        machine.made.append(way)
        if way not in machine.seconds:
            raise InputError(f"--runtime={runtime} needs the package {runtime}")
        network = models.fast_model(model, precision, "torch", shape)
        network.way = way
        return network

    monkeypatch.setattr(runtime, "fast_model", fast_model)
    monkeypatch.setattr(runtime, "seconds_of", lambda network, images: machine.seconds[network.way])
    monkeypatch.setattr(runtime, "choose_precision", lambda precision, device: "fp32")
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: True)
    monkeypatch.setattr(runtime, "WORTH", 0)
    return machine


def infer(sop_tree, finished_run, output, **flags):
    """(what is printed, the embeddings)."""
    line = {**FLAGS, "data_dir": sop_tree, "pretrained_model": finished_run, "output": output, **flags}
    printed = run("infer", as_line(line))
    return printed, np.load(output)["embeddings"]


CASES = {
    "the fastest": ({TORCH: 1, HALF: 0.6, ONNX: 0.8, OPENVINO: 0.5, OPENVINO_HALF: 0.7}, "auto", OPENVINO),
    "too little gained": ({TORCH: 1, HALF: 0.95, ONNX: 0.92}, "auto", TORCH),
    "packages that are missing": ({TORCH: 1, HALF: 0.9}, "auto", HALF),
    "fp32 is asked for": ({TORCH: 1, HALF: 0.2, ONNX: 0.8, OPENVINO_HALF: 0.1}, "fp32", ONNX),
}


@pytest.mark.parametrize("seconds, precision, expected", CASES.values(), ids=CASES)
def test_the_fastest_is_chosen_and_named(machine, sop_tree, finished_run, tmp_path, seconds, precision, expected):
    machine.seconds = seconds
    printed, found = infer(sop_tree, finished_run, tmp_path / "a.npz", precision=precision)
    assert f"--runtime=auto: {expected}; images a second: torch fp32 8.0" in printed
    missing = [way for way in ways_of(precision, CPU) if way not in seconds]
    for way in missing:
        assert f"{way} (--runtime={way.runtime} needs the package {way.runtime})" in printed
    assert ("left out" in printed) == bool(missing)
    # Those of the way that was chosen, to the bit.
    _, own = infer(sop_tree, finished_run, tmp_path / "b.npz", precision=expected.precision, runtime="torch")
    assert np.array_equal(found, own)


def test_embeddings_that_differ_are_left_out(machine, sop_tree, finished_run, tmp_path, monkeypatch):
    machine.seconds = {TORCH: 1, HALF: 0.5}
    monkeypatch.setattr(runtime, "LEAST_COSINE", 1 + 1e-6)
    printed, _ = infer(sop_tree, finished_run, tmp_path / "a.npz")
    assert "--runtime=auto: torch fp32;" in printed and "torch bf16 (embeddings that differ)" in printed


def test_a_short_job_makes_nothing_but_the_plain_network(machine, sop_tree, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "WORTH", 10)
    machine.seconds = {TORCH: 1, HALF: 0.5}
    printed, _ = infer(sop_tree, finished_run, tmp_path / "a.npz")
    assert machine.made == [TORCH] and "--runtime=auto" not in printed


def test_bfloat16_is_for_cpus_that_have_it(monkeypatch):
    monkeypatch.setattr(runtime, "choose_precision", lambda precision, device: "fp32")
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: False)
    assert ways_of("auto", CPU) == ways_of("fp32", CPU) == [TORCH, ONNX, OPENVINO]
    assert ways_of("auto", torch.device("meta")) == [TORCH]
    # Where matrices of it are multiplied, torch takes it unasked.
    monkeypatch.setattr(runtime, "choose_precision", lambda precision, device: "bf16")
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: True)
    assert ways_of("auto", CPU) == [HALF, TORCH, ONNX, OPENVINO, OPENVINO_HALF]


def test_a_stopped_job_goes_on_as_it_began(machine, sop_tree, finished_run, tmp_path, monkeypatch):
    machine.seconds = {TORCH: 1, HALF: 0.5}
    _, whole = infer(sop_tree, finished_run, tmp_path / "whole.npz")

    from embeddings import streaming

    def few(*arguments):
        for number, batch in enumerate(streaming_batches(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    streaming_batches = streaming.embed_batches
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(streaming, "embed_batches", few)
        infer(sop_tree, finished_run, tmp_path / "a.npz")
    # Measured again it would be another way.
    machine.seconds = {TORCH: 1, HALF: 2}
    printed, found = infer(sop_tree, finished_run, tmp_path / "a.npz", **{"continue": True})
    assert "--runtime=auto: torch bf16, as what is embedded already" in printed and "8 of " in printed
    assert np.array_equal(found, whole)


def test_shards_of_a_folder_are_embedded_one_way(machine, sop_tree, finished_run, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        write_tar(shards / f"{number}.tar", pictures(sop_tree)[8 * number : 8 * number + 8])
    machine.seconds = {TORCH: 1, HALF: 0.5}
    line = line_of(shards, tmp_path / "out", finished_run, **FLAGS)
    assert "--runtime=auto: torch bf16; images a second:" in run("infer", line)
    assert read_json(tmp_path / "out" / "runtime.json") == {"precision": "bf16", "runtime": "torch"}
    first = np.load(tmp_path / "out" / "0.tar.npz")["embeddings"]
    (tmp_path / "out" / "0.tar.done").unlink()
    machine.seconds = {TORCH: 1, HALF: 2}
    assert "--runtime=auto: torch bf16, as what is embedded already" in run("infer", line)
    assert np.array_equal(np.load(tmp_path / "out" / "0.tar.npz")["embeddings"], first)
    with pytest.raises(InputError, match="for --ray_workers name the runtime"):
        run("infer", [*line, "--ray_workers=2"])


def test_of_two_processes_the_first_says_how(tmp_path):
    assert runtime.keep_way(tmp_path, HALF) == HALF
    assert runtime.keep_way(tmp_path, ONNX) == HALF and [file.name for file in tmp_path.iterdir()] == ["runtime.json"]


def test_one_batch_is_timed_behind_a_first(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 13.0])
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: next(clock))
    calls = []
    assert runtime.seconds_of(calls.append, torch.zeros(1)) == 3 and len(calls) == 3
