"""The own tests of Open Metric Learning and of EasyDL, run through compat/: what passes, and what does not.

python recipes/peer_tests.py oml CLONE [WORDS ...]: CLONE is a checkout of github.com/OML-Team/open-metric-learning;
python recipes/peer_tests.py easydl CLONE [WORDS ...]: one of github.com/xiaonanzzz/easydl. WORDS go to pytest.

Names that compat/ has are taken from there, all others (helpers of the tests) from the package itself. OML's has to be
installed (`make peers`), EasyDL's is that of its checkout, and wants accelerate; beside them go requirements/oml.txt,
models.txt, audio.txt, loggers.txt, lightning.txt and test.txt. Networks of texts, weights of ImageNet and images of CUB
are made, not downloaded.
"""

import argparse
import ast
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
from core.errors import InputError  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
# Where tests lie that look at what compat/ has; a pipeline's are those of scripts.
FOLDERS = {
    "oml": (
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
    ),
    "easydl": ("",),
}
# Networks that OML's tests load by these names, and the kinds of tests/oml_made.py.
NETWORKS = {"bert-base-uncased": "bert", "roberta-base": "roberta", "distilbert-base-uncased": "distilbert"}
# What comes behind EasyDL's conftest.py: a data set for each test, since its tests put a transform before the last one.
MADE_FOR_EASYDL = """
import torchvision
from compat.easydl.data import GenericXYLambdaAutoLabelEncoderDataset


def _drawn(count):
    colours = np.random.default_rng(0).integers(0, 255, (10, 3), dtype=np.uint8)
    image = lambda number: Image.new("RGB", (240, 224 + number), tuple(colours[number % 10].tolist()))
    return GenericXYLambdaAutoLabelEncoderDataset(image, lambda number: f"bird {number % 10}", count)


@pytest.fixture
def cub_train_small():
    return _drawn(100)


@pytest.fixture
def cub_test_small():
    return _drawn(50)


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    made = lambda name, row, weights: torchvision.models.get_model(name)
    monkeypatch.setattr("models.backbones.torchvision._build", made)
"""


def has(module: str, name: str) -> bool:
    """Whether a module of compat/ is there and has a name."""
    try:
        found = importlib.import_module(module)
        return hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    except (ImportError, InputError):  # not there, or an extra package that is not
        return False


def through_our_doors(text: str, package: str) -> str:
    """A test's text, in which each name of a package that compat/ has is imported from there."""
    lines = text.splitlines()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    # From the last to the first, so that lines which are still to come keep their numbers.
    for node in sorted(imports, key=lambda node: -node.lineno):
        if node.module is None or node.module.partition(".")[0] != package:
            continue
        replaced = []
        for alias in node.names:
            ours = f"compat.{node.module}"
            module = ours if has(ours, alias.name) else node.module
            renamed = f" as {alias.asname}" if alias.asname else ""
            replaced.append(f"from {module} import {alias.name}{renamed}")
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [indent + "; ".join(replaced)]
    # Names that a test replaces by others for its time are given as text.
    return re.sub(rf'(patch\(\s*"){package}\.', rf"\1compat.{package}.", "\n".join(lines)) + "\n"


def copied(tests: Path, folder: Path, package: str) -> list[str]:
    """Copies of a package's tests in a folder, through our doors; returns the paths of those that go through one."""
    of_ours = []
    for file in sorted(tests.rglob("*.py")):
        copy = folder / "tests" / file.relative_to(tests)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = through_our_doors(file.read_text(), package)
        if package == "easydl" and file == tests / "conftest.py":
            text += MADE_FOR_EASYDL
        copy.write_text(text)
        if f"from compat.{package}" in text and file.name.startswith("test_"):
            of_ours.append(copy.relative_to(folder).as_posix())
    wanted = tuple(f"tests/{part}" for part in FOLDERS[package])
    return [path for path in of_ours if path.startswith(wanted)]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=sorted(FOLDERS), help="whose tests")
    parser.add_argument("clone", type=Path, help="a checkout of its repository")
    args, words = parser.parse_known_args(argv)
    tests = args.clone / "tests"
    if not tests.is_dir():
        raise InputError(f"{args.clone} has no folder tests; it has to be a checkout of {args.package}'s repository")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = copied(tests, folder, args.package)
        # Paths that are given take the place of all.
        if any(word.startswith("tests/") for word in words):
            files = []
        if args.package == "oml":
            from oml_made import make_text_network

            # A folder of a network's name goes before the hub.
            for network, kind in NETWORKS.items():
                make_text_network(folder / network, kind)
        else:
            (folder / "pytest.ini").write_bytes((args.clone / "pytest.ini").read_bytes())

        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        paths = [str(ROOT), str(folder), str(args.clone.resolve()), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run([*command, *files, *words], cwd=folder, env=environment)
    sys.exit(done.returncode)


if __name__ == "__main__":
    run_script(main)
