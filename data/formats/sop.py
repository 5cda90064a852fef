"""Lists as Stanford Online Products has them: image_id class_id super_class_id path."""

from pathlib import Path

from data.formats.problems import Problems, echo, not_empty
from data.vocabulary import as_labels

SOP_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]


def parse_sop(file: Path, split: str | None, faults: Problems) -> dict | None:
    columns = {"lines": [], "paths": [], "labels": [], "categories": []}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        words = line.split(maxsplit=3)
        if not words or words == SOP_COLUMNS:
            continue
        if len(words) != 4:
            expected = f"expected 4 columns ({' '.join(SOP_COLUMNS)})"
            faults.say(number, f"{expected}, got {len(words)}: {echo(line)}")
            continue
        columns["lines"].append(number)
        columns["paths"].append(words[3].strip())
        columns["labels"].append(words[1])
        columns["categories"].append(words[2])
    columns["labels"] = as_labels(columns["labels"])
    return not_empty(columns, "no image in it", faults)
