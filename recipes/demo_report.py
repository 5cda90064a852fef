"""The demo's closing words: Recall@1 of its three models, and the same queries before and after training.

python recipes/demo_report.py output/demo untrained arcmargin arcmargin+whitening
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402
from report.neighbours import side_by_side  # noqa: E402


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the demo's folder, with its runs in seed0/")
    for name in ("untrained", "first", "second"):
        parser.add_argument(name, help="a run of it")
    args = parser.parse_args(argv)
    root, untrained, first, second = args.root, args.untrained, args.first, args.second
    runs = root / "seed0"
    results = {
        "untrained (ImageNet weights)": runs / untrained / "eval" / "result.json",
        f"stage 1: {first}": runs / first / "result.json",
        f"stage 2: {second}": runs / second / "result.json",
    }
    for file in results.values():
        if not file.is_file():
            raise InputError(f"there is no {str(file)!r}: sh recipes/demo.sh makes it")
    print(f"\n{'':<30} Recall@1  Recall@10")
    for title, file in results.items():
        recall = json.loads(file.read_text())["recall"]
        print(f"{title:<30} {100 * recall['1']:7.2f} % {100 * recall['10']:8.2f} %")
    sheets = [runs / run / "eval" / "neighbours.png" for run in (untrained, second)]
    side_by_side(sheets, ["Before training", "After both stages"], root / "before_after.png")
    print(f"\nneighbours   {root / 'before_after.png'}")
    print(f"embeddings   {root / 'embeddings.npz'} (paths, labels, embeddings)")
    print(f"runs         {runs / first}, {runs / second}")
    print(f"curves       tensorboard --logdir {root}")


if __name__ == "__main__":
    run_script(main)
