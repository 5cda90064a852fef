"""The hello world's closing words: how its points moved, as a strip and as a GIF, and the figures of its last test.

python recipes/hello_report.py output/hello/seed0
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from report.scatter import animate, frame_of, scatter, scatter_strip  # noqa: E402

STRIP = 8  # tests in it, at most


def read_tests(run: Path) -> tuple[list[int], list[np.ndarray], list[str]]:
    """(steps, points (N, 2) of each, labels): what the run left of its tests for TensorBoard's projector."""
    tests = {int(file.parts[-3]): file for file in run.glob("*/test/tensors.tsv") if file.parts[-3].isdigit()}
    steps = sorted(tests)
    points = [np.loadtxt(tests[step], delimiter="\t", ndmin=2) for step in steps]
    with open(tests[steps[-1]].with_name("metadata.tsv")) as stream:
        labels = [row["label"] for row in csv.DictReader(stream, delimiter="\t")]
    return steps, points, labels


def main(run: str) -> None:
    run = Path(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = {line["step"]: line for line in lines if line["group"] == "test"}
    steps, points, labels = read_tests(run)

    # So many of the tests as there is room for, evenly spaced, the first and the last among them.
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(STRIP, len(steps)), dtype=int))
    captions = [f"step {step}: {100 * figures[step]['knn@5']:.1f} %" for step in steps]
    scatter_strip([(points[number], captions[number]) for number in chosen], labels, run / "strip.png")
    frame = frame_of(*points)
    title = "1,000 held-out digits" if len(labels) == 1000 else f"{len(labels)} held-out digits"
    pictures = [scatter(at, labels, title, f"{caption} by 5-NN", frame) for at, caption in zip(points, captions)]
    animate(pictures, run / "training.gif")

    last = figures[steps[-1]]
    print(
        f"\n5-NN accuracy {100 * last['knn@5']:.1f} % on held-out digits, loss on fixed pairs of them {last['loss']:.4f}"
    )
    print(f"every test   {run / 'pictures'}")
    print(f"in a row     {run / 'strip.png'}")
    print(f"in motion    {run / 'training.gif'}")
    print(f"curves       tensorboard --logdir {run}")


if __name__ == "__main__":
    main(*sys.argv[1:])
