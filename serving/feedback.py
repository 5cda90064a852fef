"""What people say of answers, right or wrong, as lines of feedback.csv that are on the disk when they hear of it.

Columns: query, item (names of items: a path, with its box behind `#`; a text behind `text:`), same (1 or 0), time (ISO
8601, UTC, no two of a file the same).
"""

import contextlib
import csv
import io
import os
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from core.files import atomic_write, sync
from retrieval.index.folder import DiskRefuses

NAME = "feedback.csv"
FOLDER = "feedback"  # of images that asked, beside the file
COLUMNS = ("query", "item", "same", "time")
ERRORS = "surrogateescape"  # a path may hold bytes that are no UTF-8


class Feedback:
    """One feedback.csv, which this process writes to line by line. Raises DiskRefuses where it cannot."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / NAME
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)
        if self.path.exists():
            self._mend()

    def append(self, pairs: Sequence[tuple[str, str]], same: bool) -> list[str]:
        """Note down pairs (query, item) that are the same or not; returns the time of each line, which stands for it.

        They are on the disk when this returns.
        """
        with self._lock, self._writing():
            is_new = not self.path.exists() or not self.path.stat().st_size
            times = [self._next_time() for _ in pairs]
            rows: list[tuple] = [(query, item, int(same), time) for (query, item), time in zip(pairs, times)]
            if is_new:
                rows.insert(0, COLUMNS)
            text = _as_csv(rows)
            with open(self.path, "ab") as file:
                length = file.tell()
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    # Half a line would spoil the next one.
                    with contextlib.suppress(OSError):
                        file.truncate(length)
                    raise
            if is_new:
                sync(self.path.parent)
        return times

    def take_back(self, times: Sequence[str]) -> int:
        """Remove the lines of some times; how many there were."""
        with self._lock, self._writing():
            if not self.path.exists():
                return 0
            rows = _read(self.path)
            left = [row for row in rows if row[-1] not in times]
            if len(left) < len(rows):
                with atomic_write(self.path, durable=True) as file:
                    file.write(_as_csv(left))
            return len(rows) - len(left)

    def names(self) -> set[str]:
        """All names in it."""
        with self._lock:
            if not self.path.exists():
                return set()
            return {name for row in _read(self.path) for name in row[:2]}

    def _next_time(self) -> str:
        """Now, or a microsecond behind the last one, if the clock has not moved on or was put back."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return self._last.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _mend(self) -> None:
        """Cut off what of a line a lost power supply has left, of which nobody was told that it was there."""
        content = self.path.read_bytes()
        end = 0
        quotes = 0
        for number, byte in enumerate(content):
            if byte == ord('"'):
                quotes += 1
            # A line ends where all quotes are closed.
            elif byte == ord("\n") and quotes % 2 == 0:
                end = number + 1
        if end < len(content):
            with self._writing(), open(self.path, "r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskRefuses(f"cannot write {str(self.path)!r}: {error.strerror or error}") from None


def _as_csv(rows: Sequence[Sequence]) -> bytes:
    text = io.StringIO(newline="")
    # Everything in quotes: of a lone carriage return in a name the writer would not know that it ends a line, too.
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors=ERRORS)


def _read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8", errors=ERRORS) as file:
        return [row for row in csv.reader(file) if row]
