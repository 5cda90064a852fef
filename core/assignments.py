"""Words `flag=value` and `section.flag=value` of a command line, which mean --flag=value."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.errors import InputError, near_match
from core.types import MANY, SWITCH

# A path is none: no name of a section or a flag has a slash.
ASSIGNMENT = re.compile(r"(?:(?P<section>[^\W\d][^=./\\]*)\.)?(?P<flag>[^\W\d]\w*)=(?P<value>.*)", re.DOTALL)
NO_VALUE = ("help", "list", "list_models")


@dataclass(frozen=True)
class Assignment:
    """A word `section.flag=value`, or `flag=value` with no section."""

    word: str
    section: str | None
    flag: str


def split_line(argv: Sequence[str], flags: Mapping[str, str | None]) -> tuple[list[str], list[Assignment]]:
    """(The words of a line, in which assignments are --flag=value, and these assignments).

    What stands behind a flag that takes words is its value, whatever it looks like: `--input a=b.jpg` is a file. flags:
    {name: MANY, SWITCH or None for one word} of the command's own, by which that is known.
    """
    words = []
    assignments = []
    # Words that still belong to the flag before them.
    taken: float = 0
    for word in argv:
        match = ASSIGNMENT.fullmatch(word)
        if word.startswith("-"):
            taken = _words_behind(word, flags)
        elif taken:
            taken -= 1
        elif match:
            assignments.append(Assignment(word, match["section"], match["flag"]))
            word = f"--{match['flag']}={match['value']}"
        words.append(word)
    return words, assignments


def _words_behind(word: str, flags: Mapping[str, str | None]) -> float:
    """How many words behind `--flag` are its values."""
    name = word.removeprefix("--")
    # Of one dash there are -h, and numbers below 0, which are values themselves.
    if "=" in word or not word.startswith("--") or name in NO_VALUE:
        return 0
    words = flags.get(name)
    if words == SWITCH:
        return 0
    return math.inf if words == MANY else 1


def refuse_other_sections(
    assignments: Iterable[Assignment], titles: Mapping[str, str], of_file: Mapping[str, str]
) -> None:
    """Raise InputError for an assignment to a section that there is not, or in which its flag does not stand.

    titles: {flag: the title above it in --help}; of_file: {flag: its section in the recipe}, whose names count, too.
    """
    sections = list(dict.fromkeys(short_title(title) for title in titles.values()))
    by_key = {_key(title): title for title in (*sections, *of_file.values())}
    for assignment in assignments:
        if assignment.section is None or assignment.flag not in titles:
            continue
        section = by_key.get(_key(assignment.section))
        if section is None:
            raise InputError(
                f"{assignment.word!r}: there is no section {assignment.section!r}; there are: {', '.join(sections)}."
                f"{near_match(assignment.section, sections)}"
            )
        home = short_title(titles[assignment.flag])
        if section != home and section in sections and of_file.get(assignment.flag) != section:
            raise InputError(f"{assignment.word!r}: {assignment.flag} stands in {home}, not in {section}")


def short_title(title: str) -> str:
    """The title of a section without what it says in brackets."""
    return title.partition(" (")[0]


def _key(title: str) -> str:
    """As a shell likes a title: `same_or_not` is `same or not`."""
    return re.sub(r"\W+", "_", title.lower()).strip("_")
