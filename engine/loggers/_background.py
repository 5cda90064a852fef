"""A logger in a thread of its own, so that a server which is slow, or gone, neither ends a run nor slows it."""

import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.console import log
from core.errors import first_line
from engine.loggers._handing_on import HandingOn
from engine.loggers._protocol import Logger

MOST_CALLS = 2000  # that wait
MOST_BYTES = 2**27  # of pictures that wait
ANSWER_SECONDS = 30.0  # in which one call has to come back, those before the end of a run counted
LOOK_SECONDS = 0.2  # from one look at it to the next then
CLOSING_SECONDS = 60.0  # for all that still waits then
BYTES_A_SECOND = 5e6  # of a file that is sent


class Background(HandingOn):
    """Hands a logger what it is told, in the order in which it is told, from a thread.

    What does not fit into the queue is lost, and so is what the logger refuses; how much, and why, is said once, at the
    end. open_logger: makes the logger, in the thread, since that may take as long as anything.
    """

    def __init__(self, name: str, open_logger: Callable[[], Logger]):
        self.name = name
        self.open_logger = open_logger
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.told = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self.file_bytes = 0
        # Until when the call in hand may take; any time while there is none.
        self.patience = time.monotonic() + ANSWER_SECONDS
        self.lost = 0
        self.reason = ""
        self.ended_at: float | None = None
        self.thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self.thread.start()

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        # A copy, since the run may go on to use its own.
        super().log(dict(figures), step, group)

    def checkpoint(self, path: Path, step: int) -> None:
        self.file_bytes += path.stat().st_size
        super().checkpoint(path, step)

    def end(self) -> None:
        """Nothing comes any more; `close` waits for what is told already, so that several can do so at a time."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            self.queue.put(None)

    def close(self) -> None:
        """Wait for what is told to have gone out, as long as something does; say what is lost."""
        self.end()
        # From when all loggers were told, so that several that are gone take no longer than one. A call that has been
        # under way for long by then does not come back any more.
        end = self.ended_at + CLOSING_SECONDS + self.file_bytes / BYTES_A_SECOND
        while self.thread.is_alive() and (left := min(end, self.patience) - time.monotonic()) > 0:
            self.thread.join(min(left, LOOK_SECONDS))
        if self.thread.is_alive() and not self.waiting:
            log(f"{self.name}: its package has not come to its end; what it still holds may be lost; the run is whole")
        elif self.thread.is_alive():
            self._lose(self.waiting, "its server does not answer")
        self._say_lost(f": {self.reason}")

    def _tell(self, method: str, *arguments: object) -> None:
        # Arrays and tensors: all else is small.
        size = sum(getattr(argument, "nbytes", 0) for argument in arguments)
        with self.lock:
            self.told += 1
            fits = self.waiting < MOST_CALLS and self.waiting_bytes + size <= MOST_BYTES
            if fits:
                self.waiting += 1
                self.waiting_bytes += size
        if fits:
            self.queue.put((method, size, arguments))
        else:
            self._lose(1, "more came than its server takes")

    def _lose(self, calls: int, reason: str) -> None:
        with self.lock:
            self.lost += calls
            self.reason = self.reason or reason

    def _work(self) -> None:
        """The thread: open the logger, hand it all that comes, close it."""
        logger = self._try(self.open_logger)
        self.patience = math.inf
        call = self.queue.get()
        while call is not None:
            method, size, arguments = call
            self._begin_call(self.file_bytes if method == "checkpoint" else 0)
            if logger is None or not self._hand_on(logger, method, arguments):
                self._lose(1, "it could not be opened")
            with self.lock:
                self.waiting -= 1
                self.waiting_bytes -= size
            self.patience = math.inf
            call = self.queue.get()
        if logger is not None:
            # Packages may have put files off until now.
            self._begin_call(self.file_bytes)
            self._try(logger.close)

    def _begin_call(self, file_bytes: int) -> None:
        self.patience = time.monotonic() + ANSWER_SECONDS + file_bytes / BYTES_A_SECOND

    def _hand_on(self, logger: Logger, method: str, arguments: tuple) -> bool:
        """Call the logger; whether that went well."""

        def call() -> bool:
            getattr(logger, method)(*arguments)
            return True

        return self._try(call) is not None

    def _try(self, action: Callable[[], object]) -> object:
        """What `action` gives; None, and the reason is kept, where it fails: packages raise anything, even exits."""
        try:
            return action()
        except BaseException as error:
            with self.lock:
                self.reason = self.reason or f"{type(error).__name__}: {first_line(error)}"
            return None
