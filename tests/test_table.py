"""recipes/table.py on made-up results: cells computed by hand, gaps shown, broken files named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import InputError
from recipes import table
from recipes.run_table import find_recipes, split_stages

SCRIPT = Path(table.__file__)


def write(root, run, recall, k="1"):
    folder = root / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"recall": {k: recall}, "images": 60, "seconds": 1.5}))


@pytest.fixture
def root(tmp_path):
    for seed, stage1, longer, eml in ((0, 0.50, 0.51, 0.52), (1, 0.52, 0.54, 0.53), (2, 0.54, 0.54, 0.57)):
        write(tmp_path, f"seed{seed}/softmax", stage1)
        write(tmp_path, f"seed{seed}/softmax+longer", longer)
        write(tmp_path, f"seed{seed}/softmax+eml", eml)
        write(tmp_path, f"seed{seed}/untrained", 0.338)
    write(tmp_path, "seed0/arcmargin+npairs", 0.6)
    write(tmp_path, "seed2/arcmargin+npairs", 0.7)
    return tmp_path


def rows(text):
    """{first column: other columns} of the last table row of each name."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in cells}


def test_means_deviations_and_gaps(root, capsys):
    table.main([str(root)])
    text = capsys.readouterr().out
    assert text.startswith("Recall@1 in %, mean ± sample standard deviation over 3 seeds.")
    assert rows(text) == {
        "second stage": ["softmax", "arcmargin"],
        "---": ["---:", "---:"],
        "none": ["52.00 ± 2.00", "–"],  # 50, 52, 54
        "none, trained longer": ["53.00 ± 1.73", "–"],  # 51, 54, 54: sqrt(3)
        "eml": ["54.00 ± 2.65", "–"],  # 52, 53, 57: sqrt(7)
        "npairs": ["–", "65.00 ± 7.07 (n=2)"],  # 60, 70: sqrt(50)
    }  # and no line of what was not run
    assert "Untrained features: 33.80 ± 0.00." in text


def test_differences_are_paired_by_seed(root, capsys):
    write(root, "seed1/arcmargin", 0.9)  # no second stage of this seed: no pair
    write(root, "seed2/arcmargin", 0.71)
    table.main([str(root), "--differences"])
    found = rows(capsys.readouterr().out.split("Differences")[1])
    assert found["second stage"][:2] == ["softmax: minus stage 1", "softmax: minus stage 1 longer"]
    # eml minus stage 1: 2, 1, 3; minus longer: 1, -1, 3; with t of two degrees of freedom, 4.303 / sqrt(3) times 1 and 2
    assert found["eml"] == ["+2.00 ± 2.48", "+1.00 ± 4.97", "–", "–"]
    assert found["npairs"] == ["–", "–", "−1.00 (n=1)", "–"]
    assert "triplet" not in found


def test_every_second_stage_of_the_recipes_has_its_row(tmp_path, capsys):
    seconds = {recipe.second for recipe in find_recipes("emoji") + find_recipes("sop")}
    for second in seconds:
        write(tmp_path, f"seed0/arcmargin+{second}" if second else "seed0/arcmargin", 0.6)
    table.main([str(tmp_path)])
    found = rows(capsys.readouterr().out)
    assert {table.title_of(f"+{second}" if second else "") for second in seconds} <= found.keys()
    assert "whitening" in found


def test_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats")
    for freedom, quantile in enumerate(table.T_QUANTILES, 1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


def test_reference_stands_beside_and_is_labelled(tmp_path, capsys):
    write(tmp_path, "seed0/arcmargin+eml", 0.8)
    table.main([str(tmp_path), "--reference=ancestor"])
    text = capsys.readouterr().out
    found = rows(text)
    assert "none, trained longer" not in found
    assert found["second stage"] == ["arcmargin", "softmax (PaddlePaddle)", "arcmargin (PaddlePaddle)"]
    assert found["none"] == ["–", "77.42", "78.11"]
    assert found["triplet"] == ["–", "78.37", "79.21"]
    assert found["quadruplet"] == ["–", "78.10", "79.59"]
    assert found["eml"] == ["80.00", "79.32", "80.11"]
    assert found["npairs"] == ["–", "–", "79.81"]
    assert "one run a cell" in text.splitlines()[0] and "(PaddlePaddle): theirs" in text


def test_eval_folder_wins_and_k_chooses(tmp_path, capsys):
    write(tmp_path, "seed0/softmax", 0.1)
    write(tmp_path, "seed0/softmax/eval", 0.25, k="10")
    table.main([str(tmp_path), "--k=10"])
    text = capsys.readouterr().out
    assert text.startswith("Recall@10") and rows(text)["none"] == ["25.00"]


def test_losses_of_a_users_own_have_their_columns_and_rows(tmp_path, capsys):
    for seed, alone, both in ((0, 0.4, 0.5), (1, 0.42, 0.54)):
        write(tmp_path, f"seed{seed}/proxy_anchor", alone)
        write(tmp_path, f"seed{seed}/proxy_anchor+mine", both)
    write(tmp_path, "seed0/softmax", 0.3)
    table.main([str(tmp_path), "--differences"])
    text, differences = capsys.readouterr().out.split("Differences")
    assert rows(text) == {
        "second stage": ["softmax", "proxy_anchor"],
        "---": ["---:", "---:"],
        "none": ["30.00 (n=1)", "41.00 ± 1.41"],
        "mine": ["–", "52.00 ± 2.83"],
    }
    assert rows(differences)["mine"] == ["–", "–", "+11.00 ± 12.71", "–"]  # 10, 12: 12.706 times 1.41 / sqrt(2)


def test_another_figure_is_that_of_eval(tmp_path, capsys):
    write(tmp_path, "seed0/softmax", 0.1)
    evaluated = tmp_path / "seed0" / "softmax" / "eval" / "result.json"
    evaluated.parent.mkdir()
    evaluated.write_text('{"recall": {"1": 0.2}, "metrics": {"recall@1": 0.2, "map@r": 0.05}}')
    table.main([str(tmp_path), "--metric=map@r"])
    text = capsys.readouterr().out
    assert text.startswith("map@r in %, one run") and rows(text)["none"] == ["5.00"]
    with pytest.raises(InputError, match="has no .*mrr"):
        table.main([str(tmp_path), "--metric=mrr"])


def test_names_of_recipes_are_split_where_a_loss_ends():
    assert split_stages("arcmargin_whitening") == ("arcmargin", "whitening")
    assert split_stages("proxy_anchor") == ("proxy_anchor", "")
    assert split_stages("proxy_anchor_multi_similarity") == ("proxy_anchor", "multi_similarity")
    assert split_stages("mine_eml") == ("mine", "eml")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"recall": {"5": 0.5}}', '{"recall": {"1": null}}'])
def test_broken_and_missing_results_are_named(root, content):
    path = root / "seed1" / "softmax" / "result.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as problem:
        table.main([str(root)])
    assert str(path) in str(problem.value)


def test_what_cannot_be_is_refused(root, tmp_path):
    with pytest.raises(InputError, match="no run in .*nowhere"):
        table.main([str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="Recall@1 only, not recall@10"):
        table.main([str(root), "--reference=ancestor", "--k=10"])


def test_started_as_a_user_would(root, tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "| eml | 54.00 ± 2.65 | – |" in done.stdout
    failed = subprocess.run([sys.executable, SCRIPT, "nowhere"], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 2 and failed.stdout == "" and len(failed.stderr.splitlines()) == 1
