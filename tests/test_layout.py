"""The shape of the repository: who may import whom, no work at import time, no wide line."""

import ast
import functools
import sys
from pathlib import Path

import pytest

from losses import LOSSES
from retrieval.index.backends import BACKENDS

ROOT = Path(__file__).parents[1]
SCRIPTS = ("eval", "infer", "train_elem", "train_pair")
LIBRARY = {
    "errors",
    "registry",
    "losses",
    "models",
    "samplers",
    "numerals",
    "vocabulary",
    "repeats",
    "folders",
    "soundness",
    "headers",
    "decoding",
    "transforms",
    "parsing",
    "checking",
    "reader",
    "cache",
    "retrieval",
    "engine",
    "storage",
}
MAY_IMPORT = {
    "errors": set(),
    "openmp": set(),
    "registry": {"errors"},
    "losses": {"errors", "registry", "losses"},
    "models": {"errors", "models", "storage"},
    "samplers": {"errors", "registry"},
    "headers": set(),
    "decoding": {"errors", "headers"},
    "transforms": {"errors", "decoding"},
    "numerals": set(),
    "vocabulary": {"errors", "numerals"},
    "parsing": {"errors", "numerals", "vocabulary"},
    "checking": {"errors", "decoding", "vocabulary"},
    "repeats": set(),
    "folders": {"errors", "headers", "storage"},
    "soundness": {"errors", "decoding", "headers"},
    "reader": {
        "errors",
        "decoding",
        "parsing",
        "checking",
        "folders",
        "numerals",
        "openmp",
        "repeats",
        "soundness",
        "vocabulary",
    },
    "cache": {"headers", "reader"},
    "storage": {"errors"},
    "retrieval": {"errors", "registry", "retrieval", "storage"},
    "engine": {"errors", "engine", "numerals", "retrieval", "storage"},
    "loader": {"cache", "decoding", "engine", "errors", "reader", "samplers"},
    "session": LIBRARY | {"loader"},
    "training": LIBRARY | {"loader", "session", "reporting"},
    "embedding": LIBRARY | {"loader", "session"},
    "evaluation": LIBRARY | {"session"},
    "reporting": LIBRARY,
    "indexing": {"errors", "engine", "parsing", "reader", "retrieval", "session", "storage", "vocabulary"},
    "recipes": {"errors", "openmp", "retrieval"},
    "benchmarks": LIBRARY | {"benchmarks", "loader", "openmp"},
    "data": set(),
    **{
        script: LIBRARY | {"session", "training", "embedding", "evaluation", "reporting", "indexing", "openmp"}
        for script in SCRIPTS
    },
}
CODE = [path for module in MAY_IMPORT for path in sorted((*ROOT.glob(f"{module}.py"), *ROOT.glob(f"{module}/**/*.py")))]
# Programs of their own: they parse their own flags.
PROGRAMS = {"data/build_emoji.py"} | {
    path.relative_to(ROOT).as_posix() for folder in ("recipes", "benchmarks") for path in (ROOT / folder).glob("*.py")
}
KNOW_ARGS = (
    {f"{script}.py" for script in SCRIPTS}
    | {"session.py", "training.py", "evaluation.py", "reporting.py", "indexing.py", "engine/options.py"}
    | PROGRAMS
)
# Folders of which every file registers a class.
REGISTRIES = {"losses": LOSSES, "retrieval/backends": BACKENDS}
LONGEST_LINE = 120
# What a constant may be made by, besides classes (whose names begin with a capital).
PURE_CALLS = {
    "partial",
    "frozenset",
    "array",
    "inv",
    "log",
    "tuple",
    "set",
    "dict",
    "range",
    "number",
    "with_suffix",
    "with_name",
    "compile",
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def each_file(test):
    return pytest.mark.parametrize("path", CODE, ids=name_of)(test)


def tree_of(path):
    return ast.parse(path.read_text(), filename=str(path))


def module_of(path):
    """The row of MAY_IMPORT that a file stands in: its folder, or itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree):
    """(line, top-level name) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.lineno, node.module.split(".")[0]


def test_every_file_stands_in_the_table():
    known = {path for path in CODE} | set((ROOT / "tests").glob("*.py"))
    ignored = {".venv", ".venv-peers", "output", ".git"}
    others = [p for p in ROOT.rglob("*.py") if p not in known and not ignored & set(p.relative_to(ROOT).parts)]
    assert not others
    assert {module_of(path) for path in CODE} == MAY_IMPORT.keys()


@each_file
def test_imports(path):
    ours = MAY_IMPORT.keys() | {"tests"}
    wrong = [(line, name) for line, name in imported(tree_of(path)) if name in ours - MAY_IMPORT[module_of(path)]]
    assert not wrong


def test_no_import_cycle():
    """A folder counts as one module here: its own files are its own affair."""
    uses = {module: set() for module in MAY_IMPORT}
    for path in CODE:
        uses[module_of(path)] |= {name for _, name in imported(tree_of(path))} & MAY_IMPORT.keys() - {module_of(path)}
    while uses:
        leaves = {module for module, names in uses.items() if not names}
        assert leaves, f"a cycle among {sorted(uses)}"
        uses = {module: names - leaves for module, names in uses.items() if module not in leaves}


@each_file
def test_nothing_runs_at_import(path):
    """Module level holds imports, definitions and constants; a registry's __init__.py also imports its folder.

    openmp.py sets environment variables: OpenMP reads them when it is loaded, which an import does, so that whoever
    sets them by a call has to call between two imports. Only programs import it, and only where they are run.
    """
    body = tree_of(path).body
    assert isinstance(body[0], ast.Expr) and isinstance(body[0].value.value, str), "no docstring"
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AugAssign)
    fills = path.name == "__init__.py" and name_of(path.parent) in REGISTRIES
    for node in body[1:]:
        text = ast.unparse(node)
        if fills and text.startswith(("for _module in", "globals().update")):
            continue
        if name_of(path) == "openmp.py" and text == "os.environ.update(settings(os.environ))":
            continue
        assert isinstance(node, allowed) or is_main_block(node), f"line {node.lineno}: {text[:60]}"
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            doers = [call for call in ast.walk(node.value) if isinstance(call, ast.Call) and not is_pure(call)]
            assert not doers, f"line {node.lineno}: {ast.unparse(doers[0])[:60]}"


@functools.cache
def reaches_torch():
    """Rows of MAY_IMPORT that load torch, or import one that does."""
    uses = {module: set() for module in MAY_IMPORT}
    for path in CODE:
        uses[module_of(path)] |= {name for _, name in imported(tree_of(path))}
    found = {"torch"}
    while grown := {module for module, names in uses.items() if names & found} - found:
        found |= grown
    return found


@each_file
def test_programs_set_openmp_before_they_load_torch(path):
    """And nothing else does: whoever imports a module of ours decides about the threads of the process."""
    imports = sorted(imported(tree_of(path)))
    blocks = [node for node in tree_of(path).body if is_main_block(node)]
    settings = [line for line, name in imports if name == "openmp"]
    if blocks and {name for _, name in imports} & reaches_torch():
        assert settings, "loads torch, and not openmp before it"
    if settings:
        guarded = [found for block in blocks for found in imported(block)]
        assert (settings[0], "openmp") in guarded, "openmp first, where the file is run"
        before = {name for line, name in imports if line < settings[0]}
        assert before <= sys.stdlib_module_names, "before openmp comes the standard library alone"


def is_main_block(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def is_pure(call):
    name = ast.unparse(call.func).split(".")[-1]
    return name[0].isupper() or name in PURE_CALLS


@each_file
def test_only_scripts_know_args(path):
    if name_of(path) in KNOW_ARGS:
        return
    names = [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.Name, ast.arg))]
    assert not [node.lineno for node in names if "args" in (getattr(node, "id", None), getattr(node, "arg", None))]


@each_file
def test_args_are_never_written(path):
    """Derived values get new names: what config.json shows is what the user gave."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
            assert ast.unparse(node.value) not in ("args", "self.args", "training.args"), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            assert ast.unparse(node.args[0]) != "args", f"line {node.lineno}"


@each_file
def test_no_bad_manners(path):
    tree = tree_of(path)
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    handled = {node for handler in handlers for node in ast.walk(handler)}
    for node in ast.walk(tree):
        place = f"line {getattr(node, 'lineno', None)}"
        if isinstance(node, ast.Raise):
            assert node.exc is not None or node in handled, f"{place}: raises nothing"
            assert not isinstance(node.exc, ast.Name) or node.exc.id.islower(), f"{place}: raises without a word"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("chdir", "simplefilter", "filterwarnings"), f"{place}: {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "cuda", f"{place}: .cuda() is not device-agnostic"
    assert all(handler.type is not None for handler in handlers), "catches everything"
    assert "warnings" not in {name for _, name in imported(tree)}


@each_file
def test_no_line_is_wide(path):
    wide = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not wide, f"lines over {LONGEST_LINE} characters"


def test_names():
    assert not [path for path in CODE if path.stem.strip("_") in ("util", "utils", "misc", "common", "helpers")]
    for folder, registry in REGISTRIES.items():
        files = {path.stem for path in (ROOT / folder).glob("[!_]*.py")}
        assert files == set(registry.names())
        for name in registry.names():
            assert registry[name].__module__ == f"{folder}.{name}".replace("/", ".")
