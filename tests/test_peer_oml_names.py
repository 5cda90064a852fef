"""Every public name of Open Metric Learning against compat.oml: the same arguments, or a row in docs/oml.md.

Its modules are read and not imported: some need packages that are gone. Public is what a module's `__all__` names, what
the module around it imports from it, and of a class its methods and properties.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("oml", reason="parity with Open Metric Learning needs requirements/peers.txt")
pytest.importorskip("lightning", reason="what is for Lightning needs requirements/lightning.txt")
from oml import const  # noqa: E402

PAGE = Path(__file__).resolve().parents[1] / "docs" / "oml.md"
SOURCE = Path(importlib.util.find_spec("oml").origin).parent
ABSENT, OTHERWISE = "not here", "taken otherwise"  # heads of the first columns of both tables
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def tree_of(module):
    path = SOURCE.joinpath(*module.split(".")[1:])
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def modules():
    """All modules of the package, as oml.a.b."""
    for file in sorted(SOURCE.rglob("*.py")):
        yield ".".join(("oml", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def defined(tree):
    """{name: its node} of a module's classes, functions and constants."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
            found[node.name] = node
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def public_names(module):
    """{name: its node, or None for what is imported from elsewhere} of what a module offers."""
    tree = tree_of(module)
    own = defined(tree)
    if "__all__" in own:
        return {name: own.get(name) for name in ast.literal_eval(own["__all__"].value)}
    names = {name: node for name, node in own.items() if not name.startswith("_")}
    if (SOURCE.joinpath(*module.split(".")[1:])).is_dir():
        imports = [
            node for node in tree.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith("oml")
        ]
        names |= {alias.asname or alias.name: None for node in imports for alias in node.names}
    return names


def members(node):
    """{name: its node} of the public methods and properties of a class, and its constructor."""
    return {
        part.name: part
        for part in node.body
        if isinstance(part, FUNCTIONS) and (part.name == "__init__" or not part.name.startswith("_"))
    }


def arguments(node):
    """[(name, text of the default or None)] of a function, less self, and whether it takes more by position or name."""
    taken = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(taken) - len(node.args.defaults)) + [ast.unparse(each) for each in node.args.defaults]
    pairs = [(each.arg, default) for each, default in zip(taken, defaults) if each.arg not in ("self", "cls")]
    return pairs


def value_of(text):
    """(whether it is known here, the value) of a default's text."""
    names = {**vars(const), "maxsize": sys.maxsize, "sys": sys}
    try:
        value = eval(text, names)
    except (AttributeError, NameError):
        return False, None
    return True, tuple(value) if isinstance(value, list) else value


def difference(node, made):
    """What differs between the arguments of their function and of ours; None where nothing does."""
    theirs = arguments(node)
    try:
        ours = inspect.signature(made).parameters
    except ValueError:
        return None
    ours = {name: each for name, each in ours.items() if name not in ("self", "cls")}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in ours.values())
    named = [name for name, each in ours.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    wanted = [name for name, _ in theirs if name in named or not takes_any]
    if named[: len(wanted)] != wanted:
        return f"({', '.join(wanted)}), here ({', '.join(named)})"
    for name, default in theirs:
        if default is None or name not in named:
            continue
        if ours[name].default is inspect.Parameter.empty:
            return f"{name} has no default here"
        is_known, value = value_of(default)
        here = ours[name].default
        here = tuple(here) if isinstance(here, list) else here
        if is_known and here != value:
            return f"{name}={default}, here {here!r}"
    return None


def walked():
    """({name: why it counts as missing}, {name: what differs}, how many are the same)."""
    missing, otherwise, same = {}, {}, 0
    for module in modules():
        try:
            ours = importlib.import_module(f"compat.{module}")
        except ModuleNotFoundError as error:
            assert error.name.startswith("compat.oml"), error
            ours = None
        short = module.partition(".")[2]
        for name, node in public_names(module).items():
            place = f"{short}.{name}".lstrip(".")
            if ours is None or not hasattr(ours, name):
                missing[place] = "no module" if ours is None else "no name"
                continue
            made = getattr(ours, name)
            same += 1
            if isinstance(node, FUNCTIONS) and (text := difference(node, made)):
                otherwise[place] = text
            if not isinstance(node, ast.ClassDef):
                continue
            for member, part in members(node).items():
                spot = f"{place}.{member}".removesuffix(".__init__")
                if not hasattr(made, member) and member not in inspect.get_annotations(made):
                    missing[spot] = "no method"
                elif member == "__init__" and (text := difference(part, made)):
                    otherwise[spot] = text
                elif callable(getattr(made, member, None)) and member != "__init__":
                    if text := difference(part, getattr(made, member)):
                        otherwise[spot] = text
    return missing, otherwise, same


def table(head):
    """The names in the first column of the page's table with this head; a name ends with `.*` for all below it."""
    rows, inside = [], False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        inside = bool(cells) and (inside or cells[0] == head)
        if inside and cells[0] != head and set(cells[0]) != {"-"}:
            rows.extend(re.findall(r"`([\w.*]+)`", cells[0]))
    assert rows, f"{PAGE.name} has no table {head!r}"
    return rows


def covers(row, name):
    return name == row or row.endswith(".*") and name.startswith(row[:-1])


@pytest.fixture(scope="module")
def found():
    return walked()


@pytest.mark.parametrize("head", [ABSENT, OTHERWISE])
def test_each_name_is_here_as_there_or_in_the_table(found, head, record_property):
    """A name that is in neither fails, and so does a row that says of no name what is so."""
    names = found[0] if head == ABSENT else found[1]
    rows = table(head)
    unsaid = {name: why for name, why in names.items() if not any(covers(row, name) for row in rows)}
    assert not unsaid, f"in no row of {head!r}: {unsaid}"
    stale = [row for row in rows if not any(covers(row, name) for name in names)]
    assert not stale, f"rows of {head!r} of which there is no such name: {stale}"
    record_property(
        "names here" if head == ABSENT else "names with other arguments", found[2] if head == ABSENT else len(names)
    )


if __name__ == "__main__":
    for kind in walked()[:2]:
        print(*(f"{name}: {why}" for name, why in kind.items()), "", sep="\n")
