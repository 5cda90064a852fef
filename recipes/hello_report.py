"""The hello world's closing words: how its points moved, as a strip and as a GIF, and the figures of its last test.

python recipes/hello_report.py output/hello/seed0
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
import numpy as np  # noqa: E402

from core.errors import InputError  # noqa: E402
from report.scatter import animate, frame_of, scatter, scatter_strip  # noqa: E402

STRIP = 8  # tests in it, at most


def read_tests(run: Path) -> dict[int, dict[str, float]]:
    """{step: {name: figure}} of a run's tests."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["group"] == "test"}


def read_points(run: Path, step: int) -> tuple[np.ndarray, list[str]]:
    """(points (N, 2), labels) of a test: what the run left for TensorBoard's projector."""
    folder = run / f"{step:05}" / "test"
    with open(folder / "metadata.tsv") as stream:
        labels = [row["label"] for row in csv.DictReader(stream, delimiter="\t")]
    return np.loadtxt(folder / "tensors.tsv", delimiter="\t", ndmin=2), labels


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run of recipes/hello_mnist.sh")
    run = parser.parse_args(argv).run
    if not (run / "metrics.jsonl").is_file():
        raise InputError(f"{str(run)!r} holds no metrics.jsonl: sh recipes/hello_mnist.sh makes such a run")
    points = []
    captions = []
    for step, figures in read_tests(run).items():
        of_step, labels = read_points(run, step)
        points.append(of_step)
        captions.append(f"step {step}: {100 * figures['knn@5']:.1f} %")

    # So many of the tests as there is room for, evenly spaced, the first and the last among them.
    chosen = np.linspace(0, len(points) - 1, min(STRIP, len(points))).round().astype(int)
    scatter_strip([(points[number], captions[number]) for number in chosen], labels, run / "strip.png")
    frame = frame_of(*points)
    title = f"{len(labels):,} held-out digits"
    pictures = [
        scatter(of_step, labels, title, f"{caption} by 5-NN", frame) for of_step, caption in zip(points, captions)
    ]
    animate(pictures, run / "training.gif")

    accuracy = f"5-NN accuracy {100 * figures['knn@5']:.1f} % on {title}"
    print(f"\n{accuracy}, loss of fixed pairs of them {figures['loss']:.4f}")
    print(f"every test   {run / 'pictures'}")
    print(f"in a row     {run / 'strip.png'}")
    print(f"in motion    {run / 'training.gif'}")
    print(f"curves       tensorboard --logdir {run}")


if __name__ == "__main__":
    run_script(main)
