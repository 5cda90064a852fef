"""Threads that wait sleep soon, unless the user says otherwise: in every program, the tests, and torchrun's ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import threads as lane
from core.openmp import NAMES, POLICY, settings

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for pattern in ("*.py", "*/*.py") for path in sorted(ROOT.glob(pattern))]
PROGRAMS = [path.relative_to(ROOT).as_posix() for path in FILES if "\n    from core import openmp" in path.read_text()]
# What a program needs to be told to come as far as a library: without words these end before they load any.
WORDS = {
    "doctor.py": ("list.csv",),
    "search.py": ("find", "photos.index", "--input=cat.jpg"),
    "recipes/join_towers.py": ("towers", "run"),
    "benchmarks/_wait_probe.py": ("import_torch",),
}
WITHOUT_A_LIBRARY = ("recipes/from_oml.py", "recipes/peer_tests.py", "recipes/seeds_table.py")  # whatever it is told
# What may bring OpenMP; here each tells what it would find in the environment, and ends the process.
LIBRARIES = ("torch", "numpy", "cv2")
STUB = f"""
import os
told = {{name: os.environ[name] for name in {NAMES} if name in os.environ}}
os.write(1, f"found {{told}}\\n".encode())  # at one go, since two ranks may write at the same time
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


@pytest.mark.parametrize("program", [*(name for name in PROGRAMS if name not in WITHOUT_A_LIBRARY), "-m pytest -s"])
def test_programs_have_it_before_they_load_a_library(program, stubs):
    assert found(stubs, *program.split(), *WORDS.get(program, ())) == f"found {POLICY}"


def test_the_programs_are_these():
    """That each program sets it is the layout's to say (test_house.py)."""
    assert {"train_elem.py", "train_pair.py", "eval.py", "infer.py", "reader.py", "tests/launched.py"} <= set(PROGRAMS)
    assert {name.split("/")[0] for name in PROGRAMS if "/" in name} == {"benchmarks", "data", "recipes", "tests"}


@pytest.mark.parametrize(
    "program", ["train_elem.py", "benchmarks/step.py", pytest.param("-m pytest -s", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE"), ("KMP_BLOCKTIME", "9")]
)
def test_what_the_user_sets_wins(program, name, value, stubs):
    assert found(stubs, *program.split(), **{name: value}) == f"found { ({name: value}) }"


@pytest.mark.slow
def test_ranks_have_it(stubs, tmp_path):
    """torchrun itself loads torch without us; the ranks that it starts are programs of ours."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    words = (*torchrun, "env", f"PYTHONPATH={stubs}", sys.executable, "train_elem.py")
    printed, _ = start(*words, TMPDIR=str(tmp_path)).communicate(timeout=60)
    assert printed.count(f"found {POLICY}") == 2


def test_openmp_takes_it():
    """The library itself says that a thread that waits sleeps soon, where by default it asks 300,000 times."""
    assert set(spin_counts("reader.py", "--help")) == {1000}


def test_late_it_changes_nothing():
    """Whoever has loaded torch goes on as it was; and our modules alone, which a notebook may import, set nothing."""
    before = "import os, torch, train_elem; before = dict(os.environ)"
    code = f"{before}; from core import openmp; assert os.environ == {{**before, **openmp.POLICY}}; torch.ones(9).exp()"
    assert 1000 not in spin_counts("-c", f"{code}; assert not before.keys() & set(openmp.NAMES)")


@pytest.mark.parametrize("name", NAMES)
def test_settings(name):
    assert settings({}) == settings({"OMP_NUM_THREADS": "2"}) == POLICY
    assert settings({name: ""}) == {}


def test_the_lane_gives_each_policy_a_process_that_knows_no_other(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    for policy, wanted in (
        (lane.OWN, {}),
        ("GOMP_SPINCOUNT=7", {"GOMP_SPINCOUNT": "7"}),
        ("KMP_BLOCKTIME=0", {"KMP_BLOCKTIME": "0"}),
    ):
        with lane.start(policy, 3) as pool:
            told = {name: pool.submit(os.getenv, name).result() for name in (*NAMES, "OMP_NUM_THREADS")}
        assert {name: value for name, value in told.items() if value} == {**wanted, "OMP_NUM_THREADS": "3"}
    assert os.environ["GOMP_SPINCOUNT"] == "5"


@pytest.mark.parametrize(
    "cores, threads, times", [(2, 2, 1.5), (2, 1, 1), (1, 1, 2), (4, 4, 1.25), (4, 3, 1), (2, 4, 1.25)]
)
def test_fair_share(cores, threads, times):
    """All threads of ours and the busy one have equal parts of the cores; more threads than cores have more parts."""
    assert lane.fair_share(cores, threads) == pytest.approx(times)


def test_the_lane_compares_with_openmps_own():
    """By hand: alone 2 s and 2.2 s, so 10 % over; beside a busy process 3 s are fair on two cores, 4.5 s 1.5 of it."""
    seconds = {"idle": [2, 1, 9], "busy": [9, 1, 12]}, {"idle": [2.2, 2.2, 2.2], "busy": [4.5, 4, 5]}
    table = lane.compared({(lane.OWN, 2): seconds[0], ("other", 2): seconds[1]}, cores=2)
    own, other = table[lane.OWN, 2], table["other", 2]
    assert own["idle"] == {"seconds": 2, "spread": [1, 9]} and own["over"] == 0 and own["shares"] == pytest.approx(3)
    assert (other["over"], other["shares"]) == (pytest.approx(10), pytest.approx(1.5))
    assert not lane.is_good(own) and not lane.is_good(other) and lane.is_good({"over": 3, "shares": 1.5})


def test_the_lane_sees_whether_the_machine_is_idle():
    with lane.busy_process():
        assert 0.3 < lane.cores_taken(0.5) < os.cpu_count() + 0.5
