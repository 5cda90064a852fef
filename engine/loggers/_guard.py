"""A logger that writes beside the run, and is not to end it: a disk that is full, a file that nobody may write to."""

from collections.abc import Callable

from core.console import log
from core.errors import first_line
from engine.loggers._handing_on import HandingOn
from engine.loggers._protocol import Logger


class Guard(HandingOn):
    """Hands a logger what it is told. What fails is lost: the first time is said, and how many there were at the end.

    open_logger: makes the logger; where that fails, everything is lost.
    """

    def __init__(self, name: str, open_logger: Callable[[], Logger]):
        self.name = name
        self.told = 0
        self.lost = 0
        self.has_said = False
        self.logger: Logger | None = None
        self._try(self._open, open_logger)

    def close(self) -> None:
        if self.logger is not None:
            self._try(self.logger.close)
        self._say_lost()

    def _open(self, open_logger: Callable[[], Logger]) -> None:
        self.logger = open_logger()

    def _tell(self, method: str, *arguments: object) -> None:
        self.told += 1
        if self.logger is None or not self._try(getattr(self.logger, method), *arguments):
            self.lost += 1

    def _try(self, action: Callable[..., object], *arguments: object) -> bool:
        """Whether `action` went well; what it raises is said, unless something was before: packages raise anything."""
        try:
            action(*arguments)
        except Exception as error:
            if not self.has_said:
                reason = getattr(error, "strerror", None) or first_line(error)
                log(f"{self.name}: {reason}; what it does not keep is lost, and the run goes on")
            self.has_said = True
            return False
        return True
