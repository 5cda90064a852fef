"""What is wrong with a list, by its line."""

from collections.abc import Callable
from pathlib import Path

from core.text import counted

SHOWN_FAULTS = 20  # sentences about lists that an error shows at the most
LONGEST_ECHO = 100  # characters of a wrong value or line that are shown


class Problems:
    """What is wrong with one list, and what it can do with but should be known of it.

    Its length is the number of problems; notes do not count.
    """

    def __init__(self):
        self._problems: list[tuple[int, str]] = []
        self._notes: list[tuple[str, bool]] = []

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, line: int, sentence: str) -> None:
        """Something is wrong in line `line`; 0 where it is about the list as a whole."""
        self._problems.append((line, sentence))

    def note(self, sentence: str, names_source: bool = False) -> None:
        """Something should be known of the list; names_source: whether the sentence itself says of which."""
        self._notes.append((sentence, names_source))

    def lines(self, source: str | Path) -> list[str]:
        """The problems in the order of their lines, each behind `source` and its line."""
        # A stable sort, so that problems of one line stay in the order in which they were found.
        ordered = sorted(self._problems, key=lambda problem: problem[0])
        return [f"{source}:{line}: {sentence}" if line else f"{source}: {sentence}" for line, sentence in ordered]

    def notes_of(self, source: str | Path) -> list[str]:
        """The notes, each behind `source` unless it names that."""
        return [sentence if names_source else f"{source}: {sentence}" for sentence, names_source in self._notes]


def first_faults(sentences: list[str], advice: str = "") -> list[str]:
    """The first sentences of many, and how many more there are; advice: what shows these."""
    more = len(sentences) - SHOWN_FAULTS
    if more <= 0:
        return sentences
    return [*sentences[:SHOWN_FAULTS], f"and {counted(more, 'fault')} more{advice}"]


def not_empty(columns: dict[str, list], sentence: str, problems: Problems) -> dict[str, list] | None:
    """The columns, or None without rows; `sentence` is a problem then, unless others say already why."""
    if columns["lines"]:
        return columns
    if not problems:
        problems.add(0, sentence)
    return None


def echo(value: object, form: Callable[[object], str] = repr) -> str:
    """What a list holds, as it may be shown: on one line, and not for ever."""
    text = form(value)
    if len(text) <= LONGEST_ECHO:
        return text
    return f"{text[:LONGEST_ECHO]}..."
