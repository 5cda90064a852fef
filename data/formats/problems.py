"""What is wrong with a list, by its line."""

SPLITS = {"train": "train", "test": "validation"}  # how a csv calls them; None stands for both
NO_ROW = "no row in it has the split"
LONGEST_ECHO = 100  # characters of a wrong value or line that are shown


class Problems(list):
    """What is wrong with one list: (line, sentence), line 0 where it is about the list as a whole.

    notes: sentences on what the list can do with, but should be known.
    """

    def __init__(self):
        super().__init__()
        self.notes = []

    def say(self, line: int, sentence: str):
        self.append((line, sentence))

    def told(self, source) -> list[str]:
        """The sentences in the order of their lines, each behind `source` and its line."""
        return [f"{source}:{line}: {text}" if line else f"{source}: {text}" for line, text in sorted(self, key=_line)]

    def noted(self, source) -> list[str]:
        return [f"{source}: {text}" for text in self.notes]


def _line(fault):
    return fault[0]


def not_empty(columns: dict, sentence: str, faults: Problems) -> dict | None:
    if not columns["lines"] and not faults:
        faults.say(0, sentence)
    return columns if columns["lines"] else None


def echo(value, form=repr) -> str:
    """What a list holds, as it may be shown: on one line, and not for ever."""
    text = form(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."
