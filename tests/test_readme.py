"""The README's commands parse and run, its flags and files exist."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

import reader
from config.commands import COMMANDS
from config.parse import parse
from config.signatures import flags_of
from losses import LOSSES
from retrieval.index.backends import BACKENDS
from retrieval.rerank._steps import POSTPROCESSORS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def shell_lines():
    """Every command of the README's shell blocks, continued lines joined, comments gone."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines() if line.strip()]


PYTHON_COMMANDS = [words[1:] for words in shell_lines() if words[0] == "python"]


def script(name):
    return importlib.import_module(name.removesuffix(".py"))


def test_every_kind_of_command_is_shown():
    assert {words[0] for words in PYTHON_COMMANDS} == {
        "train_elem.py",
        "train_pair.py",
        "eval.py",
        "infer.py",
        "search.py",
        "reader.py",
    }


@pytest.mark.parametrize("words", PYTHON_COMMANDS, ids=" ".join)
def test_command_parses(words, monkeypatch):
    # The run that a model comes from need not be there.
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    name, *flags = words
    if name == "reader.py":
        reader._new_parser()[0].parse_args(flags)
        return
    command = name.removesuffix(".py")
    if command == "search":
        command = f"search {flags[0]}"
        flags = flags[2:]
    parse(flags, COMMANDS[command], "")


def test_train_finetune_evaluate_use_runs_as_printed(sop_tree, tmp_path, monkeypatch, capsys):
    """The commands in a row, with the small data set, fewer steps and an empty folder put behind their flags."""
    pytest.importorskip("timm", reason="EfficientNetLite0 needs requirements/demo.txt")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "emoji").mkdir(parents=True)
    (tmp_path / "data" / "emoji" / "animal-mammal").symlink_to(sop_tree)
    fruit = shutil.copytree(sop_tree, tmp_path / "data" / "emoji" / "food-fruit")
    (fruit / "banana").mkdir()
    shutil.copy(next(fruit.glob("*/*.jpg")), fruit / "banana" / "noto.webp")
    first = [
        words
        for words in PYTHON_COMMANDS
        if not {"Stanford", "photos"} & set(re.findall(r"Stanford|photos", " ".join(words)))
    ]
    # What goes on until it is stopped, what needs labels that nobody trained on, and what refuses a model of two steps.
    first = [words for words in first if words[1] not in ("serve", "decide", "upgrade")]
    for words in first:
        extra = []
        if words[1] != "sync":
            extra.append(f"--data_dir={sop_tree}")
        if words[1] != "delete":
            extra.append("--num_workers=0")
        if words[0].startswith("train"):
            extra += ["--total_iter_num=2", "--train_batch_size=8"]
        script(words[0]).main(words[1:] + extra)
    assert (tmp_path / "output" / "neighbours.png").is_file()
    assert (tmp_path / "output" / "fruit.npz").is_file()
    assert (tmp_path / "output" / "hits.json").is_file() and (tmp_path / "output" / "hits.png").is_file()
    printed = capsys.readouterr().out
    assert re.search(r"End test 30, test_recall 0\.\d{5}|End test 30, test_recall 1\.00000", printed)


def test_flags_named_in_the_readme_exist():
    known = {"--config", "--list", "--list_models"} | set(
        re.findall(r'add_argument\(\s*"(--\w+)"', (ROOT / "reader.py").read_text())
    )
    known |= set(re.findall(r'add_argument\(\s*"(--\w+)"', (ROOT / "recipes" / "run_table.py").read_text()))
    for command in COMMANDS.values():
        for section in command.sections:
            known |= {f"--{flag.name}" for home in section.homes for flag in flags_of(home)}
    for registry in (LOSSES, BACKENDS, POSTPROCESSORS):
        known |= {f"--{option.name}" for name in registry.names() for option in registry.options(name)}
    named = set(re.findall(r"(--[a-z]\w+)", TEXT)) - {"--logdir", "--help"}
    assert named - known == set()


def test_files_named_in_the_readme_exist():
    tree = TEXT.split("## Where things are")[1].split("```")[1]
    names = re.findall(r"\b(\w+\.py|\w+/)(?=\s|,|$)", tree)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert [name for name in linked if not (ROOT / name).exists()] == []
