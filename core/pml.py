"""What the files of pytorch-metric-learning say of its losses, miners and distances, read without importing it.

Their keywords are flags as ours are, and a help text needs no torch, which that package imports (core/sources.py).
"""

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, unknown
from core.sources import tree_of

PACKAGE = "pytorch_metric_learning"
PREFIX = "pml:"  # before the name of a loss, in --loss_name
INSTALL = "pip install -r requirements/losses.txt"
# What a training can hand over to a loss that asks for it: how many labels there are, and how wide embeddings are.
NUM_CLASSES = ("num_classes",)
EMBEDDING_SIZE = ("embedding_size", "descriptors_dim")
# Keywords that take objects, and what goes with those alone: no text says them.
OBJECTS = ("distance", "reducer", "embedding_regularizer", "embedding_reg_weight")
OBJECTS += ("weight_regularizer", "weight_reg_weight", "weight_init_func", "num_classes")
# Of two views of each image, which no batch here holds, and without labels, which each has.
UNSUITED = ("VICRegLoss", "ManifoldLoss")


@dataclass(frozen=True)
class PmlClass:
    """A class of the package: `needs` are its keywords without a default, `options` {keyword: default} of those that a
    text can say."""

    name: str
    needs: tuple[str, ...]
    options: dict[str, object]

    @property
    def over_classes(self) -> bool:
        """Whether it has weights of all labels, so that any batch will do."""
        return bool(set(self.needs) & set(NUM_CLASSES))


@functools.cache
def classes(kind: str) -> dict[str, PmlClass]:
    """{name: PmlClass} of the "losses", "miners" or "distances" that a training can make; none if not installed."""
    folder = _folder()
    if folder is None:
        return {}
    definitions = _definitions(folder)
    found = {}
    for node in tree_of(folder / kind / "__init__.py").body:
        for alias in getattr(node, "names", []):
            needs, options = _keywords(alias.name, definitions)
            described = PmlClass(alias.name, tuple(needs), options)
            if _is_for_use(described):
                found[alias.name] = described
    return found


def loss_class(name: str, stage: str | None = None) -> PmlClass:
    """The PmlClass of a --loss_name such as pml:TripletMarginLoss.

    stage: "elem" takes losses over classes alone. Raises InputError for an unknown one, with the near match, for one of
    the other stage, and where the package is not installed.
    """
    if _folder() is None:
        raise InputError(f"{name} is a loss of pytorch-metric-learning, which is not installed: {INSTALL}")
    losses = classes("losses")
    short = name.removeprefix(PREFIX)
    if short not in losses:
        raise unknown("loss", name, [PREFIX + known for known in losses])
    if stage == "elem" and not losses[short].over_classes:
        elem = ", ".join(PREFIX + known for known, loss in losses.items() if loss.over_classes)
        raise InputError(f"{name} is a loss of train_pair.py; train_elem.py has {elem}")
    return losses[short]


def _folder() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])


def _definitions(folder: Path) -> dict[str, ast.ClassDef]:
    """{name: definition} of all classes of the three folders."""
    found = {}
    for kind in ("losses", "miners", "distances"):
        for file in sorted((folder / kind).glob("*.py")):
            for node in tree_of(file).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name] = node
    return found


def _is_for_use(described: PmlClass) -> bool:
    is_abstract = described.name.startswith(("Base", "Generic")) and described.name != "GeneralizedLiftedStructureLoss"
    return (
        not is_abstract
        and not described.name.endswith("Mixin")
        and described.name not in UNSUITED
        and set(described.needs) <= {*NUM_CLASSES, *EMBEDDING_SIZE}
    )


def _keywords(name: str, definitions: dict[str, ast.ClassDef]) -> tuple[list[str], dict[str, object]]:
    """(needs, options) of a class, with those of its bases as far as it hands keywords on to them."""
    node = definitions.get(name)
    if node is None:
        return [], {}
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    needs: list[str] = []
    options: dict[str, object] = {}
    fixed: set[str] = set()
    if init is not None:
        arguments = [*init.args.args[1:], *init.args.kwonlyargs]
        defaults = [None] * (len(init.args.args) - 1 - len(init.args.defaults)) + init.args.defaults
        for argument, default in zip(arguments, [*defaults, *init.args.kw_defaults], strict=True):
            fixed.add(argument.arg)
            if default is None:
                needs.append(argument.arg)
            elif argument.arg not in OBJECTS:
                options |= _literal(argument.arg, default, node)
        needs += _asked_of_rest(init)
        fixed |= {*_handed_on(init), *needs}
    if init is None or init.args.kwarg or init.args.vararg:
        for base in node.bases:
            base_needs, base_options = _keywords(ast.unparse(base).split(".")[-1], definitions)
            needs += [need for need in base_needs if need not in fixed | set(needs)]
            options |= {key: value for key, value in base_options.items() if key not in fixed | set(options)}
    return needs, options


def _handed_on(init: ast.FunctionDef) -> set[str]:
    """Keywords that a class sets for its bases, which nobody else may, therefore."""
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
    to_bases = [call for call in calls if ast.unparse(call.func) == "super().__init__"]
    return {keyword.arg for call in to_bases for keyword in call.keywords if keyword.arg}


def _asked_of_rest(init: ast.FunctionDef) -> list[str]:
    """Keywords that a class takes out of its **kwargs by name: kwargs["num_classes"]."""
    rest = init.args.kwarg.arg if init.args.kwarg else None
    found = []
    for node in ast.walk(init):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == rest and isinstance(node.slice, ast.Constant):
            found.append(node.slice.value)
    return found


def _literal(name: str, default: ast.expr, node: ast.ClassDef) -> dict[str, object]:
    """{name: its default}, which may stand in a constant of the class; nothing where it is no literal."""
    if isinstance(default, ast.Name):
        constants = [item for item in node.body if isinstance(item, ast.Assign)]
        default = next((item.value for item in constants if ast.unparse(item.targets[0]) == default.id), default)
    try:
        return {name: ast.literal_eval(default)}
    except ValueError:
        return {}
