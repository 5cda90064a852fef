"""SIGINT and SIGTERM: a run ends where it can be gone on with."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

from core.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the context is entered, a first signal is only noted, in `signal`; a second one acts as it always did.

    may_interrupt: whether a signal may end what is `interruptible`; not where other processes count on its end. Signals
    reach a process's main thread; in another thread nothing is caught.
    """

    def __init__(self, may_interrupt: bool):
        self.signal: int | None = None
        self.may_interrupt = may_interrupt
        self.is_interruptible = False
        self.former_handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.former_handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former_handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self.former_handlers[number])
        if self.is_interruptible:
            raise Stopped(number)

    @contextlib.contextmanager
    def interruptible(self, number: int) -> Iterator[None]:
        """A context for work that can be done again: raises Stopped when a signal comes, or if one has come already.

        number: of one that came to any rank, 0 for none.
        """
        self.is_interruptible = self.may_interrupt
        try:
            if number:
                raise Stopped(number)
            # It may have come since all ranks compared theirs.
            if self.may_interrupt and self.signal:
                raise Stopped(self.signal)
            yield
        finally:
            self.is_interruptible = False
