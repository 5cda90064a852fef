"""How much memory a process has, as Linux tells it."""

from pathlib import Path


def memory(field: str, process: int | str = "self") -> float:
    """A line of a process's /proc/PID/status in MB. Raises OSError or StopIteration where it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
