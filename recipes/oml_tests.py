"""Open Metric Learning's own tests, run through compat/oml: what passes, and what does not.

python recipes/oml_tests.py CLONE [WORDS ...]: CLONE is a checkout of https://github.com/OML-Team/open-metric-learning,
WORDS go to pytest. Names that compat/oml has are taken from there, helpers of the tests that it has not (seeds, one-hot
vectors, ...) from the package itself, which has to be installed: `make peers`, and requirements/oml.txt.
"""

import ast
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from core.errors import InputError  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "test_oml/test_datasets",
    "test_oml/test_ddp",
    "test_oml/test_functional",
    "test_oml/test_losses",
    "test_oml/test_metrics",
    "test_oml/test_miners",
    "test_oml/test_models",
    "test_oml/test_postprocessor",
    "test_oml/test_registry",
    "test_oml/test_retrieval_results",
    "test_oml/test_samplers",
    "test_oml/test_transforms",
    "test_oml/test_utils",
    "test_integrations/test_retrieval_validation.py",
    "test_integrations/test_train_with_mining.py",
)


def has(module: str, name: str) -> bool:
    """Whether a module of compat/oml is there and has a name."""
    try:
        found = importlib.import_module(module)
        return hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    except (ImportError, InputError):  # not there, or an extra package that is not
        return False


def through_our_doors(text: str) -> str:
    """A test's text, in which each name of OML that compat/oml has is imported from there."""
    lines = text.splitlines()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    # From the last to the first, so that lines which are still to come keep their numbers.
    for node in sorted(imports, key=lambda node: -node.lineno):
        if node.module is None or node.module.partition(".")[0] != "oml":
            continue
        replaced = []
        for alias in node.names:
            ours = f"compat.{node.module}"
            module = ours if has(ours, alias.name) else node.module
            renamed = f" as {alias.asname}" if alias.asname else ""
            replaced.append(f"from {module} import {alias.name}{renamed}")
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [indent + "; ".join(replaced)]
    return "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    clone = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        of_ours = set()
        for file in sorted((clone / "tests").rglob("*.py")):
            copy = Path(folder, "tests", file.relative_to(clone / "tests"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = through_our_doors(file.read_text())
            copy.write_text(text)
            if "from compat.oml" in text and file.name.startswith("test_"):
                of_ours.add(copy.relative_to(folder).as_posix())
        # Helpers that are the package's alone are no business of ours.
        words = sys.argv[2:]
        wanted = [path for path in sorted(of_ours) if path.startswith(tuple(f"tests/{part}" for part in FOLDERS))]
        # Paths that are given take the place of all.
        if any(word.startswith("tests/") for word in words):
            wanted = []
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        paths = [str(ROOT), folder, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run([*command, *wanted, *words], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
