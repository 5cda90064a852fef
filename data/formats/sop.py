"""Lists as Stanford Online Products has them: image_id class_id super_class_id path."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data.formats.problems import Problems, echo, not_empty
from data.vocabulary import as_labels

SOP_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]


def parse_sop(file: Path, split: str | None, problems: Problems) -> dict[str, list] | None:
    """The columns of a list in SOP's format (see `data.formats.parse`), all of whose rows are of the one split."""
    columns = {"lines": [], "paths": [], "labels": [], "categories": []}
    for row in sop_rows(file.read_text(encoding="utf-8-sig").split("\n"), problems):
        for name, value in row.items():
            columns[name].append(value)
    columns["labels"] = as_labels(columns["labels"])
    return not_empty(columns, "no image in it", problems)


def sop_rows(lines: Iterable[str], problems: Problems) -> Iterator[dict[str, object]]:
    """The rows of a list in SOP's format that are right, one by one, {column: value}; the others are `problems`.

    lines: with or without the sign that ends them.
    """
    for number, written in enumerate(lines, start=1):
        line = written.rstrip("\n")
        # A path may hold blanks, so that only the first three end a word.
        words = line.split(maxsplit=3)
        if not words or words == SOP_COLUMNS:
            continue
        if len(words) != 4:
            expected = f"expected 4 columns ({' '.join(SOP_COLUMNS)})"
            problems.add(number, f"{expected}, got {len(words)}: {echo(line)}")
            continue
        _, label, category, path = words
        yield {"lines": number, "paths": path.strip(), "labels": label, "categories": category}
