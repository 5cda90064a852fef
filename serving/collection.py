"""The index that a server answers from: one generation of it in memory, changed by one thread."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.console import log
from core.errors import InputError
from core.items import modality_of
from data.names import Names
from report.thumbnails import short_name
from retrieval.index.backends.exact import UNCODED
from retrieval.index.folder import CARD, DiskRefuses, InUse, read_card
from retrieval.index.index import Hits, Index
from retrieval.index.items import LabelColumn, split_name
from retrieval.index.selection import select
from serving.held import HeldRows
from serving.refusal import Refusal
from serving.uploads import Uploads

PATIENCE = 10.0  # seconds in which another process that changes the index may come to its end
PAUSE = 0.05  # seconds between two tries


@dataclass(frozen=True)
class Query:
    """What is looked for: an embedding (D,) float32, and of which labels (and categories) items have to be.

    labels, categories: texts, by which they are known or called; none: of any.
    """

    embedding: np.ndarray
    k: int
    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewItem:
    """An image that is to be added: its file's bytes, the suffix of its format, its embedding (D,), and its label."""

    content: bytes
    suffix: str
    embedding: np.ndarray
    label: str | int | None
    category: str | int | None = None


@dataclass(frozen=True)
class Deleted:
    """An item that is to be deleted."""

    id: int


@dataclass(frozen=True)
class Stored:
    """What became of a NewItem: its id, and whether it is new or was there already, with the same picture."""

    id: int
    is_new: bool


class Generation:
    """One generation of an index, which never changes; items by their ids, as a page shows them."""

    def __init__(self, index: Index, before: "Generation | None" = None):
        self.index = index
        self.rows = index.rows
        self.number = index.card["generation"]
        self._names = Names(index.names, {})
        self._held = None
        compares_all = index.card["backend"] == "exact" and index.card["options"].get("codes", UNCODED) == UNCODED
        if compares_all and HeldRows.fits(index.rows):
            self._held = HeldRows(index.rows, None if before is None else before._held)

    def __len__(self) -> int:
        return len(self.rows)

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
            label_name = None if label is None else self._names.of_label(label)
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
        return given if known is None else known

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
    return values[0] if values else None


def _no_hits(queries: int) -> Hits:
    nothing = np.zeros((queries, 0))
    return Hits(nothing.astype(np.int64), nothing, nothing, nothing, np.zeros((queries, 0, 4)), nothing)


class Collection:
    """An index that is searched and changed while other processes may change it, too.

    fingerprint: of the model that embeds what is asked. needed: gives names of items whose uploaded files stay when
    they are deleted. Searches are of one thread, changes of another one; `now` may be called by any.
    """

    def __init__(self, folder: str | Path, fingerprint: dict | None, needed: Callable[[], set[str]] = set):
        self.folder = Path(folder)
        self._needed = needed
        self.uploads = Uploads(self.folder)
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._seen = self._stamp()
        index = Index.open(folder)
        index.refuse_others(fingerprint)
        self._generation = Generation(index)
        self.trouble: str | None = None

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes with the card, which is replaced whole by every change of the index."""
        try:
            facts = os.stat(self.folder / CARD)
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino, facts.st_size

    def now(self) -> Generation:
        """The index as it is: read anew where another process has changed it.

        What cannot be read, or is of another model by now, leaves the generation before in its place, which is said in
        `trouble`.
        """
        if self._stamp() == self._seen:
            return self._generation
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._reopen()
        return self._generation

    def _reopen(self) -> None:
        try:
            index = Index.open(self.folder)
            index.refuse_others(self._fingerprint)
        except InputError as error:
            # Its files are open still, so that what was read goes on to be there.
            self.trouble = str(error)
            log(f"note: {error}; answers are those of before")
            return
        self.trouble = None
        if index.card["generation"] != self._generation.number or index.card != self._generation.index.card:
            self._generation = Generation(index, self._generation)

    def search(self, queries: Sequence[Query]) -> list[tuple[Generation, Hits] | InputError]:
        """(what was searched, what was found) of each query."""
        generation = self.now()
        answers: list = []
        for hits in generation.search(queries):
            answers.append(hits if isinstance(hits, InputError) else (generation, hits))
        return answers

    def change(self, jobs: Sequence[NewItem | Deleted]) -> list[Stored | bool | Exception]:
        """What became of additions and deletions: all of a kind that follow each other are one change.

        All of it is on the disk when this returns.
        """
        results: list = []
        start = 0
        while start < len(jobs):
            stop = start
            while stop < len(jobs) and type(jobs[stop]) is type(jobs[start]):
                stop += 1
            some = jobs[start:stop]
            act = self._add if isinstance(some[0], NewItem) else self._delete
            try:
                results += act(some)
            except InputError as error:
                results += [_refusal_of(error)] * len(some)
            except Refusal as refusal:
                results += [refusal] * len(some)
            start = stop
        return results

    def _add(self, items: Sequence[NewItem]) -> list[Stored]:
        generation = self._changeable()
        paths = []
        written = []
        try:
            for item in items:
                path, is_new_file = self.uploads.keep(item.content, item.suffix)
                paths.append(path)
                if is_new_file:
                    written.append(path)
            labels = [None if item.label is None else generation.label_of(item.label) for item in items]
            categories = [None if item.category is None else generation.category_of(item.category) for item in items]
            embeddings = np.stack([item.embedding for item in items])
            index, added = _patiently(
                self.folder,
                lambda index: index.add(embeddings, paths, labels, self._fingerprint, categories=categories),
            )
        except BaseException:
            # No item names them.
            for path in written:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        self._adopt(index)
        id_of = self._ids_of(paths, set(added.ids.tolist()))
        fresh = set(added.ids.tolist())
        stored = []
        for path in paths:
            id_ = id_of[path]
            stored.append(Stored(id_, id_ in fresh))
            fresh.discard(id_)  # of two of the same picture the first one was new
        return stored

    def _ids_of(self, paths: Sequence[str], fresh: set[int]) -> dict[str, int]:
        """The ids of items by their paths; most are `fresh`, which are asked first."""
        rows = self._generation.rows
        fresh_ids = np.array(sorted(fresh), np.int64)
        id_of = dict(zip(rows.paths(fresh_ids), fresh_ids.tolist()))
        missing = set(paths) - id_of.keys()
        if missing:
            for path, id_ in zip(rows.paths(), rows.ids.tolist()):
                if path in missing:
                    id_of[path] = id_
        return id_of

    def _delete(self, deletions: Sequence[Deleted]) -> list[bool | Exception]:
        """Delete items; for each whether it was there, as far as nobody else deletes at the same time."""
        generation = self._changeable()
        ids = [deletion.id for deletion in deletions]
        there = [id_ for id_ in dict.fromkeys(ids) if generation.has(id_)]
        if there:
            paths = generation.rows.paths(np.array(there, np.int64))
            index, _ = _patiently(self.folder, lambda index: index.delete(_still_there(index, there)))
            self._adopt(index)
            needed = {split_name(name)[0] for name in self._needed()}
            self.uploads.forget(path for path in paths if path not in needed)
        results: list = []
        left = set(there)
        for id_ in ids:
            if id_ in left:
                results.append(True)
                left.discard(id_)
            else:
                results.append(Refusal(404, f"there is no item {id_}"))
        return results

    def _changeable(self) -> Generation:
        generation = self.now()
        if self.trouble:
            raise Refusal(409, f"nothing can be changed: {self.trouble}")
        return generation

    def _adopt(self, index: Index) -> None:
        """Answer from what a change made here has made of the index, from now on."""
        with self._lock:
            # Looked at before the card is read: what another process changes in between is noticed the next time.
            stamp = self._stamp()
            self._seen = stamp if read_card(self.folder) == index.card else None
            self._generation = Generation(Index(self.folder, index.card, index.rows), self._generation)


def _patiently(folder: Path, change):
    """(index, what `change` gave) of a change of an index; waits for other processes that change it."""
    until = time.monotonic() + PATIENCE
    while True:
        index = Index.open(folder)
        try:
            return index, change(index)
        except InUse:
            if time.monotonic() > until:
                raise
        time.sleep(PAUSE)


def _still_there(index: Index, ids: list[int]) -> list[int]:
    """Those of some ids that no other process has deleted."""
    return np.array(ids, np.int64)[index.rows.has(np.array(ids, np.int64))].tolist()


def _refusal_of(error: InputError) -> Refusal:
    """What whoever asked is told of a change that could not be made."""
    if isinstance(error, InUse):
        return Refusal(503, "another process is changing the index; try again when it is done", after=5)
    if isinstance(error, DiskRefuses):
        return Refusal(507, f"{error}; nothing was changed")
    return Refusal(409, f"{error}; nothing was changed")
