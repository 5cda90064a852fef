"""The flags named in README and docs/flags.md exist, so do the README's files, and it shows every script.

Its commands run in test_snippets.py.
"""

import re
from pathlib import Path

from pages import blocks_of, commands_of

from config.commands import COMMANDS
from config.signatures import flags_of
from losses import LOSSES
from retrieval.index.backends import BACKENDS
from retrieval.rerank._steps import POSTPROCESSORS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
FLAGS = (ROOT / "docs" / "flags.md").read_text()


def test_every_script_is_shown():
    commands = [
        command.words
        for block in blocks_of(ROOT / "README.md", "README.md")
        if block.language == "sh"
        for command in commands_of(block)
    ]
    assert {words[1] for words in commands if words[0] == "python"} >= {
        "train_elem.py",
        "train_pair.py",
        "eval.py",
        "infer.py",
        "search.py",
        "reader.py",
    }


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
    named = set(re.findall(r"(--[a-z]\w+)", TEXT + FLAGS)) - {"--logdir", "--help"}
    assert named - known == set()


def test_files_named_in_the_readme_exist():
    tree = TEXT.split("## Where things are")[1].split("```")[1]
    names = re.findall(r"\b(\w+\.py|\w+/)(?=\s|,|$)", tree)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert [name for name in linked if not (ROOT / name).exists()] == []
