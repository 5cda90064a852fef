"""The last columns of docs/seeds.md and docs/oml.md: what the tests that a row names have found.

python recipes/seeds_table.py [ROW ...]: the rows with these first cells (P5, "O1–O3"), or all of them. A row with a
test that is not done within --limit, or is only skipped, and one that names no test, keeps what it has. Tests that are
named are run whether they are slow or not, those of a whole file without its slow ones; files tests/test_peer*.py in
the environment of `make peers`, into which `make test_peers` brings pytest.

A test says more than that it passed by pytest's `record_property(name, value)`. Over the cases of a row, names that
begin with "largest" or "least" give their extreme and whole numbers are added up; of other values a test's first is
shown, and of one named "printed" it stands without its name.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.files import replacing  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "seeds.md", ROOT / "docs" / "oml.md")
OUTCOMES = ("passed", "failed", "skipped")
LONGEST_TEXT = 110  # characters of a printed line that a cell shows


class Named(NamedTuple):
    """A file of tests/, and the name of one function of it; without a name, all of them."""

    file: str
    name: str = ""


class Case(NamedTuple):
    """What became of a test's function with one set of arguments."""

    name: str
    outcome: str
    reason: str
    properties: list[tuple[str, str]]


class Row(NamedTuple):
    """A row of a page: the place of its line, its first cell, and the tests that it names."""

    line: int
    title: str
    tests: list[Named]


def rows_of(text: str) -> list[Row]:
    """Rows of all tables of a page whose last column is headed "printed"; the column before it names tests.

    Files may be named by a letter, which the page introduces in brackets behind the file: `tests/test_a.py` (a).
    """
    files = {letter: file for file, letter in re.findall(r"`tests/(test_\w+\.py)`[^`|]*?\((\w)\)", text)}
    rows, inside = [], False
    for number, line in enumerate(text.splitlines()):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells or cells[-1] == "printed" or set(cells[-1]) == {"-"}:
            inside = bool(cells) and (inside or cells[-1] == "printed")
        elif inside:
            found = re.findall(r"(?:tests/(test_\w+\.py)|\b(\w)(?=::))(?:::(test_\w+))?", cells[-2])
            rows.append(Row(number, cells[0], [Named(file or files[letter], name) for file, letter, name in found]))
    return rows


def cases_of(report: ElementTree.Element) -> list[Case]:
    """The cases of a report of pytest's --junitxml."""
    cases = []
    for case in report.iter("testcase"):
        problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if problem is None else "skipped" if problem.tag == "skipped" else "failed"
        reason = "" if problem is None else problem.get("message", "")
        properties = [(part.get("name", ""), part.get("value", "")) for part in case.iter("property")]
        cases.append(Case(case.get("name", "").partition("[")[0], outcome, reason, properties))
    return cases


def run_tests(python: str, file: str, names: Iterable[str], limit: float) -> list[Case] | None:
    """The cases of some functions of a file of tests/, or of all that are not slow; None where pytest failed itself."""
    names = sorted(names)
    places = [f"tests/{file}::{name}" for name in names] or [f"tests/{file}"]
    marked = "slow or not slow" if names else "not slow"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", marked, f"--junitxml={report}", *places]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            printed, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # As Ctrl-C does, upon which pytest ends what its tests have started.
            process.send_signal(signal.SIGINT)
            process.communicate()
            return None
        if process.returncode not in (0, 1, 5) or not report.exists():
            print(f"{' '.join(command)}\n{printed}")
            return None
        return cases_of(ElementTree.parse(report).getroot())


def shortened(text: str) -> str:
    """A text on one line that a cell of a table has room for."""
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def merged(cases: Sequence[Case]) -> dict[str, str]:
    """{name: value as it is shown} of what the cases have recorded."""
    numbers: dict[str, float] = {}
    texts: dict[tuple[str, str], str] = {}
    for case in cases:
        for name, value in case.properties:
            if name.startswith("largest"):
                numbers[name] = max(float(value), numbers.get(name, float("-inf")))
            elif name.startswith("least"):
                numbers[name] = min(float(value), numbers.get(name, float("inf")))
            elif re.fullmatch(r"\d+", value):
                numbers[name] = int(value) + numbers.get(name, 0)
            else:
                texts.setdefault((case.name, name), value)
    # Cosines are the least of something, and differ from 1 in their last digits.
    digits = {name: 8 if name.startswith("least") else 3 for name in numbers}
    shown = {name: f"{value:,.{digits[name]}g}" for name, value in numbers.items()}
    shown |= {name: f"{value:,}" for name, value in numbers.items() if isinstance(value, int)}
    for (_, name), value in texts.items():
        value = shortened(value)
        value = f"`{value}`" if name == "printed" else value
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def cell_of(cases: Sequence[Case]) -> str:
    """What a row's last cell says: counts of cases, why some were skipped, and what they recorded."""
    counts = Counter(case.outcome for case in cases)
    parts = [f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    if reasons := {shortened(case.reason) for case in cases if case.outcome == "skipped" and case.reason}:
        parts[-1] += f" ({'; '.join(sorted(reasons))})"
    recorded = [value if name == "printed" else f"{name} {value}" for name, value in merged(cases).items()]
    return ", ".join(parts) + (": " if recorded else "") + ", ".join(recorded)


def has_run(cases: Sequence[Case]) -> bool:
    """Whether there are cases, and not all of them were skipped, as where a page or a package is missing."""
    return any(case.outcome != "skipped" for case in cases)


def written(text: str, cells: dict[int, str]) -> str:
    """The page with other last cells: {place of the line: what it says}."""
    lines = text.splitlines()
    for number, cell in cells.items():
        before = lines[number].rstrip().removesuffix("|").rpartition("|")[0]
        lines[number] = f"{before}| {cell} |"
    return "\n".join(lines) + "\n"


def fill(page: Path, titles: Sequence[str], found: dict[Named, list[Case]]) -> list[str]:
    """Write what was found into rows of a page that have all their tests; returns the titles of the others.

    titles: those of the rows, without any all rows that name tests.
    """
    text = page.read_text()
    rows = [row for row in rows_of(text) if row.tests and (not titles or row.title in titles)]
    done = [row for row in rows if all(test in found for test in row.tests)]
    cells = {row.line: cell_of([case for test in row.tests for case in found[test]]) for row in done}
    with replacing(page) as output:
        output.write(written(text, cells).encode())
    return [row.title for row in rows if row.line not in cells]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help="first cells of rows; without any, all rows")
    parser.add_argument("--limit", type=float, default=300, help="seconds that the tests of one file may take")
    parser.add_argument("--peers", default=str(ROOT / ".venv-peers/bin/python"), help="Python that has the peers")
    args = parser.parse_args(argv)
    rows = [row for page in PAGES for row in rows_of(page.read_text())]
    known = [row.title for row in rows]
    if unknown := [title for title in args.row if title not in known]:
        raise InputError(f"no row {unknown[0]!r}; there are: {', '.join(known)}")

    # Each test once, however many rows name it, and a file's tests together, since they share what they set up.
    wanted: dict[tuple[str, bool], set[str]] = {}
    for test in (test for row in rows if not args.row or row.title in args.row for test in row.tests):
        wanted.setdefault((test.file, bool(test.name)), set()).update({test.name} - {""})
    found: dict[Named, list[Case]] = {}
    for (file, named), names in sorted(wanted.items()):
        python = args.peers if file.startswith("test_peer") else sys.executable
        if not Path(python).exists():
            print(f"tests/{file}: left out, since there is no {python} (--peers)")
            continue
        cases = run_tests(python, file, names, args.limit)
        print(f"tests/{file}: {cell_of(cases) if cases else 'not done'}", flush=True)
        if cases:
            by_test = {Named(file, name): [case for case in cases if case.name == name] for name in names}
            by_test |= {} if named else {Named(file): cases}
            found |= {test: of_test for test, of_test in by_test.items() if has_run(of_test)}
        # After each file, so that what stops it costs no more than the rest.
        for page in PAGES:
            fill(page, args.row, found)

    for page in PAGES:
        print(f"{page.name}, kept as they are: {', '.join(fill(page, args.row, found)) or 'none'}")
    return int(any(case.outcome == "failed" for cases in found.values() for case in cases))


if __name__ == "__main__":
    run_script(lambda argv: sys.exit(main(argv)))
