"""One generation of an index, in memory, as a server answers from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.errors import InputError
from core.items import modality_of
from data.names import Names
from report.thumbnails import short_name
from retrieval.index.backends.exact import UNCODED
from retrieval.index.index import Hits, Index
from retrieval.index.items import LabelColumn
from retrieval.index.selection import select
from serving.held import HeldRows
from serving.refusal import Refusal


@dataclass(frozen=True)
class Query:
    """What is looked for: an embedding (D,) float32, and of which labels (and categories) items have to be.

    model: the fingerprint of what embedded it. labels, categories: texts, by which they are known or called; none: of
    any.
    """

    embedding: np.ndarray
    k: int
    model: dict | None
    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


class Generation:
    """One generation of an index, which never changes; items by their ids, as a page shows them."""

    def __init__(self, index: Index, before: "Generation | None" = None):
        compares_all = index.card["backend"] == "exact" and index.card["options"].get("codes", UNCODED) == UNCODED
        if not compares_all:
            index.open_backend()
        self.index = index
        self.rows = index.rows
        self.number = index.card["generation"]
        self._names = Names(index.names, {})
        self._held = None
        if compares_all and HeldRows.fits(index.rows):
            held_before = None
            if before is not None:
                held_before = before._held
            self._held = HeldRows(index.rows, held_before)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def model(self) -> dict | None:
        """The fingerprint of the model that its embeddings are of."""
        return self.index.card["fingerprint"]

    def has(self, id_: int) -> bool:
        """Whether it is the id of an item."""
        return bool(0 <= id_ < 2**63 and self.rows.has(np.array([id_]))[0])

    def path_and_box(self, id_: int) -> tuple[str, np.ndarray]:
        """The path and box (4,) of an item. Raises Refusal where there is none."""
        if not self.has(id_):
            raise Refusal(404, f"there is no item {id_}")
        ids = np.array([id_])
        return self.rows.paths(ids)[0], self.rows.boxes(ids)[0]

    def embedding(self, id_: int) -> np.ndarray:
        """The embedding (D,) of an item. Raises Refusal where there is none."""
        self.path_and_box(id_)
        return self.rows.take(np.array([id_]))[0][0]

    def facts(self, ids: Sequence[int]) -> list[dict]:
        """What a page shows of items, plain JSON; a path is never among it."""
        ids = np.array(ids, np.int64)
        facts = []
        labels = self.rows.labels(ids).tolist()
        categories = self.rows.categories(ids).tolist()
        columns = zip(ids.tolist(), self.rows.paths(ids), labels, categories, self.rows.boxes(ids))
        for id_, path, label, category, box in columns:
            label_name = None
            if label is not None:
                label_name = self._names.of_label(label)
            facts.append(
                {
                    "id": id_,
                    "kind": modality_of(path),
                    "name": short_name(path),
                    "label": label,
                    "label_name": label_name,
                    "category": category,
                    "box": None if np.isnan(box).any() else box.tolist(),
                }
            )
        return facts

    @cached_property
    def label_counts(self) -> list[tuple[int | str, str, int]]:
        """(label, what it is called, its items) of all labels, the most frequent first."""
        return [(label, self._names.of_label(label), count) for label, count in _counts(self.rows.label_column)]

    @cached_property
    def category_counts(self) -> list[tuple[int | str, int]]:
        """(category, its items) of all categories, the most frequent first."""
        return _counts(self.rows.category_column)

    @cached_property
    def noun(self) -> str:
        """What its items are called: looked up once, since it asks for paths."""
        return self.index.noun

    def label_of(self, given: str | int) -> int | str:
        """The label that somebody means: one that is there and reads or is called so, else a new one."""
        known = _known(self.rows.label_column, given)
        if known is not None:
            return known
        for text, name in self.index.names.items():
            if name == str(given) and text in self.rows.label_column.codes_by_text:
                return _known(self.rows.label_column, text)
        return given

    def category_of(self, given: str | int) -> int | str:
        """The category that somebody means: one that is there and reads so, else a new one."""
        known = _known(self.rows.category_column, given)
        if known is None:
            return given
        return known

    def search(self, queries: Sequence[Query]) -> list[Hits | InputError]:
        """What each of some queries finds, fewer than its k where there are no more. Called by one thread.

        An InputError stands for a query that names a label which nothing has.
        """
        answers: list = [None] * len(queries)
        groups: dict[tuple, list[int]] = {}
        for number, query in enumerate(queries):
            groups.setdefault((query.labels, query.categories), []).append(number)
        for numbers in groups.values():
            # The nearest ten are the first of the nearest twenty: all of a group are looked for at once.
            k = max(queries[number].k for number in numbers)
            embeddings = np.stack([queries[number].embedding for number in numbers]).astype(np.float32)
            try:
                hits = self._search(embeddings, k, queries[numbers[0]])
            except InputError as error:
                hits = error
            for row, number in enumerate(numbers):
                if isinstance(hits, InputError):
                    answers[number] = hits
                else:
                    answers[number] = Hits(*(column[row, : queries[number].k] for column in hits))
        return answers

    def _search(self, embeddings: np.ndarray, k: int, filters: Query) -> Hits:
        """The k nearest items of queries (Q, D), or all that the filters leave. Raises InputError as `select`."""
        labels = filters.labels or None
        categories = filters.categories or None
        if self._held is None and len(self):
            return self.index.search(embeddings, k, labels=labels, categories=categories)
        selection = select(self.rows, labels, categories)
        allowed = None
        count = len(self)
        if selection is not None:
            allowed = np.isin(self.rows.ids, selection.ids, assume_unique=True)
            count = len(selection.ids)
        k = min(k, count)
        if not k:
            return _no_hits(len(embeddings))
        ids, scores = self._held.search(embeddings, k, allowed)
        return self.index.hits(ids, scores)


def _counts(column: LabelColumn) -> list[tuple[int | str, int]]:
    """(value, its items) of all labels or categories, the most frequent first."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.table))
    order = np.argsort(-counts, kind="stable").tolist()
    return [(column.table[code], int(counts[code])) for code in order]


def _known(column: LabelColumn, given: str | int) -> int | str | None:
    """The label or category that reads as `given`, None where there is none: of 7 and "7" the very same comes first."""
    values = [column.table[code] for code in column.codes_by_text.get(str(given), [])]
    for value in values:
        if type(value) is type(given):
            return value
    if values:
        return values[0]
    return None


def _no_hits(queries: int) -> Hits:
    nothing = np.zeros((queries, 0))
    return Hits(nothing.astype(np.int64), nothing, nothing, nothing, np.zeros((queries, 0, 4)), nothing)
