"""The lines on the console."""

import os
import sys
import time

from tqdm import tqdm


def log(line: str, by_first: bool = True) -> None:
    """One time-stamped line that does not break a progress bar; of several ranks the first alone says it, or each."""
    if by_first and int(os.environ.get("RANK", 0)) > 0:
        return
    tqdm.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {line}", file=sys.stdout)
    sys.stdout.flush()
