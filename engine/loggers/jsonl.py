"""metrics.jsonl: a line of JSON for every line of figures."""

import json
from pathlib import Path
from typing import Self

from core.files import replacing_synced
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS

FILE = "metrics.jsonl"


@LOGGERS.register("jsonl")
class JsonlLogger(Logger):
    """Appends {"step": …, "group": …, NAME: figure, …} to metrics.jsonl; pictures and embeddings are not for it.

    A resumed run goes on after step `start`, or with the test of that step (`retested`).
    """

    files = (FILE,)

    def __init__(self, folder: Path, start: int, resumed: bool, retested: bool):
        path = folder / FILE
        if resumed and path.exists():
            _forget_after(path, start, retested)
        self.file = open(path, "a", buffering=1)

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        return cls(facts.folder, facts.start, facts.resumed, facts.retested)

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        self.file.write(json.dumps({"step": step, "group": group, **figures}) + "\n")

    def close(self) -> None:
        self.file.close()


def _forget_after(path: Path, start: int, retested: bool) -> None:
    """Drop the figures of steps that the interrupted run made after its last checkpoint, which are made again."""
    kept = []
    for line in path.read_text().splitlines():
        # A killed run may have torn its last line.
        if not line.endswith("}"):
            continue
        figures = json.loads(line)
        made_again = figures["group"] == "test" and retested
        if figures["step"] < start or (figures["step"] == start and not made_again):
            kept.append(f"{line}\n")
    with replacing_synced(path) as file:
        file.write("".join(kept).encode())
