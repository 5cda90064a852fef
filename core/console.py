"""Lines on the console."""

import os
import sys
import time

from tqdm import tqdm


def log(line: str, by_first: bool = True) -> None:
    """Print one time-stamped line that does not break a progress bar.

    by_first: of several ranks the first alone prints it; else each does.
    """
    rank = int(os.environ.get("RANK", "0"))
    if by_first and rank > 0:
        return
    tqdm.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {line}", file=sys.stdout)
    sys.stdout.flush()
