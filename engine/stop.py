"""SIGINT and SIGTERM: a run ends where it can be gone on with."""

import contextlib
import signal
import threading

from core.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the context is entered, a first signal is only noted, in `signal`; a second one acts as it always did.

    breaks: whether a signal may end what is `breakable`; not where other processes count on its end. Signals reach a
    process's main thread; in another thread nothing is caught.
    """

    def __init__(self, breaks=True):
        self.signal, self.breaks, self.is_idle, self.former = None, breaks, False, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = number
        signal.signal(number, self.former[number])
        if self.is_idle:
            raise Stopped(number)

    @contextlib.contextmanager
    def breakable(self, number):
        """A context for work that can be done again: raises Stopped when a signal comes, or if `number`, 0 for none,
        is one that has come already."""
        self.is_idle = self.breaks
        try:
            if number or (self.breaks and self.signal):
                raise Stopped(number or self.signal)
            yield
        finally:
            self.is_idle = False
