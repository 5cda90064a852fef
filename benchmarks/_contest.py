"""Contenders timed in turn in one process: medians of seconds and peak memory, as Markdown and JSON."""

import ctypes
import datetime
import gc
import json
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks._memory import memory

PACKAGES = ("torch", "numpy", "faiss-cpu", "pytorch-metric-learning", "open-metric-learning", "openvino")


def contest(contenders, rounds):
    """{name: {"seconds": median, "spread": [least, most], "peak_mb": most, "note": text, "value": last}}.

    contenders: {name: function() -> value}; a function may have an attribute `scale` (its seconds stand for so many
    times as many) and `note`. One after the other in each round, so that a machine whose speed drifts is fair to all.
    One whose package is missing raises ImportError: it is left out, with its name.
    """
    found = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in tqdm(list(found), desc="contenders", leave=False, disable=None):
            try:
                found[name].append(timed(contenders[name]))
            except ImportError as error:
                print(f"left out: {name} ({error})", flush=True)
                del found[name]
    table = {}
    for name, runs in found.items():
        scale, note = getattr(contenders[name], "scale", 1), getattr(contenders[name], "note", "")
        seconds = [scale * run["seconds"] for run in runs]
        table[name] = {
            "seconds": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "peak_mb": max(run["peak_mb"] for run in runs),
            "note": note,
            "value": runs[-1]["value"],
        }
    return table


def timed(contender):
    """One run: its seconds, the greatest memory of this process above what it held before, and what came out."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc: what others freed must not hide what this one takes
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the greatest size so far
    began = time.perf_counter()
    value = contender()
    return {"seconds": time.perf_counter() - began, "peak_mb": memory("VmHWM") - before, "value": value}


def machine():
    """What the figures were measured on, in one line."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    amx = "with" if capabilities.get("amx_bf16") else "without"
    return f"{model[0]}, {torch.get_num_threads()} threads, {amx} AMX, Python {platform.python_version()}"


def heading(rounds, packages=PACKAGES):
    """What was measured where and when, the line above a benchmark's tables."""
    named = ", ".join(f"{name} {version}" for name, version in versions(packages).items())
    return f"{machine()}; {named}; {datetime.date.today()}; medians of {rounds} rounds; peak MB above what was there."


def scaled(function, scale, note):
    """`function` with the remark that its seconds stand for `scale` times as many."""

    def run():
        return function()

    run.scale, run.note = scale, note
    return run


def seconds_text(seconds):
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.3f}"


def versions(packages):
    """Versions of what takes part, those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def markdown(columns, rows):
    """A Markdown table: first column left, the others right."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def write(folder, name, content, text):
    """Save figures as JSON and print them as text."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (path / f"{name}.md").write_text(text + "\n")
    print(f"{text}\n\nwritten: {path / name}.json, {path / name}.md")
