"""What a user waits for: help, imports, the first step, tests, evaluation, the report, a first search, the demo.

    python benchmarks/waiting.py                       # two minutes on 2 cores
    python benchmarks/waiting.py --demo=True           # and all of recipes/demo.sh
    python benchmarks/waiting.py --rows=20000 --rounds=1

Each line is a process of its own, from its start to its end, or to its first finished step: seconds, and the most
memory that it had. Beside it stands what a peer's program takes for the same (_wait_probe.py); where a peer has
nothing of the kind the cells are empty. Programs take turns in each round.
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
from benchmarks.contest import heading, markdown, seconds_text, write
from benchmarks.search_speed import clusters
from core.types import boolean
from data.embedded import embedded_data
from retrieval.index.index import Index

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pytorch-metric-learning", "open-metric-learning")
SCRIPTS = ("train_elem", "train_pair", "train_reranker", "eval", "infer", "search find", "reader", "doctor")
PROBE = Path(__file__).with_name("_wait_probe.py")
RECIPE = "--config=configs/emoji_arcmargin.yaml"
FIRST_STEP = "trainbatch 1,"
WIDTH = 512


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
    """{"seconds", "peak_mb", "output"} of a process to its end, or to a line with `until`; behind that it is killed.

    Raises ImportError for a peer that is not installed, CalledProcessError for whatever else goes wrong.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = Peak(process.pid)
        lines = []
        for line in process.stdout:
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
    return {"seconds": seconds, "peak_mb": peak.most, "output": "".join(lines)}


def python(*words):
    return [sys.executable, *words]


def programs(folder, index, demo):
    """{what is waited for: {whose: (words, until)}}."""
    run = f"--model_save_dir={folder / 'run'}"
    evaluated = ("eval.py", "--pretrained_model=imagenet", "--model=EfficientNetLite0", "--image_shape=3,80,80")
    evaluated += ("--batch_size=64", f"--output_dir={folder / 'eval'}")
    report = f"--report={folder / 'report.html'}"
    found = {f"`{script}.py --help`".replace(" find.py", ".py find"): help_of(script) for script in SCRIPTS}
    found["`import torch`, in all of the following"] = probe("import_torch")
    found["imports of training and evaluation"] = probe("import_ours", "import_pml", "import_oml")
    found["first step (`train_elem.py`, ImageNet weights, 64 images of 80 px)"] = {
        "ours": (python("train_elem.py", RECIPE, run, "--overwrite=True", "--display_iter_step=1"), FIRST_STEP),
        **{peer: (python(PROBE, f"first_step_{peer}"), None) for peer in ("pml", "oml")},
    }
    found["a test of 4,142 images, in a process of its own"] = {
        "ours": (python(PROBE, "test_ours", "1"), None),
        **{peer: (python(PROBE, f"test_{peer}"), None) for peer in ("pml", "oml")},
    }
    found["`eval.py` of these"] = {"ours": (python(*evaluated, "--cache=False"), None)}
    found["`eval.py`, embeddings kept, with `--report`"] = {"ours": (python(*evaluated, report), None)}
    found["first search in a new process"] = {"ours": (python(PROBE, "search", index, str(WIDTH)), None)}
    if demo:
        found["`recipes/demo.sh`"] = {"ours": (["env", f"PYTHON={sys.executable}", "sh", "recipes/demo.sh"], None)}
    return found


def help_of(script):
    name, *words = script.split()
    return {"ours": (python(f"{name}.py", *words, "--help"), None)}


def probe(*names):
    owners = ("ours", "pml", "oml")
    return {owner: (python(PROBE, name), None) for owner, name in zip(owners, names)}


def waited(found, rounds):
    """{what is waited for: {whose: {"seconds", "spread", "peak_mb", "output"}}}, medians.

    A peer that is not installed is left out; the demo is run once.
    """
    runs = {(what, whose): [] for what, line in found.items() for whose in line}
    missing = set()
    for number in range(rounds):
        for what, whose in runs:
            if whose in missing or (number and "demo" in what):
                continue
            try:
                runs[what, whose].append(wait(*found[what][whose]))
            except ImportError as error:
                print(f"left out: {whose} ({error})", flush=True)
                missing.add(whose)
    table = {what: {} for what in found}
    for (what, whose), done in runs.items():
        if whose not in missing:
            seconds = [run["seconds"] for run in done]
            table[what][whose] = {
                "seconds": statistics.median(seconds),
                "spread": [min(seconds), max(seconds)],
                "peak_mb": max(run["peak_mb"] for run in done),
                "output": done[-1]["output"],
            }
    return table


def rows_of(table):
    """Lines of the first table, a peer's cells empty where it has nothing of the kind."""
    for what, line in table.items():
        cells = [what]
        for whose in ("ours", "pml", "oml"):
            figures = line.get(whose)
            cells += [seconds_text(figures["seconds"]), f"{figures['peak_mb']:.0f}"] if figures else ["", ""]
        yield cells


def rows_of_test(test):
    """Lines of the second: a test beside the network alone."""
    titles = {"bare": "the network alone, images in memory", "embed": "with loading", "test": "and Recall@1, 5, 10"}
    return [[title, seconds_text(test[name]), f"{test[name] / test['bare']:.2f}"] for name, title in titles.items()]


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
        index = str(folder / "items.index")
        rows, labels = clusters(args.rows, WIDTH)
        Index.build(index, rows, [f"/{row}.jpg" for row in range(args.rows)], labels.numpy(), {"model": "made up"})
        del rows, labels
        table = waited(programs(folder, index, args.demo), args.rounds)
        test = json.loads(wait(python(PROBE, "test_ours", str(max(3, args.rounds))))["output"])
    searched = json.loads(table["first search in a new process"]["ours"]["output"])["search"]
    text = "\n\n".join(
        [
            heading(args.rounds, PACKAGES),
            "### From the start of a process",
            markdown(["", "ours, s", "MB", "PML, s", "MB", "OML, s", "MB"], rows_of(table)),
            f"Of the first search, in {args.rows:,} x {WIDTH}, {seconds_text(searched)} s are the index opened and "
            "searched, the rest is the import of torch.",
            "### A test in training, 4,142 images",
            markdown(["", "seconds", "x the network alone"], rows_of_test(test)),
        ]
    )
    figures = {"waited": table, "test": test, "search": searched, "rows": args.rows}
    write(args.output, "waiting", figures, text)


if __name__ == "__main__":
    main()
