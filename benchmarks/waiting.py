"""What a user waits for: help, imports, the first step, tests, evaluation, the report, a first search, the demo.

    python benchmarks/waiting.py                       # less than two minutes on 2 cores
    python benchmarks/waiting.py --demo=True           # and all of recipes/demo.sh
    python benchmarks/waiting.py --rows=20000 --rounds=1

Each line is a process of its own, from its start to its end, or to its first finished step: seconds, and the most
memory that it had. Beside it stands what a peer's program takes for the same (_wait_probe.py); where a peer has
nothing of the kind the cells are empty. Programs take turns in each round.

What is searched are made-up rows, beside the network of the demo, so that an image can ask: in a process that has
nothing loaded, by an item of the index, by an image through the network that the index keeps as ONNX, and through
torch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(ROOT))
    from core import openmp  # noqa: F401
from benchmarks._memory import memory
from benchmarks._contest import heading, markdown, seconds_text, write
from benchmarks.search_speed import clusters
from core.types import boolean
from data.embedded import embedded_data
from embeddings.fingerprint import fingerprint
from embeddings.own_network import keep_network
from models import ModelSettings, build_model
from models.export.network import ExportedNetwork
from models.export.onnx import network_onnx
from models.export.safetensors import export_model
from retrieval.index.index import Index

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pytorch-metric-learning", "open-metric-learning")
SCRIPTS = ("train_elem", "train_pair", "train_reranker", "eval", "infer", "search find", "reader", "doctor")
PROBE = Path(__file__).with_name("_wait_probe.py")
RECIPE = "--config=configs/emoji_arcmargin.yaml"
FIRST_STEP = "trainbatch 1,"
WIDTH = 512
MARK = "reached "  # before what a probe has come to
IMPORTS = "imports of training and evaluation"
STEP = "first step (`train_elem.py`, ImageNet weights, 64 images of 80 px)"
TEST = "a test of 400 images"
PEERS = {"pml": "peer_pml", "oml": "peer_oml"}  # whose probes do both, one behind the other, and then a test
QUERY = "data/emoji/food-fruit/banana/noto.webp"


class Peak(threading.Thread):
    """The most memory that a process has had, in MB, looked at until it ends.

    What the system tells of a process that has ended counts this one's memory, too, which it was started from.
    """

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process = process
        self.most = 0.0
        self.start()

    def run(self):
        while True:
            try:
                self.most = memory("VmHWM", self.process)
            except (OSError, StopIteration):
                return
            time.sleep(0.01)


def wait(words, until=None):
    """{"seconds", "peak_mb", "output", "marks"} of a process to its end, or to a line with `until`, behind which it is
    killed. marks: {what it says that it has reached: (seconds, MB)}.

    Raises ImportError for a peer that is not installed, CalledProcessError for whatever else goes wrong.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = Peak(process.pid)
        lines = []
        marks = {}
        for line in process.stdout:
            if line.startswith(MARK):
                marks[line.removeprefix(MARK).strip()] = (time.perf_counter() - began, peak.most)
                continue
            lines.append(line)
            if until is not None and until in line:
                seconds = time.perf_counter() - began
                process.kill()
                break
        process.stdout.close()
        _, status = os.waitpid(process.pid, 0)
        peak.join()
        if until is None:
            seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if until is None and process.returncode:
            errors.seek(0)
            said = errors.read()
            if "ModuleNotFoundError" in said:
                raise ImportError(said.strip().splitlines()[-1])
            raise subprocess.CalledProcessError(process.returncode, words, stderr=said)
    return {"seconds": seconds, "peak_mb": peak.most, "output": "".join(lines), "marks": marks}


def python(*words):
    return [sys.executable, *words]


def build_index(folder, count):
    """An index of made-up rows, as if the network of the demo had made them, which stands beside it."""
    settings = ModelSettings(
        model="EfficientNetLite0", pretrained_model="imagenet", image_shape=(3, 80, 80), embedding_size=WIDTH
    )
    network = build_model(settings, "imagenet").eval()
    source = folder / "network"
    source.mkdir()
    export_model(network, source, {"flags": settings.as_flags()})
    rows, labels = clusters(count, WIDTH)
    index = Index.build(
        folder / "items.index",
        rows,
        [f"/{row}.jpg" for row in range(count)],
        labels.numpy(),
        fingerprint(network, settings),
        origin={"pretrained_model": str(source)},
    )
    keep_network(index, network_onnx(ExportedNetwork(network), settings.image_shape, "benchmarks/waiting.py"))
    return str(index.folder)


def programs(folder, index, demo):
    """{what is waited for: {whose: (words, until)}}."""
    run = f"--model_save_dir={folder / 'run'}"
    evaluated = ("eval.py", "--pretrained_model=imagenet", "--model=EfficientNetLite0", "--image_shape=3,80,80")
    evaluated += ("--batch_size=64", f"--output_dir={folder / 'eval'}")
    report = f"--report={folder / 'report.html'}"
    found = {f"`{script}.py --help`".replace(" find.py", ".py find"): help_of(script) for script in SCRIPTS}
    found["`import torch`, in all of the following"] = probe("import_torch")
    found[IMPORTS] = probe("import_ours")
    found[STEP] = {
        "ours": (python("train_elem.py", RECIPE, run, "--overwrite=True", "--display_iter_step=1"), FIRST_STEP)
    }
    found[TEST] = {
        "ours": (python(PROBE, "test_ours", "3"), None),
        **{peer: (python(PROBE, name), None) for peer, name in PEERS.items()},
    }
    found["`eval.py` of 4,142 images"] = {"ours": (python(*evaluated), None)}
    found["`eval.py`, embeddings kept, with `--report`"] = {"ours": (python(*evaluated, report), None)}
    find = ("search.py", "find", index)
    found["`search.py find --items`"] = {"ours": (python(*find, "--items", "17"), None)}
    found["`search.py find --input` an image, by the index's own network"] = {
        "ours": (python(*find, "--input", QUERY), None)
    }
    found["`search.py find --input` an image, by torch"] = {
        "ours": (python(*find, "--input", QUERY, "--runtime=torch"), None)
    }
    if demo:
        found["`recipes/demo.sh`"] = {"ours": (["env", f"PYTHON={sys.executable}", "sh", "recipes/demo.sh"], None)}
    return found


def help_of(script):
    name, *words = script.split()
    return {"ours": (python(f"{name}.py", *words, "--help"), None)}


def probe(name):
    return {"ours": (python(PROBE, name), None)}


def waited(folder, index, demo, rounds):
    """{what is waited for: {whose: {"seconds", "spread", "peak_mb", "output"}}}, medians.

    A peer that is not installed is left out; the demo is run once.
    """
    runs = {(what, whose): [] for what, line in programs(folder, index, demo).items() for whose in line}
    missing = set()
    for number in range(rounds):
        # A folder for each, so that nothing is kept from one to the next.
        found = programs(folder / str(number), index, demo)
        for what, whose in runs:
            if whose in missing or (number and "demo" in what):
                continue
            try:
                runs[what, whose].append(wait(*found[what][whose]))
                print(f"{what}, {whose}: {runs[what, whose][-1]['seconds']:.2f} s", flush=True)
            except ImportError as error:
                print(f"left out: {whose} ({error})", flush=True)
                missing.add(whose)
    table = {what: {} for what, _ in runs}
    for (what, whose), done in runs.items():
        if whose not in missing:
            seconds = [run["seconds"] for run in done]
            table[what][whose] = {
                "seconds": statistics.median(seconds),
                "spread": [min(seconds), max(seconds)],
                "peak_mb": max(run["peak_mb"] for run in done),
                "output": done[-1]["output"],
                "marks": done[-1]["marks"],
            }
    return table


def told_apart(table):
    """Figures of the tests, {whose: {name: seconds}}; what peers reached before their own goes to its rows."""
    tests = {}
    for whose, figures in table.pop(TEST).items():
        tests[whose] = json.loads(figures["output"].splitlines()[-1])
        for row, mark in ((IMPORTS, "imports"), (STEP, "first step")):
            if mark in figures["marks"]:
                seconds, most = figures["marks"][mark]
                table[row][whose] = {"seconds": seconds, "peak_mb": most}
    return tests


def rows_of(table):
    """Lines of the first table, a peer's cells empty where it has nothing of the kind."""
    for what, line in table.items():
        cells = [what]
        for whose in ("ours", "pml", "oml"):
            figures = line.get(whose)
            cells += [seconds_text(figures["seconds"]), f"{figures['peak_mb']:.0f}"] if figures else ["", ""]
        yield cells


def rows_of_test(tests):
    """Lines of the second: a test beside the network alone."""
    ours = tests["ours"]
    titles = {"bare": "the network alone, images in memory", "embed": "ours, with loading"}
    titles["test"] = "ours, with loading and Recall@1, 5, 10"
    lines = [(title, ours[name]) for name, title in titles.items()]
    lines += [(f"{whose.upper()}'s", tests[whose]["test"]) for whose in PEERS if whose in tests]
    return [[title, seconds_text(seconds), f"{seconds / ours['bare']:.2f}"] for title, seconds in lines]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="of all (default: 1)")
    parser.add_argument("--rows", type=int, default=200_000, help="of the index that is searched (default: 200,000)")
    parser.add_argument("--demo", type=boolean, default=False, help="run it, once (default: False)")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    embedded_data()
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        table = waited(folder, build_index(folder, args.rows), args.demo, args.rounds)
    tests = told_apart(table)
    text = "\n\n".join(
        [
            heading(args.rounds, PACKAGES),
            "### From the start of a process",
            markdown(["", "ours, s", "MB", "PML, s", "MB", "OML, s", "MB"], rows_of(table)),
            f"Searched are {args.rows:,} rows of {WIDTH} numbers.",
            "### A test in training, 400 images",
            markdown(["", "seconds", "× the network alone"], rows_of_test(tests)),
        ]
    )
    figures = {"waited": table, "tests": tests, "rows": args.rows}
    write(args.output, "waiting", figures, text)


if __name__ == "__main__":
    main()
