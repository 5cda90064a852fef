"""What the images of a list found in an index: as tables, as JSON, as a picture."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import check_output, open_output, replacing
from core.items import file_of, is_text, noun_of
from core.text import counted, plural, printable, shown_path
from core.types import Paths
from data.names import Names
from data.records import Records
from embeddings.answers import Found, records_of_queries
from report.drawing import plain_text
from report.neighbours import neighbour_sheet
from report.thumbnails import load_thumbnail, read_thumbnail, short_name
from retrieval.decision import Decision
from retrieval.index.index import Hits
from retrieval.index.items import absolute_paths, item_name

SUFFIXES = (".json", ".png")  # of the files that answers are written to
TABLES = 100  # queries that have a table
DRAWN, DRAWN_HITS = 50, 20  # queries in the picture, and items that it has of each
LONGEST_NAME = 40  # characters of a label's name in a table
UNKNOWN = "unknown"  # what a query is that is not the same as anything it found


@dataclass(frozen=True)
class Answers:
    """What each of Q queries found in an index.

    records: the queries; hits: Hits of (Q, k); index_names: what labels are called in the index, {label as text: name}.
    decision: of the index, or None. together: for each query the names of all images that ask, where they are several.
    """

    records: Records
    hits: Hits
    index_names: dict[str, str]
    decision: Decision | None = None
    together: list[list[str]] | None = None

    @classmethod
    def of(cls, records: Records, found: Found, index_names: dict[str, str], decision: Decision | None) -> "Answers":
        """Of what rows of a list found, alone or together."""
        together = None
        if any(len(rows) > 1 for rows in found.rows):
            names = [item_name(path, records.box_of(row)) for row, path in enumerate(absolute_paths(records.paths))]
            together = [[names[row] for row in rows.tolist()] for rows in found.rows]
        return cls(records_of_queries(records, found.rows), found.hits, index_names, decision, together)

    @cached_property
    def is_same(self) -> np.ndarray | None:
        """(Q, k) bool: which hits are called the same as the query; None where nobody decided."""
        if self.decision is None:
            return None
        return self.decision.is_same(self.hits.scores)

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """(Q, k): P(same) of each hit; None where nobody decided."""
        if self.decision is None:
            return None
        return self.decision.probability(self.hits.scores)

    @property
    def item_names(self) -> dict[str, str]:
        """What labels of items are called: as the index has it, or else the list of the queries."""
        return {**self.records.names.label, **self.index_names}

    @property
    def query_names(self) -> dict[str, str]:
        """What labels of queries are called: as their list has it, or else the index."""
        return {**self.index_names, **self.records.names.label}

    @property
    def query_labels(self) -> list[int | str | None]:
        """The label of each query; None where nobody knows any."""
        if self.records.labels is None:
            return [None] * len(self.records)
        return self.records.labels.tolist()


def open_answer_files(*, output: Paths | None = None) -> list[Path]:
    """The files to write answers to; their folders are made. Raises InputError for one that cannot be written.

    Options:
        output: files to write: all hits as .json, a picture of the first as .png
    """
    return [open_output(path, SUFFIXES) for path in output or ()]


def check_answer_files(output: Paths | None) -> None:
    """Raise InputError, before any work, for a file that answers cannot be written to."""
    for path in output or ():
        check_output(path, SUFFIXES)


def save_answers(answers: Answers, paths: Iterable[Path]) -> tuple[list[Path], InputError | None]:
    """Write .json and .png files; which could be written, and why the first other one could not.

    JSON comes first: a picture needs images, which may be gone.
    """
    written = []
    failure = None
    for path in sorted(paths, key=lambda path: path.suffix):
        try:
            if path.suffix == ".png":
                draw(answers, path)
            else:
                write_json(answers, path)
            written.append(path)
        except InputError as error:
            failure = failure or error
    return written, failure


def print_tables(answers: Answers, written: Iterable[Path] = ()) -> None:
    """A table of its hits for each of the first queries; where those of others are, or would be. written: files."""
    records = answers.records
    hits = answers.hits
    texts = label_texts(hits.labels[:TABLES].ravel().tolist(), answers.item_names)
    for query in range(min(len(records), TABLES)):
        labels = [texts[label] for label in hits.labels[query].tolist()]
        if answers.is_same is not None:
            for place in np.flatnonzero(~answers.is_same[query]).tolist():
                labels[place] = f"{UNKNOWN} ({labels[place]})"
        width = max(8, *map(len, labels))
        print(_query_line(answers, query))
        same = "" if answers.is_same is None else f" {'P(same)':>8}"
        print(f"{'rank':>6} {'score':>8}{same} {'label':>{width}}  path")
        items = zip(hits.scores[query].tolist(), labels, hits.paths[query].tolist(), hits.boxes[query])
        for rank, (score, label, path, box) in enumerate(items, start=1):
            name = printable(item_name(shown_path(path), box))
            if same:
                same = f" {answers.probabilities[query, rank - 1]:>8.3f}"
            print(f"{rank:>6} {score:>8.4f}{same} {label:>{width}}  {name}")
    more = len(records) - TABLES
    if more > 0:
        whole = [str(path) for path in written if path.suffix == ".json"]
        where = f"{whole[0]} has them all" if whole else "--output=hits.json takes them all"
        print(f"tables of {more} more {plural(more, 'query')} are left out; {where}")


def _query_line(answers: Answers, query: int) -> str:
    """What stands above the table of a query: its name, how many ask with it, and that it is unknown."""
    records = answers.records
    line = printable(item_name(shown_path(records.paths[query]), records.box_of(query)))
    if answers.together is not None and len(answers.together[query]) > 1:
        line += f" and {len(answers.together[query]) - 1} more"
    if answers.is_same is not None and not answers.is_same[query].any():
        line += f": {UNKNOWN}"
    return line


def unknown_notes(answers: Answers) -> list[str]:
    """How many queries are the same as nothing that they found; nothing where nobody decided."""
    if answers.is_same is None:
        return []
    count = int((~answers.is_same.any(1)).sum())
    queries = len(answers.is_same)
    return [
        f"{count} of {counted(queries, 'query')} {plural(count, 'is', 'are')} {UNKNOWN}: nothing that "
        f"{plural(count, 'it', 'they')} found has a cosine of "
        f"{answers.decision.threshold:.4f} or more"
    ]


def label_texts(labels: list[int | str | None], names: dict[str, str]) -> dict[int | str | None, str]:
    """What each of some labels is called in tables and pictures, {label: text}; `-` where nobody knows it."""
    known = [label for label in dict.fromkeys(labels) if label is not None]
    texts = {None: "-"}
    # As objects, since NumPy would make strings of the integers in a list of both.
    for label, name in zip(known, Names(names, {}).of_labels(np.array(known, dtype=object)).tolist()):
        text = printable(name)
        if len(text) > LONGEST_NAME:
            text = f"{text[: LONGEST_NAME - 3]}..."
        texts[label] = text
    return texts


def write_json(answers: Answers, path: Path) -> None:
    """One object a query: its path, box, label and name, and its hits, nearest first; unknown ones are null."""
    records = answers.records
    hits = answers.hits
    objects = []
    queries = zip(absolute_paths(records.paths), answers.query_labels)
    for query, (query_path, query_label) in enumerate(queries):
        items = zip(
            hits.ids[query].tolist(),
            hits.scores[query].tolist(),
            hits.paths[query].tolist(),
            hits.labels[query].tolist(),
            hits.categories[query].tolist(),
            hits.boxes[query],
        )
        found = []
        for rank, (id_, score, item_path, label, category, box) in enumerate(items, start=1):
            item = _image_facts(item_path, box, label, answers.item_names)
            if category is not None:
                item["category"] = category
            judged = {}
            if answers.is_same is not None:
                judged["same"] = float(answers.probabilities[query, rank - 1])
                judged["is_same"] = bool(answers.is_same[query, rank - 1])
            found.append({"rank": rank, "id": id_, "score": score, **judged, **item})
        facts = _image_facts(query_path, records.box_of(query), query_label, answers.query_names)
        asked = {"query": facts.pop("path"), **facts}
        if answers.together is not None:
            asked["together"] = answers.together[query]
        if answers.is_same is not None:
            asked["unknown"] = not bool(answers.is_same[query].any())
        objects.append({**asked, "hits": found})
    with replacing(path) as file:
        file.write((json.dumps(objects, indent=2) + "\n").encode())


def _image_facts(path: str, box: np.ndarray | None, label: int | str | None, names: dict[str, str]) -> dict:
    """An image as hits.json has it; `name` is there where its label has one."""
    facts = {"label": label}
    if label is not None and str(label) in names:
        facts["name"] = names[str(label)]
    facts["path"] = path
    facts["box"] = None
    if box is not None and not np.isnan(box).any():
        facts["box"] = box.tolist()
    return facts


def draw(answers: Answers, path: Path) -> None:
    """The first queries with their hits, framed by right and wrong where both labels are known.

    Raises InputError where the image of an item is gone, and where the picture cannot be written.
    """
    records = answers.records
    hits = answers.hits
    query_labels = answers.query_labels
    query_texts = label_texts(query_labels[:DRAWN], answers.query_names)
    item_texts = label_texts(hits.labels[:DRAWN].ravel().tolist(), answers.item_names)
    rows, captions, labels = [], [], []
    for query in range(min(len(records), DRAWN)):
        query_label = query_labels[query]
        neighbours = _neighbours(hits, query, query_label, path)
        rows.append((load_thumbnail(records, query), neighbours))
        captions.append(item_name(short_name(records.paths[query]), records.box_of(query)))
        below = [_drawn_label(label, item_texts) for label in hits.labels[query, :DRAWN_HITS].tolist()]
        if answers.is_same is not None:
            below = [_judged(answers, query, place, text) for place, text in enumerate(below)]
        labels.append((_drawn_label(query_label, query_texts), below))
    is_any_known = any(label is not None for label in [*query_texts, *item_texts]) or answers.is_same is not None
    neighbour_sheet(rows, path, captions=captions, labels=labels if is_any_known else None)


def _judged(answers: Answers, query: int, place: int, text: str) -> str:
    """What a picture shows for a hit's label where P(same) is known."""
    share = f"{100 * answers.probabilities[query, place]:.0f}%"
    if answers.is_same[query, place]:
        return f"{share} {text}"
    return f"{share} {UNKNOWN}"


def _neighbours(
    hits: Hits, query: int, query_label: int | str | None, path: Path
) -> list[tuple[np.ndarray, bool | None, float]]:
    """(image, whether it is right or None, score) of each hit of a query that a picture shows."""
    items = zip(
        hits.paths[query, :DRAWN_HITS].tolist(),
        hits.labels[query, :DRAWN_HITS].tolist(),
        hits.scores[query, :DRAWN_HITS].tolist(),
        hits.boxes[query],
    )
    neighbours = []
    for item_path, label, score, box in items:
        if not is_text(item_path) and not os.path.isfile(file_of(item_path)):
            raise InputError(
                f"no {noun_of([item_path])} {item_path!r}: it has moved since it was indexed, and {str(path)!r} shows "
                "it"
            )
        is_right = None
        if query_label is not None and label is not None:
            # By their texts: a label 7 is an integer in a list of integers, a string in one with names.
            is_right = str(query_label) == str(label)
        neighbours.append((read_thumbnail(item_path, box), is_right, score))
    return neighbours


def _drawn_label(label: int | str | None, texts: dict[int | str | None, str]) -> str:
    """What a picture, which has ASCII only, shows for a label: its name if any of it is left, else the label itself."""
    name = texts[label]
    if label is None or any(map(str.isalnum, plain_text(name))):
        return name
    return str(label)
