"""recipes/seeds_table.py on a made page and a made report; docs/seeds.md and docs/oml.md name tests that there are."""

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tolerances import COMPARED, assert_within, closeness_counted

from core.errors import InputError
from recipes import seeds_table
from recipes.seeds_table import Case, Named

ROOT = Path(__file__).resolve().parents[1]
PAGE = """# Rows

Doors are tested by `tests/test_a.py` (a) and, beside the package
itself, `tests/test_peer_b.py` (b).

| row | feature |
|---|---|
| X1 | `tests/test_a.py::test_of_no_column` |

| row | feature | shown by | printed |
|---|---|---|---|
| P1 | one | `tests/test_a.py::test_one`, b::test_two | passed |
| P2 | all | `tests/test_c.py` | – |
| P3 | by hand | `make hello` | a figure |
"""
REPORT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.test_a" name="test_one[0.5-a]"><properties>
<property name="largest difference" value="1e-9"/><property name="flags" value="7"/>
<property name="printed" value="recall 0.5 | of&#9;30"/><property name="least cosine" value="0.99999988"/></properties></testcase>
<testcase classname="tests.test_a" name="test_one[2-b]"><properties>
<property name="largest difference" value="2.5e-9"/><property name="flags" value="1993"/>
<property name="printed" value="recall 0.6"/><property name="least cosine" value="0.9999998"/></properties></testcase>
<testcase classname="tests.test_a" name="test_two"><skipped message="no curl" type="pytest.skip"/></testcase>
<testcase classname="tests.test_a" name="test_two"><failure message="assert 1 == 2"/></testcase>
</testsuite></testsuites>"""


def test_rows_name_their_tests():
    rows = seeds_table.rows_of(PAGE)
    assert [row.title for row in rows] == ["P1", "P2", "P3"]
    assert [row.tests for row in rows] == [
        [Named("test_a.py", "test_one"), Named("test_peer_b.py", "test_two")],
        [Named("test_c.py")],
        [],
    ]


def test_a_cell_counts_cases_and_takes_extremes_sums_and_first_texts():
    cases = seeds_table.cases_of(ElementTree.fromstring(REPORT))
    assert [case.outcome for case in cases] == ["passed", "passed", "skipped", "failed"]
    assert seeds_table.cell_of(cases) == (
        "2 passed, 1 failed, 1 skipped (no curl): "
        "largest difference 2.5e-09, flags 2,000, least cosine 0.9999998, `recall 0.5 / of 30`"
    )
    assert seeds_table.cell_of([Case("test", "passed", "", [("printed", "x" * 999)])]).endswith("xx…`")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The made page in the place of ours, and which tests are asked for; those of test_c.py take too long."""
    file, asked = tmp_path / "page.md", []
    file.write_text(PAGE)
    monkeypatch.setattr(seeds_table, "PAGES", (file,))

    def run_tests(python, test_file, names, limit):
        asked.append((Path(python).name, test_file, sorted(names)))
        return None if test_file == "test_c.py" else [Case(name, "passed", "", []) for name in names]

    monkeypatch.setattr(seeds_table, "run_tests", run_tests)
    (tmp_path / "peers").touch()
    return file, asked, f"--peers={tmp_path / 'peers'}"


def test_a_row_whose_tests_are_not_done_keeps_what_it_has(page, capsys):
    file, asked, peers = page
    assert seeds_table.main([peers]) == 0
    assert [words[1:] for words in asked] == [
        ("test_a.py", ["test_one"]),
        ("test_c.py", []),
        ("test_peer_b.py", ["test_two"]),
    ]
    assert asked[-1][0] == "peers"
    changed = [line for line in file.read_text().splitlines() if line not in PAGE.splitlines()]
    assert changed == ["| P1 | one | `tests/test_a.py::test_one`, b::test_two | 2 passed |"]
    assert "page.md, kept as they are: P2" in capsys.readouterr().out


def test_a_row_whose_test_is_only_skipped_keeps_what_it_has(page, capsys, monkeypatch):
    file, _, peers = page
    skipped = Case("test_one", "skipped", "no page", [])
    monkeypatch.setattr(seeds_table, "run_tests", lambda python, file, names, limit: [skipped])
    assert seeds_table.main([peers, "P1"]) == 0 and file.read_text() == PAGE
    assert "page.md, kept as they are: P1" in capsys.readouterr().out


def test_rows_may_be_chosen(page, capsys):
    file, asked, peers = page
    assert seeds_table.main([peers, "P2"]) == 0 and [words[1] for words in asked] == ["test_c.py"]
    assert file.read_text() == PAGE
    assert seeds_table.main(["--peers=/nowhere/python", "P1"]) == 0 and file.read_text() == PAGE
    assert "left out, since there is no /nowhere/python" in capsys.readouterr().out
    with pytest.raises(InputError, match="no row 'P9'; there are: P1, P2, P3"):
        seeds_table.main(["P9"])


def test_what_a_test_compares_is_counted():
    COMPARED.clear()
    assert_within([1.0, 2.0, float("inf")], [1.0, 2.5, float("inf")], 1.0)
    with closeness_counted():
        torch.testing.assert_close(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), rtol=0, atol=2)
    assert COMPARED == {"numbers compared": 5, "largest difference": 1.0, "largest share of the allowed": 0.5}


@pytest.mark.parametrize("real", seeds_table.PAGES, ids=lambda real: real.name)
def test_every_test_that_a_page_names_is_there(real):
    named = {test for row in seeds_table.rows_of(real.read_text()) for test in row.tests}
    assert len(named) > 30
    for file in {test.file for test in named}:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {test.name for test in named if test.file == file} <= functions | {""}, file


def ids_of(title):
    """{O1, O2, O3, O7} of "O1–O3, O7"; nothing of a title in words."""
    ids = set()
    for part in title.split(", "):
        if match := re.fullmatch(r"([A-Z])(\d+)(?:–[A-Z](\d+))?", part):
            letter, first, last = match.groups()
            ids |= {f"{letter}{number}" for number in range(int(first), int(last or first) + 1)}
    return ids


def test_every_row_is_there_and_says_what_was_printed():
    rows = [row for page in seeds_table.PAGES for row in seeds_table.rows_of(page.read_text())]
    asked = {"P": 22, "E": 15, "B": 8, "O": 71}
    wanted = {f"{letter}{number}" for letter, count in asked.items() for number in range(1, count + 1)}
    assert set().union(*(ids_of(row.title) for row in rows)) == wanted
    for page in seeds_table.PAGES:
        lines = page.read_text().splitlines()
        for row in seeds_table.rows_of(page.read_text()):
            printed = lines[row.line].split("|")[-2].strip()
            # What no test shows says why; what tests show says how many passed.
            assert len(printed) > 1 and "failed" not in printed, row.title
            assert re.match(r"[\d,]+ passed", printed) or not row.tests, row.title
