"""Lines on the console."""

import sys
import time

from tqdm import tqdm

from core.ranks import is_first


def log(line: str, by_first: bool = True) -> None:
    """Print one time-stamped line that does not break a progress bar.

    by_first: of several ranks the first alone prints it; else each does.
    """
    if by_first and not is_first():
        return
    tqdm.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {line}", file=sys.stdout)
    sys.stdout.flush()
