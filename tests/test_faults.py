"""How many cases of broken input are tested: the table of docs/trust.md, counted anew.

python -m pytest tests/test_faults.py -q -s
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "trust.md").read_text()


def table():
    """[(what, cases promised, [test file or test, ...]), ...] of the table in docs/trust.md."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (`test_[^|]+) \|$", TEXT, re.M)
    return [(what, int(cases.replace(",", "")), re.findall(r"`([^`]+)`", where)) for what, cases, where in rows]


def test_there_are_as_many_cases_as_promised():
    rows = table()
    files = sorted({where.split("::")[0] for _, _, places in rows for where in places})
    # Slow ones count too: they are tested by make test_slow.
    every = ("-m", "slow or not slow")
    command = [sys.executable, "-m", "pytest", "--collect-only", *every, *(f"tests/{file}" for file in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    cases = re.findall(r"^tests/(test_\w+\.py::\w+)", done.stdout, re.M)
    counts = {what: sum(case.startswith(tuple(places)) for case in cases) for what, _, places in rows}
    print()
    for what, _, places in rows:
        print(f"{counts[what]:>6} {what} ({', '.join(places)})")
    for what, promised, _ in rows:
        assert counts[what] >= promised > 0, f"docs/trust.md: {promised} cases of {what!r}, there are {counts[what]}"
    assert len(rows) == 13
