"""The shape of the repository: who may import whom, no work at import time, no wide line."""

import ast
import re
import sys
from pathlib import Path

import pytest

from core.text import plural
from data.convert import CONVERTERS
from losses import LOSSES
from miners import MINERS
from models.heads import HEADS
from retrieval.index.backends import BACKENDS
from solvers import SOLVERS

ROOT = Path(__file__).parents[1]
# A folder imports only from smaller floors, or from itself. Scripts and programs of their own stand on top.
FLOORS = {
    "core": 0,
    "distributed": 1,
    "losses": 2,
    "solvers": 2,
    "miners": 3,
    "models": 3,
    "data": 3,
    "retrieval": 3,
    "embeddings": 4,
    "care": 5,
    "engine": 5,
    "report": 5,
    "serving": 6,
    "config": 6,
    "reader": 7,
    "train_elem": 8,
    "train_pair": 8,
    "train_reranker": 8,
    "eval": 8,
    "infer": 8,
    "search": 8,
    "doctor": 8,
    "compat": 8,
    "recipes": 8,
    "benchmarks": 8,
}
SCRIPTS = ("train_elem", "train_pair", "train_reranker", "eval", "infer", "search", "doctor")
CODE = [path for module in FLOORS for path in sorted((*ROOT.glob(f"{module}.py"), *ROOT.glob(f"{module}/**/*.py")))]
# Programs of their own: they parse their own flags.
PROGRAMS = {"data/build_emoji.py"} | {
    path.relative_to(ROOT).as_posix() for folder in ("recipes", "benchmarks") for path in (ROOT / folder).glob("*.py")
}
KNOW_ARGS = {f"{script}.py" for script in SCRIPTS} | PROGRAMS
# Folders of which every file registers a class.
REGISTRIES = {
    "data/convert": CONVERTERS,
    "losses": LOSSES,
    "solvers": SOLVERS,
    "miners": MINERS,
    "models/heads": HEADS,
    "retrieval/index/backends": BACKENDS,
}
LONGEST_LINE = 120
# What a constant may be made by, besides classes (whose names begin with a capital).
PURE_CALLS = {
    "degrees",
    "object",
    "resolve",
    "vars",
    "iinfo",
    "_training",
    "_search",
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


def room_of(path):
    """The row of FLOORS that a file stands in: its folder, or itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree):
    """(line, top-level name) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.lineno, node.module.split(".")[0]


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(path):
    """Full names of our modules that a file imports: a submodule named behind `import` counts as itself."""
    known = {module_name(other) for other in CODE}
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names |= submodules or {node.module}
    return names & known


def test_every_file_stands_on_a_floor():
    known = {path for path in CODE} | set((ROOT / "tests").rglob("*.py"))
    ignored = {".venv", ".venv-peers", "output", ".git"}
    others = [p for p in ROOT.rglob("*.py") if p not in known and not ignored & set(p.relative_to(ROOT).parts)]
    assert not others
    assert {room_of(path) for path in CODE} == FLOORS.keys()


@each_file
def test_imports_go_downwards(path):
    room = room_of(path)
    for line, name in imported(tree_of(path)):
        if name in FLOORS and name != room:
            assert FLOORS[name] < FLOORS[room], f"line {line}: {room} imports {name}, which is not below it"
        assert name != "tests", f"line {line}: tests are imported"


def test_no_import_cycle():
    """Among all files; a package's __init__.py hands on what its files define, and these do not ask it."""
    uses = {module_name(path): modules_imported(path) - {module_name(path)} for path in CODE}
    while uses:
        leaves = {module for module, names in uses.items() if not names & uses.keys()}
        assert leaves, f"a cycle among {sorted(uses)}"
        uses = {module: names for module, names in uses.items() if module not in leaves}


@each_file
def test_nothing_runs_at_import(path):
    """Module level holds imports, definitions and constants; a registry's __init__.py also imports its folder.

    core/openmp.py sets environment variables: OpenMP reads them when it is loaded, which an import does, so that whoever
    sets them by a call has to call between two imports. Only programs import it, and only where they are run.
    """
    body = tree_of(path).body
    assert isinstance(body[0], ast.Expr) and isinstance(body[0].value.value, str), "no docstring"
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AugAssign,
        ast.AnnAssign,
    )
    fills = path.name == "__init__.py" and name_of(path.parent) in REGISTRIES
    for node in body[1:]:
        text = ast.unparse(node)
        if fills and text.startswith(("for _module in", "globals().update")):
            continue
        if name_of(path) == "core/openmp.py" and text == "os.environ.update(settings(os.environ))":
            continue
        assert isinstance(node, allowed) or is_main_block(node), f"line {node.lineno}: {text[:60]}"
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            doers = [call for call in ast.walk(node.value) if isinstance(call, ast.Call) and not is_pure(call)]
            assert not doers, f"line {node.lineno}: {ast.unparse(doers[0])[:60]}"


def openmp_lines(tree):
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "core" and node.names[0].name == "openmp"
    ]


@each_file
def test_programs_set_openmp_before_they_load_torch(path):
    """And nothing else does: whoever imports a module of ours decides about the threads of the process."""
    tree = tree_of(path)
    blocks = [node for node in tree.body if is_main_block(node)]
    imports = sorted(imported(tree))
    settings = openmp_lines(tree)
    above_core = {"torch"} | {room for room, floor in FLOORS.items() if floor > 0}
    if blocks and {name for _, name in imports} & above_core:
        assert settings, "loads torch, and not openmp before it"
    if settings:
        guarded = [line for block in blocks for line in openmp_lines(block)]
        assert settings[0] in guarded, "openmp first, where the file is run"
        before = {name for line, name in imports if line < settings[0]}
        assert before <= sys.stdlib_module_names, "before openmp comes the standard library alone"


def is_main_block(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def is_pure(call):
    name = ast.unparse(call.func).split(".")[-1]
    return name[0].isupper() or name in PURE_CALLS


@each_file
def test_only_scripts_and_config_know_args(path):
    if name_of(path) in KNOW_ARGS or room_of(path) == "config":
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


# What a sentence may count: of these a number is said with `core.text.counted`, lest it says "1 images".
NOUNS = """
anchor attempt batch box byte category channel class click code column dimension embedding epoch feature file fold
group id image item label line list network number pair part path process query rank report row sample score second
shard sound step tag text triplet value word worker
""".split()
# What stands before a noun and is a word, or is never 1 where it stands.
NOT_COUNTED = {
    "{kind} files",
    "{kind} codes",
    "{kinds} rows",
    "{loss_name} takes labels",
    "{name} texts",
    "{names} ranks",
    "{source} embeds images",
    "{words} numbers",
    "{sizes['sampler']} makes batches",
    "{runtime} takes networks",
    "{mask.dtype} values",
    "{loss_name} leaves triplets",
    "{one} codes",
    "{width} numbers and",
    "{first + 2} have labels",
    "{trained or 'no'} train labels",
    "{len(clicks)} clicks",
    "{len(rows)} rows",
    "{len(shallow)} images",
    "{len(wanted)} rows are too many",
    "{texts} lines",
}


@each_file
def test_a_number_and_its_noun_agree(path):
    """Programs that print tables, whose numbers are settings, are no part of this."""
    if path.relative_to(ROOT).as_posix() in PROGRAMS | {"data/build_mnist.py", "data/build_stamps.py"}:
        return
    plurals = "|".join(plural(2, noun) for noun in NOUNS)
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:]):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            number = ast.unparse(value.value)
            is_settled = number.isupper() or "counted(" in number or "plural(" in number or value.conversion == ord("r")
            is_fraction = value.format_spec is not None and "," not in ast.unparse(value.format_spec)
            said = f"{{{number}}}{text.value}"
            if is_settled or is_fraction or said.startswith(tuple(NOT_COUNTED)):
                continue
            found = re.match(rf" (?:(?!(?:of|and|are|in|by|is|has|to) )[a-z]+ )?({plurals})\b", text.value)
            assert not found, f"line {node.lineno}: {said[:60]!r} says a 1 with a plural; counted() does not"


@each_file
def test_no_line_is_wide(path):
    wide = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not wide, f"lines over {LONGEST_LINE} characters"


def test_names():
    # Names behind a door are another system's.
    own = [path for path in CODE if path.relative_to(ROOT).parts[0] != "compat"]
    assert not [path for path in own if path.stem.strip("_") in ("util", "utils", "misc", "common", "helpers")]
    for folder, registry in REGISTRIES.items():
        files = {path.stem for path in (ROOT / folder).glob("[!_]*.py")}
        assert files == set(registry.names())
        for name in registry.names():
            assert registry[name].__module__ == f"{folder}.{name}".replace("/", ".")
