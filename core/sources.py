"""What our source files say of functions, classes and tables, read without running them.

A help text, or a mistyped flag, needs no network: importing torch takes seconds, parsing a file takes a millisecond.
So flags are read from the sources of the functions that have them as keywords (config/signatures.py), and names from
the decorators that register them.
"""

import ast
import functools
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MISSING = object()  # the default of a keyword that has none


@dataclass(frozen=True)
class Keyword:
    """One keyword of a function: its name, its default (MISSING without one), its annotation's text and its help.

    argument: as the function spells it, with an underscore behind a word that is Python's own, such as `continue`.
    """

    name: str
    argument: str
    default: object
    annotation: str
    help: str


@dataclass(frozen=True)
class Registered:
    """One name that a file of a folder registers, with the facts of its decorator and the definition's home."""

    name: str
    facts: dict
    home: str


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def keywords_of(home: str) -> list[Keyword]:
    """The keywords that are flags, of what `home` names: "models.build:build_model", a function or a class.

    Of a function those behind its `*`. Of a class with an `__init__` all that have a default, and of a dataclass its
    fields. Raises LookupError where there is no such definition, ValueError for a default that is no literal.
    """
    file, node = _definition(home)
    texts = option_texts(ast.get_docstring(node) or "")
    if isinstance(node, ast.FunctionDef):
        found = _behind_the_star(node.args)
    else:
        found = _of_class(node)
    keywords = []
    for argument, default in found:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        flag = argument.arg.rstrip("_")
        keywords.append(Keyword(flag, argument.arg, _literal(default, file), annotation, texts.get(flag, "")))
    return keywords


def summary_of(home: str) -> str:
    """The first paragraph of the docstring of what `home` names, as keywords_of has it."""
    _, node = _definition(home)
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def option_texts(docstring: str) -> dict[str, str]:
    """The lines `name: text` under `Options:` of a docstring, {name: text}; a line indented deeper goes on with a text.

    The block ends with the first line that is not indented.
    """
    _, _, block = f"\n{inspect.cleandoc(docstring)}".partition("\nOptions:\n")
    texts: dict[str, str] = {}
    indentation = None
    for line in block.splitlines():
        if not line.startswith(" "):
            break
        depth = len(line) - len(line.lstrip())
        if indentation is None:
            indentation = depth
        match = re.fullmatch(r"(\w+): (.+)", line.strip())
        if match and depth == indentation:
            name = match[1].rstrip("_")
            texts[name] = match[2]
        elif texts:
            texts[name] += f" {line.strip()}"
    return texts


@functools.cache
def registered(folder: str) -> dict[str, Registered]:
    """{name: Registered} of what the files of a folder, such as "losses", register, in order of the files' names."""
    found = {}
    for file in sorted((ROOT / folder).glob("*.py")):
        # Half of the files only help the others; to look for a word is a hundred times faster than to parse.
        if ".register" not in file.read_text(encoding="utf-8"):
            continue
        for node in tree_of(file).body:
            home = f"{folder.replace('/', '.')}.{file.stem}:{getattr(node, 'name', '')}"
            for decorator in getattr(node, "decorator_list", []):
                for name, facts in _entered(decorator, file).items():
                    found[name] = Registered(name, facts, home)
    return found


def elsewhere(names: str, *folders: str) -> str:
    """Say that a file in none of `folders` registers one of these names, comma-separated; an empty string where none
    does."""
    words = [re.escape(name.strip()) for name in names.split(",") if name.strip()]
    if not words:
        return ""
    decorator = re.compile(rf"^@\w+\.register\([^)]*[\"']({'|'.join(words)})[\"']", re.MULTILINE)
    for file in sorted(path for depth in ("*.py", "*/*.py", "*/*/*.py") for path in ROOT.glob(depth)):
        place = file.relative_to(ROOT)
        if place.parts[0] == "tests" or place.parent.as_posix() in folders:
            continue
        match = decorator.search(file.read_text(encoding="utf-8", errors="replace"))
        if match:
            return f" {place} registers {match[1]!r}, but it is looked for in {' and '.join(folders)}."
    return ""


def is_weights_name(source: object) -> bool:
    """Whether a --pretrained_model is the name of weights that some backbone comes with, such as imagenet."""
    return any(source in entry.facts.get("weights", ()) for entry in registered("models/backbones").values())


def _entered(decorator: ast.expr, file: Path) -> dict[str, dict]:
    """{name: facts} of what a decorator of a registry enters: its arguments, or the rows of a table of the file."""
    if not isinstance(decorator, ast.Call):
        return {}
    verb = ast.unparse(decorator.func).rpartition(".")[2]
    facts = _literal_facts(decorator)
    if verb == "register":
        return {ast.literal_eval(argument): facts for argument in decorator.args}
    if verb == "register_table":
        rows = ast.literal_eval(_table(file, ast.unparse(decorator.args[0])))
        return {name: {**facts, **own} for name, own in rows.items()}
    return {}


def _literal_facts(decorator: ast.Call) -> dict[str, object]:
    """{name: value} of the facts that are literals; others matter only to whoever runs the definition."""
    facts = {}
    for word in decorator.keywords:
        try:
            facts[word.arg] = ast.literal_eval(word.value)
        except ValueError:
            continue
    return facts


@functools.cache
def table_keys(home: str) -> tuple[str, ...]:
    """The keys of a table {name: ...} that a module defines, home as "data.image.augmentations:AUGMENTATIONS"."""
    module, _, name = home.partition(":")
    return tuple(ast.literal_eval(key) for key in _table(_file_of(module), name).keys)


def _table(file: Path, name: str) -> ast.Dict:
    """The table {...} that a file calls `name`. Raises LookupError where there is none."""
    for node in tree_of(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(node.value, ast.Dict):
            return node.value
    raise LookupError(f"{file} has no table {name}")


def _definition(home: str) -> tuple[Path, ast.FunctionDef | ast.ClassDef]:
    """The file and the node of "module:name". Raises LookupError where there is none."""
    module, _, name = home.partition(":")
    file = _file_of(module)
    for node in tree_of(file).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return file, node
    raise LookupError(f"{file} defines no {name}")


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")


def _behind_the_star(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    return list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))


def _of_class(node: ast.ClassDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """The arguments of a class that have a default; the fields of a dataclass, whether they have one or not."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = statement.args
            plain = [*arguments.posonlyargs, *arguments.args]
            with_default = plain[len(plain) - len(arguments.defaults) :]
            own = list(zip(with_default, arguments.defaults, strict=True))
            return own + [pair for pair in _behind_the_star(arguments) if pair[1] is not None]
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    return [(ast.arg(field.target.id, field.annotation), field.value) for field in fields]


def _literal(default: ast.expr | None, file: Path) -> object:
    if default is None:
        return MISSING
    try:
        return ast.literal_eval(default)
    except ValueError:
        raise ValueError(
            f"{file}:{default.lineno}: the default {ast.unparse(default)} is no literal, as a flag's has to be"
        ) from None
