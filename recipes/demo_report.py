"""The demo's closing words: Recall@1 untrained, after stage 1, after stage 2, and the same queries before and after.

python recipes/demo_report.py output/demo arcmargin arcmargin+eml
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from retrieval.picture import side_by_side  # noqa: E402


def main(root, first, second):
    root = Path(root)
    rows = {"untrained (ImageNet weights)": root / "untrained", f"stage 1: {first}": root / first / "eval"}
    rows[f"stage 2: {second}"] = root / second / "eval"
    print(f"\n{'':<30} Recall@1  Recall@10")
    for title, folder in rows.items():
        recall = json.loads((folder / "result.json").read_text())["recall"]
        print(f"{title:<30} {100 * recall['1']:7.2f} % {100 * recall['10']:8.2f} %")
    sheets = [root / "untrained" / "neighbours.png", root / second / "eval" / "neighbours.png"]
    side_by_side(sheets, ["Before training", "After both stages"], root / "before_after.png")
    print(f"\nneighbours   {root / 'before_after.png'}")
    print(f"embeddings   {root / second / 'embeddings.npz'}")
    print(f"runs         {root / first}, {root / second}")
    print(f"curves       tensorboard --logdir {root}")


if __name__ == "__main__":
    main(*sys.argv[1:])
