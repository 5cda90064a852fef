"""The training step: precisions and layouts beside the plain loop, and what our loop adds to the bare step.

    python benchmarks/step.py                                  # eight minutes on 2 cores
    python benchmarks/step.py --networks=ResNet18:96:64 --rounds=1

A network is name:pixels:batch. The plain loop runs in a process of its own, as a user's would (_plain_loop.py):
float32, contiguous, with malloc and OpenMP as they come. The other rows share one process, which has this repository's
settings of both. The whole step is our loop with everything in it: images of the embedded set loaded by a worker, loss,
displayed figures, the checkpoint's seconds spread over 1,000 steps. The limit is what the same step's convolutions,
products and attention take alone, one after the other (_heavy_calls.py): all that is left to save stands between.
With --compile the compiled network is a row more, and the seconds until its first step are told: minutes.
--operations says what the rest is: the milliseconds of each kind of operation in a float32 step (_operations.py); with
--rounds=0 that is all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import torch

from benchmarks._heavy_calls import HeavyCalls, seconds_alone
from benchmarks._operations import operation_table
from benchmarks._contest import heading, markdown, seconds_text, timed, write
from core.device import choose_device, choose_precision, has_bfloat16
from core.openmp import POLICY
from data.image.modality import ImageModality
from data.image.transforms import TrainTransform
from data.lists import open_list
from data.loader import open_loader
from data.samplers import ShuffledSampler
from engine.checkpoint import Checkpoints, training_state
from engine.learner import Learner
from engine.loop import fit
from engine.nan_guard import FiniteGuard
from engine.objective import build_objective
from engine.optimiser import build_optimiser
from engine.step import backward, update
from losses import ArcMarginLoss
from models import Embedder
from models.recompute import recompute_stages

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = "ResNet50:224:16,ResNet18:96:64,timm:vit_small_patch16_224:224:8"
PLAIN = "plain loop: float32, contiguous, a process of its own"
NAMES = {"fp32": "float32", "bf16": "bfloat16"}


@contextmanager
def plain_loop(network, pixels, batch, classes):
    """A function that has the plain loop's process do a step, and returns what that prints."""
    # What core/openmp.py has set for this process, a user's plain loop is without.
    environment = {name: value for name, value in os.environ.items() if POLICY.get(name) != value}
    environment["PYTHONPATH"] = str(ROOT)
    program = [sys.executable, "-c", "from benchmarks._plain_loop import main; main()", network]
    program += map(str, (pixels, batch, classes))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, env=environment, **pipes) as process:

        def step():
            print(file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield step
        process.stdin.close()


class Bench:
    """One network with arcmargin over `classes` classes, as a run has it; recompute, compiled: as those flags do."""

    def __init__(self, network, classes, optimiser="momentum", freeze_stages=0, recompute=False, compiled=False):
        torch.manual_seed(0)
        model = Embedder(network, freeze_stages=freeze_stages)
        if recompute:
            recompute_stages(model)
        if compiled:
            model.compile()
        objective = build_objective(model, ArcMarginLoss(model.embedding_size, classes), torch.device("cpu"))
        optimiser = build_optimiser(model, objective.loss, optimiser=optimiser, lr=1e-4)
        objective.train()
        self.learner = Learner(objective, optimiser, torch.device("cpu"))

    def step(self, images, labels, precision):
        self.learner.precision = precision
        self.learner.optimiser.zero_grad(set_to_none=True)
        loss = backward(self.learner, images, labels)
        update(self.learner)
        return loss.item()

    def limit(self, images, labels, precision):
        """The seconds of a step's heavy calls, each alone, as `race` takes them."""
        with HeavyCalls() as heavy:
            self.step(images, labels, precision)
        return {"seconds": seconds_alone(heavy.calls), "peak_mb": 0}

    def whole(self, loader, precision, steps):
        """So many steps of the real loop."""
        shown = []
        self.learner.precision = precision
        fit(
            self.learner,
            loader,
            lambda step: 1e-4,
            start=0,
            total=steps,
            guard=FiniteGuard(self.learner.objective, self.learner.device),
            display_every=steps,
            on_display=lambda step, figures: shown.append(figures),
            on_step=lambda step: None,
        )
        return shown[-1]["loss"]

    def save_seconds(self):
        """Of one checkpoint."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            state = training_state(self.learner, 1, None, torch.arange(2))
            Checkpoints(folder).save_step(state, needed=True)
            return time.perf_counter() - began


def random_batch(pixels, batch, classes):
    """(uint8 images (B, 3, H, W) that lie pixel by pixel, as the loader's do; labels (B,))."""
    pictures = torch.randint(256, (batch, pixels, pixels, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return pictures, torch.randint(classes, (batch,))


def contenders(network, pixels, batch, images, labels, plain, steps, compiled=False):
    """({name: function}, the whole loop's Bench): one step each, and the whole loop with its seconds for one step.

    plain: what does a step of the plain loop. steps: of the whole loop in one run.
    """
    classes = int(labels.max()) + 1
    own, frugal = Bench(network, classes), Bench(network, classes, recompute=True)
    pictures, codes = random_batch(pixels, batch, classes)
    auto = choose_precision("auto", torch.device("cpu"))
    sampler = ShuffledSampler(labels, batch_size=batch)
    modality = ImageModality(TrainTransform(pixels, pixels, 0, ("crop", "flip"), (0.08, 1.0)))
    loader = open_loader(images, modality, sampler, num_workers=1)

    def whole(precision):
        run = timed(lambda: own.whole(loader, precision, steps))
        return {"seconds": run["seconds"] / steps, "peak_mb": run["peak_mb"]}

    # Where bfloat16 is fast only for some networks, --precision=auto leaves it to whoever asks for it.
    precisions = [auto]
    if auto == "fp32" and has_bfloat16():
        precisions.append("bf16")
    functions = {PLAIN: plain}
    for precision, name in NAMES.items():
        functions[name] = second(partial(own.step, pictures, codes, precision))
        functions[f"limit, {name}: convolutions, products, attention alone"] = partial(
            own.limit, pictures, codes, precision
        )
    functions[f"{precisions[-1]}, --recompute=True"] = second(lambda: frugal.step(pictures, codes, precisions[-1]))
    if compiled:
        made = Bench(network, classes, compiled=True)
        functions[f"{auto}, --compile=True"] = second(lambda: made.step(pictures, codes, auto))
    functions[f"whole step, --precision=auto ({auto})"] = partial(whole, auto)
    for precision in precisions[1:]:
        functions[f"whole step, --precision={precision}"] = partial(whole, precision)
    return functions, own


def second(step):
    """A function that does two steps: {"seconds": of the second, "peak_mb", "first": seconds of the first}.

    What other contenders freed is given back to the system before the first, so that its memory is its own; taking it
    anew is no part of a step in the middle of a run.
    """

    def run():
        first = timed(step)
        began = time.perf_counter()
        step()
        return {"seconds": time.perf_counter() - began, "peak_mb": first["peak_mb"], "first": first["seconds"]}

    return run


def race(entrants, rounds):
    """{name: {"seconds": median, "spread": [least, most], "peak_mb": most, "first": of its first run, if it says so}}.

    entrants: {name: function() -> {"seconds": of a step, "peak_mb": ...}}, one after the other in each round.
    """
    found = {name: [] for name in entrants}
    for _ in range(rounds):
        for name, entrant in entrants.items():
            found[name].append(entrant())
    table = {}
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        table[name] = {
            "seconds": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "peak_mb": max(run["peak_mb"] for run in runs),
            "first": runs[0].get("first"),
        }
    return table


def lane_table(figures, batch):
    limit = next(iter(figures.values()))["seconds"]
    rows = []
    for name, own in figures.items():
        spread = "–".join(seconds_text(seconds) for seconds in own["spread"])
        speed = [f"{batch / own['seconds']:.1f}", f"{limit / own['seconds']:.2f}"]
        megabytes = f"{own['peak_mb']:.0f}" if own["peak_mb"] else ""
        rows.append([name, seconds_text(own["seconds"]), spread, *speed, megabytes])
    return markdown(["", "seconds a step", "least–most", "images/s", "× plain", "peak MB"], rows)


def operations(network, pixels, batch, images):
    """The table of a float32 step's kinds of operations."""
    classes = len(images.vocabulary)
    pictures, codes = random_batch(int(pixels), int(batch), classes)
    return operation_table(partial(Bench(network, classes).step, pictures, codes, "fp32"))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=NETWORKS, help=f"name:pixels:batch (default: {NETWORKS})")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each contender (default: 3), of which the first step warms up"
    )
    parser.add_argument("--steps", type=int, default=10, help="of the whole loop in one run (default: 10)")
    parser.add_argument("--compile", action="store_true", help="also the compiled network")
    parser.add_argument("--operations", action="store_true", help="also what each kind of operation takes")
    parser.add_argument("--output", default="output/benchmarks", help="folder of the figures")
    args = parser.parse_args(argv)
    choose_device(use_gpu=False)
    images = open_list("Ebay_train.txt", None, "train")
    labels = images.vocabulary.codes
    result, parts = {"rounds": args.rounds, "networks": {}}, [heading(args.rounds)]
    for text in args.networks.split(","):
        network, pixels, batch = text.rsplit(":", 2)
        if not args.rounds:
            parts.append(f"### {network}, {pixels} px, batch {batch}\n\n{operations(network, pixels, batch, images)}")
            print(parts[-1], flush=True)
            continue
        with plain_loop(network, pixels, batch, len(images.vocabulary)) as plain:
            entrants, bench = contenders(
                network, int(pixels), int(batch), images, labels, plain, args.steps, args.compile
            )
            figures = race(entrants, args.rounds)
        saving = bench.save_seconds() / 1000
        result["networks"][text] = {**figures, "checkpoint_seconds_per_step": saving}
        parts.append(
            f"### {network}, {pixels} px, batch {batch}\n\n{lane_table(figures, int(batch))}\n\n"
            f"A checkpoint every 1,000 steps adds {1000 * saving:.2f} ms a step."
        )
        for name, figure in figures.items():
            if "--compile" in name:
                parts[-1] += f" The first step of the compiled network took {figure['first']:.0f} s."
        if args.operations:
            parts[-1] += f"\n\n{operations(network, pixels, batch, images)}"
        print(parts[-1], flush=True)
    write(args.output, "step", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
