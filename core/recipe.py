"""Flags in a recipe, a .yaml: `flag: value` lines, at the top or below the name of a section."""

import argparse
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InputError, near_match


@dataclass(frozen=True)
class Recipe:
    """Flags that a file gives, {name: value}.

    places: {name: "file:line"}; sections: {name: the section that it stands in}. Both are of a .yaml alone: the
    config.json of a run, which nobody wrote, has no lines.
    """

    values: dict[str, object]
    places: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)


def read_recipe(file: str | Path) -> Recipe:
    """The flags of a .yaml. What sections are called is for the reader alone.

    Raises InputError for what is not that, and for a section or a flag that stands twice, by file:line.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(f"{str(file)!r} needs PyYAML: pip install pyyaml") from None
    with yaml_errors(file):
        loader = yaml.SafeLoader(Path(file).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return Recipe({})
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{file}: flags are `name: value` lines, at the top or below the name of a section")
        _refuse_of_oml(file, root, yaml.MappingNode)
        return _read_nodes(file, loader, root, yaml.MappingNode)


def _refuse_of_oml(file: str | Path, root: Any, mapping: type) -> None:
    """Raise InputError for a section of `name` and `args`, as all that is chosen by name has in OML's pipelines."""
    for key, node in root.value:
        names = [inner.value for inner, _ in node.value] if isinstance(node, mapping) else []
        if "name" in names and "args" in names:
            raise InputError(
                f"{file}:{key.start_mark.line + 1}: {key.value} has a name and args, as in a yaml of Open Metric "
                f"Learning's: python recipes/from_oml.py {file} --output=ours.yaml makes one of these scripts' of it"
            )


@contextlib.contextmanager
def yaml_errors(file: str | Path) -> Iterator[None]:
    """What is wrong with a .yaml that is read meanwhile, as an InputError by file:line."""
    import yaml

    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"{file}: no yaml: the character U+{error.character:04X} stands in it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{file}{line}: no yaml: {getattr(error, 'problem', error)}") from None
    except ValueError as error:  # such as a date that is none
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: no yaml: {error}") from None
    except RecursionError:
        raise InputError(f"{file}: no yaml of flags: lists within lists, many levels deep") from None


def refuse_repeated_keys(file: str | Path, root: Any) -> None:
    """Raise InputError, by file:line, where a mapping among the nodes has a key twice: yaml would keep the last."""
    seen = set()
    nodes = [root] if root is not None else []
    while nodes:
        node = nodes.pop()
        # An alias brings the same node again, maybe within itself.
        if id(node) in seen or not isinstance(node.value, list):
            continue
        seen.add(id(node))
        lines: dict[str, int] = {}
        for entry in node.value:
            if not isinstance(entry, tuple):
                nodes.append(entry)
                continue
            key, value = entry
            line = key.start_mark.line + 1
            if str(key.value) in lines:
                raise InputError(f"{file}:{line}: {key.value} is given twice, first in line {lines[str(key.value)]}")
            lines[str(key.value)] = line
            nodes.append(value)


def _read_nodes(file: str | Path, loader: Any, root: Any, mapping: type) -> Recipe:
    """The flags of the tree of nodes, in which all stands that the file says: a mapping made of it keeps of two equal
    keys the last, and says nothing."""
    recipe = Recipe({})
    lines: dict[str, int] = {}
    sections: dict[str, int] = {}
    anchored: dict[int, str] = {}
    for key, node in root.value:
        title = _name_of(file, key)
        _refuse_merge(file, key)
        if not isinstance(node, mapping):
            _add(recipe, file, loader, key, node, lines)
            continue
        line = key.start_mark.line + 1
        if title in sections:
            raise InputError(f"{file}:{line}: the section {title} stands twice, first in line {sections[title]}")
        sections[title] = line
        # An alias brings the node of its anchor again, with the lines of that.
        if id(node) in anchored:
            raise InputError(
                f"{file}:{line}: the section {title} is an alias of {anchored[id(node)]}, whose flags are given there"
            )
        anchored[id(node)] = title
        for inner_key, inner_node in node.value:
            _refuse_merge(file, inner_key)
            if isinstance(inner_node, mapping):
                line = inner_key.start_mark.line + 1
                raise InputError(f"{file}:{line}: {_name_of(file, inner_key)} is a section within a section")
            recipe.sections[_name_of(file, inner_key)] = title
            _add(recipe, file, loader, inner_key, inner_node, lines)
    return recipe


def _refuse_merge(file: str | Path, key: Any) -> None:
    """Raise InputError for yaml's `<<: *anchor`: sections are no mappings that one could merge."""
    if key.value == "<<":
        line = key.start_mark.line + 1
        raise InputError(f"{file}:{line}: << merges nothing here: each flag stands once, whatever its section")


def _add(recipe: Recipe, file: str | Path, loader: Any, key: Any, node: Any, lines: dict[str, int]) -> None:
    """Take in one line `name: value`. lines: {name: where it stands} of those before it."""
    name = _name_of(file, key)
    line = key.start_mark.line + 1
    if name in lines:
        raise InputError(f"{file}:{line}: {name} is given twice, first in line {lines[name]}")
    lines[name] = line
    recipe.places[name] = f"{file}:{line}"
    try:
        value = loader.construct_object(node, deep=True)
    except ValueError as error:  # such as a date that is none
        raise InputError(f"{file}:{line}: {name}: {error}") from None
    except (AttributeError, KeyError):  # PyYAML of `!!timestamp x`, of `!!bool x`
        raise InputError(f"{file}:{line}: {name}: {node.value!r} is no {node.tag.rpartition(':')[2]}") from None
    # Of yaml's own, older numbers: 010 is 8, and 1:30 is 90.
    if isinstance(value, (int, float)) and re.search(r":|^[-+]?0[0-9_]", node.value):
        raise InputError(
            f"{file}:{line}: {name}: yaml takes {node.value} for {value}; write the number itself, or a text in quotes"
        )
    for element in value if isinstance(value, list) else ():
        if element is None or isinstance(element, (list, tuple, dict)):
            raise InputError(f"{file}:{line}: {name}: a list has texts and numbers, not {element!r}")
    recipe.values[name] = value


def _name_of(file: str | Path, key: Any) -> str:
    if not isinstance(key.value, str):
        raise InputError(f"{file}:{key.start_mark.line + 1}: a flag's name is a word, not a list or a mapping")
    return key.value


def words_for(parser: argparse.ArgumentParser, recipe: Recipe) -> list[str]:
    """A recipe's flags as words of the line of a plain `parser`.

    Raises InputError for a flag that it has not, with the near match, and for a value that cannot be, by file:line.
    """
    actions = {}
    for action in parser._actions:
        for option in action.option_strings:
            actions[option.removeprefix("--")] = action
    words = []
    for name, value in recipe.values.items():
        place = recipe.places[name]
        action = actions.get(name)
        if action is None:
            raise InputError(f"{place}: unknown flag {name!r}.{near_match(name, actions)}")
        # A switch takes no value: it stands on the line, or it does not.
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise InputError(f"{place}: {name}: {value!r} is not one of true, false")
            if value:
                words.append(f"--{name}")
            continue
        if isinstance(value, (list, bool)) or value is None:
            raise InputError(f"{place}: {name} takes one text or number, not {value!r}")
        try:
            parser._get_value(action, str(value))
        except argparse.ArgumentError as error:
            raise InputError(f"{place}: {name}: {error.message}") from None
        words.append(f"--{name}={value}")
    return words
