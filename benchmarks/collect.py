"""Write benchmarks/README.md out of the tables that the benchmarks left, and keep their ratios by commit.

    python benchmarks/collect.py

A lane that left no table keeps the section that the page has. Of the others, each ratio of a row of ours to what was
measured in the same run (a bare product, the plain loop, a peer), and each exponent, becomes a line of
history/LANE.csv: seconds tell of the machine, ratios of the code. What is worse than the best that was kept for this
kind of machine, by more than either run was unsteady, is printed. A lane keeps its last --kept runs, and the lines that
were the best.
"""

import argparse
import csv
import datetime
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_name("README.md")
HISTORY = Path(__file__).with_name("history")
INTRODUCTION = """# How fast

Each file here is one lane, runs alone, prints one table and leaves it in `output/benchmarks/`, with every figure as
JSON. Contenders take turns in one process; a table gives the median, the least and the most seconds, and the limit
measured in the same minutes. `make bench` runs all lanes (`all.py`), shortened to twenty minutes together, and writes
this page (`collect.py`); a lane that was run by itself, longer, stands as that printed it. `benchmarks/history/` keeps
each lane's ratios by commit. A peer that is not installed (`requirements/peers.txt`) is left out by name.
"""
LANES = {
    "search_speed": "Exact evaluation",
    "product_types": "Which product a search is made by",
    "wide": "Wider than memory",
    "codes": "Search by codes",
    "backends": "Backends of an index",
    "images": "Images",
    "formats": "Other images than JPEGs",
    "step": "Training step",
    "head": "Class head",
    "head_losses": "Class losses",
    "pairs": "Pair losses",
    "features": "Feature lane",
    "inference": "Inference",
    "against_peers": "End to end",
    "ranks": "Several ranks",
    "threads": "Waiting threads",
    "serve": "Search server",
    "lists": "Lists on the disk",
    "waiting": "What a user waits for",
    "growth": "Growth",
    "gpu": "A GPU",
}
# Lanes that are another one's file with other flags.
FILES = {"head_losses": "head"}
# Rows of ours; columns that are kept of each row; ratios that are better when they are larger, by the column's name:
# the others are times a limit.
OURS = ("ours", "whole step", "GOMP_SPINCOUNT")
OF_EVERY_ROW = ("peer / ours", "exponent", "× files", "× the training", "× one rank's memory")
LARGER_IS_BETTER = (
    "× ancestor",
    "× torchvision",
    "× plain",
    "× float32",
    "× float32, NCHW",
    "× one",
    "× files",
    "peer / ours",
)
UNSTEADY = 1.1  # what a run may differ by of itself where its table has no spread
COLUMNS = ("commit", "date", "machine", "row", "ratio", "value", "spread")


class Ratio(NamedTuple):
    """A ratio of a lane's table; spread: the most seconds over the least, 1.1 where they are not told."""

    row: str
    ratio: str
    value: float
    spread: float


def section(lane: str, text: str) -> str:
    return f"## {LANES[lane]} (`{FILES.get(lane, lane)}.py`)\n\n{text}"


def check_headings(lane: str, text: str) -> None:
    """Raise ValueError where a lane's text has two tables of one heading, as after a table was put there by hand."""
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    twice = sorted({heading for heading in headings if headings.count(heading) > 1})
    if twice:
        raise ValueError(f"{lane}: two tables are called {', '.join(twice)}; a run's table replaces the lane's section")


def sections(page: str) -> dict[str, str]:
    """{lane: its text} of the page as it stands."""
    parts = re.split(r"^## (.+)\n\n", page, flags=re.MULTILINE)[1:]
    lanes = {section(lane, "").splitlines()[0].removeprefix("## "): lane for lane in LANES}
    return {lanes[title]: text.rstrip("\n") + "\n" for title, text in zip(parts[::2], parts[1::2]) if title in lanes}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def ratios(text: str) -> Iterator[Ratio]:
    """Ratios of our rows in the tables of a lane, each row named with the heading above it."""
    title, columns = "", []
    for line in text.splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ")
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells(line)
        elif not line.startswith("| ---"):
            values = dict(zip(columns, cells(line), strict=False))
            name = next(iter(values.values()))
            kept = [column for column in values if column in OF_EVERY_ROW]
            if name.startswith(OURS):
                kept += [column for column in values if column.startswith("×") and column not in kept]
            yield from _of_row(f"{title}: {name}".removeprefix(": "), values, kept)


def _of_row(name: str, values: dict[str, str], kept: list[str]) -> Iterator[Ratio]:
    least_most = re.fullmatch(r"([\d.,]+)–([\d.,]+)", values.get("least–most", ""))
    spread = UNSTEADY
    if least_most:
        least, most = (float(number.replace(",", "")) for number in least_most.groups())
        spread = max(UNSTEADY, most / least if least else UNSTEADY)
    for column in kept:
        if column != "× ours" and re.fullmatch(r"[\d.]+", values[column]):
            yield Ratio(name, column, float(values[column]), round(spread, 2))


def loss_over(one: float, other: float, column: str) -> float:
    """How many times worse `one` is than `other`."""
    return other / one if column in LARGER_IS_BETTER else one / other


def read_history(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def best_of(lines: list[dict[str, str]]) -> dict[tuple[str, str, str], dict[str, str]]:
    """{(machine, row, ratio): the best line}."""
    best = {}
    for line in lines:
        key = (line["machine"], line["row"], line["ratio"])
        if key not in best or loss_over(float(line["value"]), float(best[key]["value"]), line["ratio"]) < 1:
            best[key] = line
    return best


def worse(new: list[dict[str, str]], best: dict[tuple[str, str, str], dict[str, str]]) -> list[str]:
    """A sentence of each ratio that is worse than the best by more than either of the two is unsteady."""
    told = []
    for line in new:
        old = best.get((line["machine"], line["row"], line["ratio"]))
        if old is None:
            continue
        times = loss_over(float(line["value"]), float(old["value"]), line["ratio"])
        if times > max(float(line["spread"]), float(old["spread"])):
            told.append(
                f"{line['row']}: {line['ratio']} is {line['value']}, {times:.2f} times as bad as the {old['value']} "
                f"of {old['commit']}"
            )
    return told


def shortened(lines: list[dict[str, str]], runs: int) -> list[dict[str, str]]:
    """Lines of the last so many runs, and those of older ones that are the best."""
    last = list(dict.fromkeys((line["commit"], line["date"]) for line in lines))[-runs:]
    best = {id(line) for line in best_of(lines).values()}
    return [line for line in lines if (line["commit"], line["date"]) in last or id(line) in best]


def machine_of(text: str) -> str:
    """Processor, threads and AMX of the line above a lane's tables, or the card and its CUDA."""
    found = re.search(r"([^.;\n]*?\d+ threads, with(?:out)? AMX|^[^,;\n]+, CUDA [\d.]+)", text)
    return found[1].strip() if found else "unknown"


def keep(lane: str, text: str, commit: str, runs: int, folder: Path = HISTORY) -> list[str]:
    """Put a lane's ratios behind those that are kept; returns what got worse, as sentences."""
    date = re.search(r"\d{4}-\d\d-\d\d", text)
    facts = {"commit": commit, "date": date[0] if date else str(datetime.date.today()), "machine": machine_of(text)}
    new = [{**facts, **{name: str(value) for name, value in ratio._asdict().items()}} for ratio in ratios(text)]
    path = folder / f"{lane}.csv"
    old = read_history(path)
    # The table of a run that is kept already, or one without a ratio.
    if not new or any({**line, "commit": ""} == {**new[0], "commit": ""} for line in old):
        return []
    folder.mkdir(exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(shortened(old + new, runs))
    return worse(new, best_of(old))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default="output/benchmarks", help="folder of the tables")
    parser.add_argument("--kept", type=int, default=20, help="runs of a lane that its history keeps (default: 20)")
    args = parser.parse_args(argv)
    git = ["git", "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(git, cwd=PAGE.parent, capture_output=True, text=True).stdout.strip()
    texts = sections(PAGE.read_text()) if PAGE.is_file() else {}
    for lane in LANES:
        table = Path(args.input) / f"{lane}.md"
        if table.is_file():
            texts[lane] = table.read_text()
            for sentence in keep(lane, texts[lane], commit, args.kept):
                print(f"worse than it was: {lane}, {sentence}")
        else:
            print(f"stands as it was: {lane}, there is no {table}")
    for lane, text in texts.items():
        check_headings(lane, text)
    parts = [section(lane, texts[lane]) for lane in LANES if lane in texts]
    PAGE.write_text("\n".join([INTRODUCTION, *parts]))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
