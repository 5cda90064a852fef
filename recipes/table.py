"""Print the table of a folder of runs as Markdown: stage-1 losses across, stage-2 losses down.

    python recipes/table.py output/sop [--reference=ancestor] [--k=10] [--differences]
    python recipes/table.py output/mine --metric=map@r

Runs lie at <root>/seed<S>/<elem> (stage 1 alone), <elem>+<pair> (both stages), <elem>+longer (stage 1 alone for as many
seconds as both stages) and untrained, whatever the names of <elem> and <pair> are; each holds result.json, or
eval/result.json, which then is the one that counts and the one that has other figures than Recall@k.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np  # noqa: E402

from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402

# The order of columns and rows; what has another name stands behind them.
ELEM = ("softmax", "arcmargin")
SECONDS = ("", "+longer", "+triplet", "+quadruplet", "+eml", "+npairs", "+whitening")
BASES = {"": "stage 1", "+longer": "stage 1 longer"}
TITLES = {"": "none", "+longer": "none, trained longer"}
# 0.975 quantiles of Student's t with 1, 2, 3, ... degrees of freedom; the last serves for more, a little too wide then.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NOTHING = "–"  # a cell without a run
# Recall@1 on Stanford Online Products after softmax and arcmargin, in the README of PaddlePaddle's metric_learning.
ANCESTOR = {
    "": ("77.42", "78.11"),
    "+triplet": ("78.37", "79.21"),
    "+quadruplet": ("78.10", "79.59"),
    "+eml": ("79.32", "80.11"),
    "+npairs": (NOTHING, "79.81"),
}

SeedFigures = dict[str, float]  # {seed folder: the figure in %} of one run


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder that holds seed0, seed1, ...")
    parser.add_argument("--k", type=int, default=1, help="Recall@k (default: 1)")
    parser.add_argument("--metric", help="another figure of eval.py, as map@r (default: Recall@k)")
    parser.add_argument("--reference", choices=["ancestor"], help="add PaddlePaddle's Recall@1 on SOP")
    parser.add_argument("--differences", action="store_true", help="add what each second stage gains, seed by seed")
    args = parser.parse_args(argv)
    metric = args.metric or f"recall@{args.k}"
    if args.reference and metric != "recall@1":
        raise InputError(f"--reference={args.reference} has Recall@1 only, not {metric}")

    runs = read_runs(args.root, metric)
    seeds = max(len(figures) for figures in runs.values())
    spread = "one run a cell"
    if seeds > 1:
        spread = f"mean ± sample standard deviation over {seeds} seeds"
    title = metric.replace("recall@", "Recall@")
    print(f"{title} in %, {spread}.\n\n{figures_table(runs, seeds, bool(args.reference))}")
    if "untrained" in runs:
        print(f"\nUntrained features: {cell(list(runs['untrained'].values()), seeds)}.")
    if args.reference:
        print("\n(PaddlePaddle): theirs, Recall@1 on SOP, one run a cell, from the README of its metric_learning.")
    if args.differences:
        print("\nDifferences in points, seed by seed, mean ± half of the 95 % interval of a paired t test:\n")
        print(differences_table(runs, seeds))


def read_runs(root: str | Path, metric: str) -> dict[str, SeedFigures]:
    """The figures of all runs below `root`, by the run's name: each folder is one."""
    runs: dict[str, SeedFigures] = {}
    for seed in sorted(Path(root).glob("seed*")):
        for run in sorted(folder for folder in seed.iterdir() if folder.is_dir()):
            runs.setdefault(run.name, {})[seed.name] = read_figure(run, metric)
    if not runs:
        raise InputError(f"no run in {root}: expected folders such as {Path(root, 'seed0', 'softmax+triplet')}")
    return runs


def read_figure(run: Path, metric: str) -> float:
    """The metric in % of one run folder. Raises InputError, naming the file, where it is missing or unreadable."""
    path = run / "result.json"
    if (run / "eval").is_dir():
        path = run / "eval" / "result.json"
    place = ("metrics", metric)
    if metric.startswith("recall@"):
        place = ("recall", metric.removeprefix("recall@"))
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return 100 * float(result[place[0]][place[1]])
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the run is not finished") from None
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise InputError(f'{path} has no {{"{place[0]}": {{"{place[1]}": fraction}}}}: {problem!r}') from None


def stages(runs: dict[str, SeedFigures]) -> tuple[list[str], list[str]]:
    """The columns and the rows that `runs` need: names of stage 1, and of stage 2 with the `+` before them."""
    names = [name.partition("+") for name in runs if name != "untrained"]
    columns = _in_order({first for first, _, _ in names}, ELEM)
    rows = _in_order({plus + second for _, plus, second in names}, SECONDS)
    return columns, rows


def _in_order(names: set[str], order: tuple[str, ...]) -> list[str]:
    """Those that `order` knows, as it has them, then the others by name."""
    return [name for name in order if name in names] + sorted(names.difference(order))


def title_of(second: str) -> str:
    """What the row of a second stage is called."""
    return TITLES.get(second, second[1:])


def figures_table(runs: dict[str, SeedFigures], seeds: int, with_ancestor: bool) -> str:
    """The figure of each pair of stages; where asked for, the ancestor's in two more columns."""
    columns, rows = stages(runs)
    head = ["second stage", *columns]
    if with_ancestor:
        head += [f"{elem} (PaddlePaddle)" for elem in ELEM]
        rows = _in_order({*rows, *ANCESTOR}, SECONDS)
    lines = []
    for second in rows:
        cells = [cell(list(runs.get(elem + second, {}).values()), seeds) for elem in columns]
        if with_ancestor:
            cells += ANCESTOR.get(second, (NOTHING, NOTHING))
        lines.append([title_of(second), *cells])
    return markdown(head, lines)


def differences_table(runs: dict[str, SeedFigures], seeds: int) -> str:
    """Each second stage minus stage 1 alone, and minus stage 1 trained longer: paired, seed by seed."""
    elems, seconds = stages(runs)
    columns = [(elem, base) for elem in elems for base in BASES]
    lines = []
    for pair in seconds:
        if pair in BASES:
            continue
        line = [title_of(pair)]
        for elem, base in columns:
            both_stages = runs.get(elem + pair, {})
            alone = runs.get(elem + base, {})
            gains = [both_stages[seed] - alone[seed] for seed in both_stages if seed in alone]
            line.append(difference_cell(gains, seeds))
        if set(line[1:]) != {NOTHING}:
            lines.append(line)
    return markdown(["second stage", *(f"{elem}: minus {BASES[base]}" for elem, base in columns)], lines)


def cell(values: list[float], seeds: int) -> str:
    """Mean ± sample standard deviation of `values` (%), with their number where it is not `seeds`; – for none."""
    if not values:
        return NOTHING
    text = f"{np.mean(values):.2f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.2f}"
    return text + _count(values, seeds)


def difference_cell(gains: list[float], seeds: int) -> str:
    """Mean ± half of the 95 % interval of a paired t test of `gains`, with their number where it is not `seeds`."""
    if not gains:
        return NOTHING
    text = f"{np.mean(gains):+.2f}"
    if len(gains) > 1:
        freedom = min(len(gains) - 1, len(T_QUANTILES))
        half = T_QUANTILES[freedom - 1] * np.std(gains, ddof=1) / np.sqrt(len(gains))
        text += f" ± {half:.2f}"
    return (text + _count(gains, seeds)).replace("-", "−")


def _count(values: list[float], seeds: int) -> str:
    """How many values there are, where that is not one for each seed."""
    if len(values) == seeds:
        return ""
    return f" (n={len(values)})"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    alignment = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, alignment, *rows])


if __name__ == "__main__":
    run_script(main)
