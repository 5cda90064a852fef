"""What the tests start as a process, or by torchrun: a script with the Tiny backbone.

python tests/launched.py train_elem --flag=value

The rank LOST_RANK kills itself at LOST_STEP, once.
"""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401

    # isort: split
    import torch
    from runs import PROGRAMS, tiny_backbone

    import distributed
    from config.script import run_script
    from engine.trainer import Trainer

    torch.set_num_threads(1)
    name, *line = sys.argv[1:]
    sys.argv = [f"{name}.py", *line]
    after_step = Trainer._after_step

    def lose(self, step):
        lost = os.environ.get("LOST_RANK") == str(distributed.rank()) and os.environ["LOST_STEP"] == str(step)
        if lost and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        after_step(self, step)

    Trainer._after_step = lose
    with tiny_backbone():
        run_script(PROGRAMS[name].main)
