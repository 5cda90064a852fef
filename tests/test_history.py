"""benchmarks/collect.py: the page's sections, ratios of a table, what became worse than what is kept."""

import pytest

from benchmarks import all as bench
from benchmarks import collect

MACHINE = "A processor, 2 threads, without AMX"
PAIRS = """{machine}, Python 3.11.7; torch 2.14.1; 2026-11-27; medians of 3 rounds.

### Batch 160, D = 512

|  | ms | least–most | × Gram | peak MB |
| --- | ---: | ---: | ---: | ---: |
| bare Gram matrix | 1.0 | 1.0–1.0 | 1.00 | 1 |
| ours: circle | {circle} | 3.0–6.0 | {circle} | 3 |
| ours: npairs | 3.0 |  | {npairs} | 3 |
| PML NPairsLoss | 4.8 | 4.0–5.0 | 4.44 | 4 |
"""


def pairs(circle, npairs, machine=MACHINE):
    return PAIRS.format(circle=circle, npairs=npairs, machine=machine)


def test_ratios_are_those_of_our_rows():
    title = "Batch 160, D = 512: ours: "
    assert list(collect.ratios(pairs(4.0, 3.0))) == [
        collect.Ratio(f"{title}circle", "× Gram", 4.0, 2.0),
        collect.Ratio(f"{title}npairs", "× Gram", 3.0, collect.UNSTEADY),
    ]


def test_what_got_worse_is_told_and_the_best_is_kept(tmp_path):
    keep = {"runs": 2, "folder": tmp_path}
    assert collect.keep("pairs", pairs(4.0, 3.0), "a", **keep) == []
    assert collect.keep("pairs", pairs(4.0, 3.0), "b", **keep) == []  # the same table again
    # Twice as unsteady as the first is bad, and 1.1 times.
    assert collect.keep("pairs", pairs(7.9, 3.2), "c", **keep) == []
    (told,) = collect.keep("pairs", pairs(7.8, 3.4), "d", **keep)
    assert "ours: npairs: × Gram is 3.4, 1.13 times as bad as the 3.0 of a" in told
    assert collect.keep("pairs", pairs(9.0, 9.0, "Another, 8 threads, with AMX"), "e", **keep) == []
    lines = collect.read_history(tmp_path / "pairs.csv")
    assert {line["machine"] for line in lines} == {MACHINE, "Another, 8 threads, with AMX"}
    assert min(float(line["value"]) for line in lines) == 3.0


@pytest.mark.parametrize("column, better", [("× Gram", 0.5), ("× ancestor", 2.0), ("peer / ours", 2.0)])
def test_some_ratios_are_better_when_they_are_larger(column, better):
    assert collect.loss_over(1.0, better, column) == 2


def test_columns_of_every_row_are_kept_whoever_the_row_is_of():
    text = """### Numbers

|  | ms | exponent | peer / ours | × plain |
| --- | ---: | ---: | ---: | ---: |
| PNG | 3 | 1.25 | 1.5 | 2 |
| ours | 3 |  | 2 | 0.5 |
"""
    assert [(ratio.row, ratio.ratio, ratio.value) for ratio in collect.ratios(text)] == [
        ("Numbers: PNG", "exponent", 1.25),
        ("Numbers: PNG", "peer / ours", 1.5),
        ("Numbers: ours", "peer / ours", 2.0),
        ("Numbers: ours", "× plain", 0.5),
    ]


def test_all_lanes_are_on_the_page_and_their_files_there():
    assert set(bench.LANES) <= set(collect.LANES)
    assert all((bench.FOLDER / words.split()[0]).is_file() for words in bench.LANES.values())


def test_a_lane_that_fails_is_told_and_others_run(tmp_path, monkeypatch, capfd):
    (tmp_path / "wide.py").write_text("raise SystemExit(3)")
    (tmp_path / "collect.py").write_text("print('the page')")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert bench.main(["--lanes=wide"]) == 1
    printed = capfd.readouterr().out
    assert "wide: FAILED" in printed and "the page" in printed and "together" in printed
    with pytest.raises(SystemExit):
        bench.main(["--lanes=wide,heads"])
    assert "unknown lane 'heads'" in capfd.readouterr().err


def test_the_page_keeps_lanes_that_were_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "HISTORY", tmp_path)
    monkeypatch.setattr(collect, "PAGE", tmp_path / "README.md")
    before = collect.section("images", "old\n"), collect.section("pairs", "older\n")
    (tmp_path / "README.md").write_text("\n".join([collect.INTRODUCTION, *before]))
    (tmp_path / "pairs.md").write_text("new\n")
    collect.main([f"--input={tmp_path}"])
    page = (tmp_path / "README.md").read_text()
    assert page == "\n".join([collect.INTRODUCTION, before[0], collect.section("pairs", "new\n")])


def test_the_page_is_made_of_its_sections():
    page = collect.PAGE.read_text()
    texts = collect.sections(page)
    assert page == "\n".join([collect.INTRODUCTION, *(collect.section(lane, texts[lane]) for lane in texts)])


def test_what_is_kept_stays_small():
    files = list(collect.HISTORY.glob("*.csv"))
    assert files and all(path.stat().st_size < 300_000 for path in files)
    assert {path.stem for path in files} <= set(collect.LANES)


def test_a_lane_has_one_table_of_a_heading():
    for lane, text in collect.sections(collect.PAGE.read_text()).items():
        collect.check_headings(lane, text)
    twice = pairs(4.0, 3.0) + pairs(4.0, 3.0)
    with pytest.raises(ValueError, match="pairs: two tables are called ### Batch 160, D = 512"):
        collect.check_headings("pairs", twice)
