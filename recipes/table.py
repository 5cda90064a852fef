"""Print the 2x5 table of a folder of runs as Markdown: stage-1 losses across, stage-2 losses down.

    python recipes/table.py output/sop [--reference=ancestor] [--k=10] [--differences]

Runs lie at <root>/seed<S>/<elem> (stage 1 alone), <elem>+<pair> (both stages), <elem>+longer (stage 1 alone for as many
seconds as both stages) and untrained; each holds result.json, or eval/result.json, which then is the one that counts.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from core.errors import InputError  # noqa: E402

ELEM, PAIR = ("softmax", "arcmargin"), ("+triplet", "+quadruplet", "+eml", "+npairs")
BASES = {"": "stage 1", "+longer": "stage 1 longer"}
TITLES = {"": "none", "+longer": "none, trained longer", **{pair: pair[1:] for pair in PAIR}}
# Recall@1 on Stanford Online Products after softmax and arcmargin, in the README of PaddlePaddle's metric_learning.
ANCESTOR = {"": ("77.42", "78.11"), "+triplet": ("78.37", "79.21"), "+quadruplet": ("78.10", "79.59")}
ANCESTOR |= {"+eml": ("79.32", "80.11"), "+npairs": ("–", "79.81")}


def read_recall(run, k):
    """Recall@k in % of one run folder. Raises InputError, naming the file, where it is missing or unreadable."""
    path = run / "eval" / "result.json" if (run / "eval").is_dir() else run / "result.json"
    try:
        return 100 * float(json.loads(path.read_text(encoding="utf-8"))["recall"][str(k)])
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the run is not finished") from None
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise InputError(f'{path} has no {{"recall": {{"{k}": fraction}}}}: {problem!r}') from None


def read_runs(root, k):
    """{run name: {seed folder: Recall@k in %}} of all runs below `root`."""
    seeds = sorted(Path(root).glob("seed*"))
    names = ["untrained", *(elem + second for elem in ELEM for second in TITLES)]
    runs = {name: {s.name: read_recall(s / name, k) for s in seeds if (s / name).is_dir()} for name in names}
    if not any(runs.values()):
        raise InputError(f"no run in {root}: expected folders such as {Path(root, 'seed0', 'softmax+triplet')}")
    return runs


def cell(values, seeds, sign=""):
    """Mean ± sample standard deviation of `values` (%), with their number where it is not `seeds`; – for none."""
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    number = f" (n={len(values)})" if len(values) != seeds else ""
    return f"{np.mean(values):{sign}.2f}{spread}{number}".replace("-", "−")


def markdown(head, rows):
    """A Markdown table: first column left, the others right."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def recall_table(runs, seeds, reference):
    """Recall of each pair of stages; with `reference`, the ancestor's figures in two more columns."""
    rows = []
    for second, title in TITLES.items():
        cells = [cell(list(runs[elem + second].values()), seeds) for elem in ELEM]
        if second != "+longer" or set(cells) != {"–"}:
            rows.append([title, *cells, *(ANCESTOR.get(second, "––") if reference else ())])
    return markdown(["second stage", *ELEM, *(f"{elem} (PaddlePaddle)" for elem in ELEM if reference)], rows)


def differences_table(runs, seeds):
    """Each second stage minus stage 1 alone, and minus stage 1 trained longer: paired, seed by seed."""
    columns = [(elem, other) for elem in ELEM for other in BASES]
    rows = []
    for pair in PAIR:
        both = [(runs[elem + pair], runs[elem + other]) for elem, other in columns]
        gains = [[ours[seed] - base[seed] for seed in ours if seed in base] for ours, base in both]
        rows.append([TITLES[pair], *(cell(gain, seeds, sign="+") for gain in gains)])
    return markdown(["second stage", *(f"{elem}: minus {BASES[other]}" for elem, other in columns)], rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder that holds seed0, seed1, ...")
    parser.add_argument("--k", type=int, default=1, help="Recall@k (default: 1)")
    parser.add_argument("--reference", choices=["ancestor"], help="add PaddlePaddle's Recall@1 on SOP")
    parser.add_argument("--differences", action="store_true", help="add what each second stage gains, seed by seed")
    args = parser.parse_args(argv)
    if args.reference and args.k != 1:
        raise InputError(f"--reference={args.reference} has Recall@1 only, not --k={args.k}")
    runs = read_runs(args.root, args.k)
    seeds = max(map(len, runs.values()))
    spread = f"mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "one run a cell"
    print(f"Recall@{args.k} in %, {spread}.\n\n{recall_table(runs, seeds, args.reference)}")
    if runs["untrained"]:
        print(f"\nUntrained features: {cell(list(runs['untrained'].values()), seeds)}.")
    if args.reference:
        print("\n(PaddlePaddle): theirs, Recall@1 on SOP, one run a cell, from the README of its metric_learning.")
    if args.differences:
        print(f"\nDifferences in points, seed by seed:\n\n{differences_table(runs, seeds)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
