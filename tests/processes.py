"""Training runs as processes of their own, to be signalled, killed and gone on with."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
DRIVER = textwrap.dedent(
    """
    import sys

    import torch

    sys.path[:0] = [sys.argv.pop(1), sys.argv.pop(1)]
    torch.set_num_threads(1)
    from runs import SCRIPTS, tiny_backbone

    from engine.options import run_script

    sys.argv[0] = f"{sys.argv.pop(1)}.py"
    with tiny_backbone():
        run_script(SCRIPTS[sys.argv[0].removesuffix(".py")].main)
    """
)


def start(script, line, **options):
    """A Popen of a training script with the backbone Tiny in it, its output as text in pipes."""
    words = [sys.executable, "-c", DRIVER, ROOT, ROOT / "tests", script, *line]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], **pipes, **options)
