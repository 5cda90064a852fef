"""Code blocks out of pages, and the commands of those that are for a shell."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^(?P<indent>[ \t]*)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^[ \t]*```[ \t]*$", re.M | re.S)
SHELLS = ("sh", "bash", "shell")
# What a command begins with, in blocks that do not say what they are.
PROGRAMS = ("cd", "python", "python3", "torchrun", "pip", "curl", "make", "sh", "docker", "git", "mkdocs", "pytest")
PYTHON_WORDS = ("class ", "def ", "import ", "from ")
# A page of another system may have a blank behind the backslash that goes on with a line.
CONTINUED = re.compile(r"\\[ \t]*(\n|$)")
ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """The text between two fences; line: that of its first line on the page, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a block as a shell reads it, comments gone."""

    place: str
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*settings, *self.words])


def blocks_of(path: Path, name: str) -> list[Block]:
    """All code blocks of a page; `name` is what it is called in messages."""
    text = path.read_text()
    blocks = []
    for match in FENCE.finditer(text):
        language = match["language"]
        body = match["text"]
        first = body.lstrip().partition("\n")[0]
        words = [word for word in first.split() if not ASSIGNMENT.match(word)]
        if language in SHELLS or (not language and words and words[0].rpartition("/")[2] in PROGRAMS):
            language = "sh"
        elif not language and first.startswith(PYTHON_WORDS):
            language = "python"
        line = text.count("\n", 0, match.start("text")) + 1
        blocks.append(Block(name, line, language, _dedented(body, match["indent"])))
    return blocks


def commands_of(block: Block) -> list[Command]:
    """The commands of a block for a shell, continued lines joined."""
    commands = []
    for line in CONTINUED.sub(" ", block.text).splitlines():
        words = shlex.split(line.strip().removesuffix(";"), comments=True)
        environment = {}
        while words and ASSIGNMENT.match(words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if words:
            commands.append(Command(block.place, tuple(words), environment))
    return commands


def _dedented(text: str, indent: str) -> str:
    return "\n".join(line.removeprefix(indent) for line in text.split("\n"))
