"""Training runs as processes of their own, to be signalled, killed and gone on with."""

import subprocess
import sys
from pathlib import Path

LAUNCHED = Path(__file__).with_name("launched.py")


def start(script, line, **options):
    """A Popen of a training script with the backbone Tiny in it, its output as text in pipes."""
    words = [sys.executable, LAUNCHED, script, *line]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], **pipes, **options)
