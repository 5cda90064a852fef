"""Training runs as processes of their own, to be signalled, killed and gone on with."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runs import run, tiny_backbone

import distributed
from benchmarks import ranks

LAUNCHED = Path(__file__).with_name("launched.py")


def start(script, line, **options):
    """A Popen of a training script with the backbone Tiny in it, its output as text in pipes."""
    words = [sys.executable, LAUNCHED, script, *line]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], **pipes, **options)


def torchrun(number, script, *line, restarts=0, **environment):
    """A script as torchrun starts it; returns the finished process with what all ranks printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    # A room of their own, since torchrun leaves a folder of logs behind, and ranks that it ends what they had unpacked.
    with tempfile.TemporaryDirectory() as room:
        return subprocess.run(
            [*command, f"--max_restarts={restarts}", str(LAUNCHED), script, *map(str, line)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": room, **environment},
            capture_output=True,
            text=True,
            timeout=300,  # a hang, not a slow machine
        )


def run_in_ranks(number, script, *line):
    """What all ranks of a script print: what torchrun makes of it, without the seconds that torchrun itself takes."""
    with tempfile.TemporaryDirectory() as folder:
        ranks.start(number, _run_in_rank, folder, script, line)
        return "".join(Path(folder, f"{rank}.txt").read_text() for rank in range(number))


def _run_in_rank(folder, script, line):
    with tiny_backbone():
        printed = run(script, line)
    Path(folder, f"{distributed.rank()}.txt").write_text(printed)
    distributed.close()
