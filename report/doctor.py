"""The page of the data doctor: what was found on a list, with pictures, as one HTML file."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.files import make_folder
from core.text import counted
from data.fixes import KEEP, KINDS, Finding, fix_command, write_fixes
from data.image.files import read_image
from data.records import Records
from report.page.album import Album
from report.page.template import DOCTOR, write_html
from report.thumbnails import load_thumbnail

SHOWN = 60  # findings of a kind
LONGEST = 400  # characters of a sentence or a path
BOX_COLOUR = (199, 52, 58)
# Of each kind: its name below a number, its title, and what it means.
WORDS = {
    "unreadable": ("unusable", "Rows that cannot be used", "A training stops at these before it begins."),
    "label": (
        "labels",
        "Labels that are probably wrong",
        "The row, one that fits its label well, and what it is closest to beside that label. The confidence is the "
        "probability that the label is wrong.",
    ),
    "duplicate": (
        "duplicates",
        "Rows that show the same",
        "Copies of one label make figures look better than they are; copies with two labels teach both.",
    ),
    "leak": ("leaks", "Leaks between splits", "What is tested with was trained with, or stands in the other list."),
    "box": ("boxes", "Boxes that are probably wrong", "The whole picture, with its box."),
    "outlier": ("outliers", "Rows that are far from everything", "The network knows nothing like these in the list."),
    "single": ("single rows", "Labels of one row", "Nothing can be learned of these, and nothing found."),
}


@dataclass(frozen=True)
class Diagnosis:
    """What was found on a list.

    file: the list. folder: its paths start from it. suffix: how its kind ends. records: its rows that can be used, of
    which findings name some. others: those of the list that it was held against, other_name, or None. wrong_labels:
    their share, at most about. notes: sentences on the list as a whole. model: what the embeddings are of.
    """

    file: Path
    folder: Path
    suffix: str
    records: Records
    findings: Sequence[Finding]
    wrong_labels: float
    notes: Sequence[str]
    model: str
    others: Records | None = None
    other_name: str = ""

    def facts(self) -> dict[str, str]:
        """What stands above everything."""
        facts = {
            "list": self.file.name,
            f"{self.records.noun}s": f"{len(self.records):,}",
            "labels": f"{len(self.records.vocabulary):,}",
            "wrong labels, at most about": f"{100 * self.wrong_labels:.1f} %",
            "embeddings": self.model,
            "made": time.strftime("%Y-%m-%d %H:%M"),
        }
        if self.others is not None:
            facts["against"] = self.other_name
        return facts

    def lines(self) -> Iterator[str]:
        """What is printed: how much of each kind, and how much of that is to be changed."""
        for kind in KINDS:
            of_kind = [finding for finding in self.findings if finding.kind == kind]
            to_do = sum(finding.action != KEEP for finding in of_kind)
            if of_kind:
                yield f"{kind:<11}{len(of_kind):>6}, {to_do} to change"
        for note in self.notes:
            yield f"note: {note}"
        findings, images = len(self.findings), len(self.records)
        yield (
            f"{counted(findings, 'finding')} on {counted(images, self.records.noun)}; wrong labels: "
            f"at most about {100 * self.wrong_labels:.1f} %"
        )


@dataclass(frozen=True)
class DoctorOutputs:
    """Where the doctor writes what was found.

    Options:
        output_dir: folder of fixes.csv and doctor.html
    """

    output_dir: str = "output/doctor"

    def open_folder(self) -> Path:
        """The folder, made. Raises InputError where nothing can be written there."""
        return make_folder(self.output_dir)

    def write(self, diagnosis: Diagnosis) -> tuple[Path, Path]:
        """Write fixes.csv and doctor.html; returns both."""
        fixes, page = Path(self.output_dir, "fixes.csv"), Path(self.output_dir, "doctor.html")
        write_fixes(fixes, diagnosis.findings)
        write_doctor_page(page, diagnosis, fixes)
        return fixes, page


def write_doctor_page(path: str | Path, diagnosis: Diagnosis, fixes: Path) -> None:
    """Write the page of a diagnosis; fixes: the file of all findings. Raises InputError where that cannot be."""
    records = diagnosis.records
    # Of the same rows another list, so that the album tells whole pictures from what their boxes cut out.
    with_boxes = dataclasses.replace(records)

    def load(of: Records, row: int) -> np.ndarray:
        try:
            return _with_box(of, row) if of is with_boxes else load_thumbnail(of, row)
        except InputError:
            # Saved embeddings may be of files that are gone.
            return np.full((32, 32, 3), 200, np.uint8)

    album = Album(load)
    kinds = []
    for kind in KINDS:
        name, heading, meaning = WORDS[kind]
        of_kind = [finding for finding in diagnosis.findings if finding.kind == kind]
        own = with_boxes if kind == "box" else records
        shown = [_card(finding, album, own, diagnosis.others) for finding in of_kind[:SHOWN]]
        kinds.append(
            {"id": kind, "name": name, "title": heading, "meaning": meaning, "total": len(of_kind), "findings": shown}
        )
    data = {
        "title": diagnosis.file.name,
        "facts": [[key, value] for key, value in diagnosis.facts().items()],
        "kinds": kinds,
        "notes": list(diagnosis.notes),
        "fixes": str(fixes),
        "command": fix_command(diagnosis.file, diagnosis.folder, diagnosis.suffix, fixes),
    }
    # Last, when the album has been given all that the page shows.
    data["items"], _ = album.contents()
    write_html(path, data, DOCTOR)


def _card(finding: Finding, album: Album, own: Records, others: Records | None) -> dict[str, object]:
    """A finding as plain JSON; its pictures go into the album."""
    item, other, peer = None, None, None
    if finding.index is not None:
        item = album.number(own, finding.index)
    if finding.peer is not None:
        peer = album.number(own, finding.peer)
    if finding.other is not None:
        other = album.number(others if finding.others else own, finding.other)
    return {
        "row": finding.row,
        "path": _shortened(finding.path),
        "evidence": _shortened(finding.evidence),
        "action": _shortened(finding.action),
        "confidence": round(finding.confidence, 4),
        "item": item,
        "peer": peer,
        "other": other,
    }


def _with_box(records: Records, row: int) -> np.ndarray:
    """A row's whole picture with its box drawn."""
    picture = read_image(records.paths[row]).copy()
    box = records.box_of(row)
    if box is not None and not np.isnan(box).any():
        height, width = picture.shape[:2]
        left, top, right, bottom = np.clip(box, 0, (width - 1, height - 1, width - 1, height - 1)).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), BOX_COLOUR, max(1, min(height, width) // 48))
    return picture


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
