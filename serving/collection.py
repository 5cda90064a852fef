"""The index that a server answers from: read anew when it has changed, changed by one thread."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.console import log
from core.errors import InputError
from retrieval.index.folder import CARD, DiskRefuses, InUse, read_card
from retrieval.index.index import Hits, Index
from retrieval.index.items import split_name
from serving.encoding import LiveEncoder
from serving.generation import Generation, Query
from serving.refusal import Refusal
from serving.uploads import Uploads

PATIENCE = 10.0  # seconds in which another process that changes the index may come to its end
PAUSE = 0.05  # seconds between two tries
PASSED_ON = 120.0  # seconds in which whatever the model before has embedded is answered
MODEL_CHANGED = "the index has gone over to another model; ask again"


@dataclass(frozen=True)
class NewItem:
    """An image that is to be added: its file's bytes, the suffix of its format, its embedding (D,) by a `model`, and
    its label."""

    content: bytes
    suffix: str
    embedding: np.ndarray
    model: dict | None
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


class Collection:
    """An index that is searched and changed while other processes may change it, too.

    encoder: what embeds what is asked and added now. needed: gives names of items whose uploaded files stay when they
    are deleted. open_encoder: opens the model of an Index that has gone over to another one (search.py upgrade); None:
    such an index is not taken up. Searches are of one thread, changes of another one; `now` may be called by any.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: LiveEncoder,
        needed: Callable[[], set[str]] = set,
        open_encoder: Callable[[Index], LiveEncoder] | None = None,
    ):
        self.folder = Path(folder)
        self.encoder = encoder
        self._needed = needed
        self._open_encoder = open_encoder
        self._going_over: threading.Thread | None = None
        self._former: Generation | None = None
        self._gone_over_at = 0.0
        self.uploads = Uploads(self.folder)
        self._lock = threading.Lock()
        self._seen = self._stamp()
        index = Index.open(folder)
        index.refuse_others(encoder.fingerprint)
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

        What cannot be read, or is of another model that is not loaded yet, leaves the generation before in its place,
        which is said in `trouble`.
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
        except InputError as error:
            self._say(str(error))
            return
        try:
            index.refuse_others(self.encoder.fingerprint)
        except InputError as error:
            if self._open_encoder is None:
                self._say(str(error))
            elif self._going_over is None or not self._going_over.is_alive():
                self._say(f"{error}; that model is being loaded")
                self._going_over = threading.Thread(target=self._go_over, args=(index,), daemon=True)
                self._going_over.start()
            return
        self.trouble = None
        if index.card["generation"] != self._generation.number or index.card != self._generation.index.card:
            self._generation = Generation(index, self._generation)

    def _say(self, trouble: str) -> None:
        """Note why the index is not read; its files are open still, so that what was read goes on to be there."""
        if trouble != self.trouble:
            log(f"note: {trouble}; answers are those of before")
        self.trouble = trouble

    def _go_over(self, index: Index) -> None:
        """Load the model of an index and answer by both from now on; by the generation before whatever it embedded."""
        try:
            encoder = self._open_encoder(index)
            index.refuse_others(encoder.fingerprint)
        except InputError as error:
            self._say(str(error))
            return
        generation = Generation(index)
        with self._lock:
            self._former = self._generation
            self._gone_over_at = time.monotonic()
            self._generation = generation
            self.encoder = encoder
            self.trouble = None
            self._seen = None  # the index may have changed once more meanwhile
        log("the index has gone over to another model, and so have the answers")

    def search(self, queries: Sequence[Query]) -> list[tuple[Generation, Hits] | InputError | Refusal]:
        """(what was searched, what was found) of each query."""
        if self._former is not None and time.monotonic() - self._gone_over_at > PASSED_ON:
            self._former = None
        answers: list = [Refusal(503, MODEL_CHANGED, after=1)] * len(queries)
        # What the model before has embedded is searched among what that has embedded.
        for generation in (self.now(), self._former):
            if generation is None:
                continue
            some = [place for place, query in enumerate(queries) if query.model == generation.model]
            for place, hits in zip(some, generation.search([queries[place] for place in some])):
                answers[place] = hits
                if not isinstance(hits, InputError):
                    answers[place] = (generation, hits)
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
            try:
                if isinstance(some[0], NewItem):
                    results += self._add(some)
                else:
                    results += self._delete(some)
            except InputError as error:
                results += [_refusal_of(error)] * len(some)
            except Refusal as refusal:
                results += [refusal] * len(some)
            start = stop
        return results

    def _add(self, items: Sequence[NewItem]) -> list[Stored]:
        generation = self._changeable()
        if any(item.model != generation.model for item in items):
            raise Refusal(503, MODEL_CHANGED, after=1)
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
                lambda index: index.add(embeddings, paths, labels, generation.model, categories=categories),
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
            self._seen = None
            if read_card(self.folder) == index.card:
                self._seen = stamp
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
