"""Threads that wait sleep, unless the user says otherwise: in every program, the tests, and torchrun's ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openmp import NAMES, POLICY, settings

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for pattern in ("*.py", "*/*.py") for path in sorted(ROOT.glob(pattern))]
PROGRAMS = [path.relative_to(ROOT).as_posix() for path in FILES if "\n    import openmp" in path.read_text()]
# What may bring OpenMP; here each tells what it would find in the environment, and ends the process.
LIBRARIES = ("torch", "numpy", "cv2")
STUB = f"""
import os
print("found", {{name: os.environ[name] for name in {NAMES} if name in os.environ}}, flush=True)
os._exit(0)
"""


def start(*words, **environment):
    """The words behind `python`, as a process to which nothing says how to wait but `environment`."""
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env={**inherited, **environment}, **pipes)


def spin_counts(*words):
    """How often a waiting thread asks before it sleeps, as each libgomp that the process loads says."""
    process = start(*words, OMP_DISPLAY_ENV="VERBOSE")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    counts = [int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", printed)]
    return counts or pytest.skip("this torch brings another OpenMP than GNU's")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder for PYTHONPATH in which the libraries are stubs."""
    folder = tmp_path_factory.mktemp("stubs")
    for library in LIBRARIES:
        (folder / f"{library}.py").write_text(STUB)
    return str(folder)


def found(stubs, *words, **environment):
    """What the first of the libraries that the program loads finds, as the stub tells it."""
    return start(*words, PYTHONPATH=stubs, **environment).communicate(timeout=60)[0].splitlines()[-1]


@pytest.mark.parametrize("program", [*PROGRAMS, "-m pytest -s"])
def test_programs_have_it_before_they_load_a_library(program, stubs):
    assert found(stubs, *program.split()) == f"found {POLICY}"


def test_the_programs_are_these():
    """That each program sets it is the layout's to say (test_layout.py)."""
    assert {"train_elem.py", "train_pair.py", "eval.py", "infer.py", "reader.py", "tests/launched.py"} <= set(PROGRAMS)
    assert {name.split("/")[0] for name in PROGRAMS if "/" in name} == {"benchmarks", "recipes", "tests"}


@pytest.mark.parametrize("program", ["train_elem.py", "benchmarks/step.py", "-m pytest -s"])
@pytest.mark.parametrize(
    "name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE"), ("KMP_BLOCKTIME", "9")]
)
def test_what_the_user_sets_wins(program, name, value, stubs):
    assert found(stubs, *program.split(), **{name: value}) == f"found { ({name: value}) }"


def test_ranks_have_it(stubs):
    """torchrun itself loads torch without us; the ranks that it starts are programs of ours."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    printed, _ = start(*torchrun, "env", f"PYTHONPATH={stubs}", sys.executable, "train_elem.py").communicate(timeout=60)
    assert printed.count(f"found {POLICY}") == 2


def test_openmp_takes_it():
    """The library itself says that a thread that waits sleeps at once, where by default it asks 300,000 times."""
    assert set(spin_counts("train_elem.py", "--help")) == {0}


def test_late_it_changes_nothing():
    """Whoever has loaded torch goes on as it was; and our modules alone, which a notebook may import, set nothing."""
    before = "import os, torch, train_elem; before = dict(os.environ)"
    code = f"{before}; import openmp; assert os.environ == {{**before, **openmp.POLICY}}; torch.ones(9).exp()"
    assert 0 not in spin_counts("-c", f"{code}; assert not before.keys() & set(openmp.NAMES)")


@pytest.mark.parametrize("name", NAMES)
def test_settings(name):
    assert settings({}) == settings({"OMP_NUM_THREADS": "2"}) == POLICY
    assert settings({name: ""}) == {}
