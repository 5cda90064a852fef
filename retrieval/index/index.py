"""An index: a folder of embeddings with ids, paths and labels that can be searched, added to and deleted from.

`index.json`, the card, names the files that count. A change writes new files of a new generation beside them and then
replaces the card, so whenever a process dies the old index or the new one is there. One process changes it at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.files import replace_json
from core.items import noun_of
from core.slices import CACHED_NUMBERS, MEMORY, slices_within
from core.text import counted, plural
from retrieval.decision import Decision
from retrieval.index.backends import make_backend
from retrieval.index.backends._backend import Backend
from retrieval.index.changes import change, open_rows
from retrieval.index.folder import CARD, FORMAT, check_free, locked, read_card, writing
from retrieval.index.items import CATEGORY, Items, LabelColumn, Lookup, checked_boxes, item_keys, item_name
from retrieval.index.segments import Rows
from retrieval.index.selection import Value, select

# Two embeddings of one picture have a cosine above this: rounding, another precision or runtime, take 1e-4 at the most
# (tests/test_fast.py). A change of the picture too small to get below it would not change what is found either.
SAME = 1 - 1e-3
TEXTS = "texts"  # of a fingerprint: the network for texts beside that for images
NAMED = 100  # items by which it is known what they are


class Hits(NamedTuple):
    """What Q queries found, nearest first, (Q, k) each: ids, cosines (float32), paths, labels, categories, and boxes
    (Q, k, 4).

    A label or category is an int, a str, or None where nobody knows it; a box is in pixels, NaN for a whole image.
    """

    ids: np.ndarray
    scores: np.ndarray
    paths: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    categories: np.ndarray


class Added(NamedTuple):
    """What became of the items given to `Index.add`: `new`, `replaced` and `skipped` are numbers that sum up to theirs.

    ids (new + replaced,) int64: those of the items that were written, in the order given. replaced: the picture has
    changed since it was added under its path and box. skipped: it is there already, or comes a second time. relabelled:
    of the skipped, those that come with another label than the one that is there, and stays. renamed: (label as text,
    name before, name now) of labels that are called something else now.
    """

    ids: np.ndarray
    new: int
    replaced: int
    skipped: int
    relabelled: int
    renamed: list[tuple[str, str, str]]


class Index:
    """An index as it was when it was opened; a change made through it moves it on to what the index has become.

    card: the facts of index.json. rows: the items (retrieval/index/segments.py).
    """

    def __init__(self, folder: str | Path, card: dict, rows: Rows):
        self.folder = Path(folder)
        self._move_to(card, rows)

    def _move_to(self, card: dict, rows: Rows) -> None:
        """Be another generation from now on; its backend is opened when it is searched."""
        self.card = card
        self.rows = rows
        self._backend = None

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """The index in `folder`. Raises InputError where there is none or a damaged one."""
        card, rows = _read(folder)
        return cls(folder, card, rows)

    @property
    def noun(self) -> str:
        """What its items are called in sentences, by the first of them: image, text, clip, or row for several kinds."""
        return noun_of(self.rows.paths(self.rows.ids[:NAMED]) or [""])

    @property
    def names(self) -> dict[str, str]:
        """What labels are called, {label as text: name}; most may have no name."""
        return self.rows.label_names

    @property
    def decision(self) -> Decision | None:
        """When what is found is called the same as what asks, and how probable that is; None where nobody decided."""
        if self.card["decision"] is None:
            return None
        return Decision.from_json(self.card["decision"], self.folder / CARD)

    @property
    def categories(self) -> np.ndarray:
        """The category of each item (N,) in the order of ids: int, str, or None where nobody knows it."""
        return self.rows.categories()

    @classmethod
    def build(
        cls,
        folder: str | Path,
        embeddings: npt.ArrayLike,
        paths: Iterable[str | Path],
        labels: npt.ArrayLike | None,
        fingerprint: dict | None,
        backend: str = "exact",
        options: dict | None = None,
        overwrite: bool = False,
        origin: dict | None = None,
        boxes: npt.ArrayLike | None = None,
        names: dict[str, str] | None = None,
        categories: npt.ArrayLike | None = None,
    ) -> Index:
        """Make an index of embeddings (N, D), paths (N,), labels (N,), boxes (N, 4) and categories (N,).

        labels, categories: integers, strings, or objects of both and None (unknown); or None, all unknown. boxes: left,
        top, right, bottom in pixels, a row of NaN for the whole image; or None, all whole. An item is known by its path
        and box; of one that comes twice the first is kept. names: what labels are called, {label as text: name}.
        fingerprint: plain JSON that tells models apart, or None; origin: plain JSON to keep in the card. backend: a
        name of BACKENDS; options: its keywords. overwrite: replace an index that is there, whose ids are not used
        again. Raises InputError for arrays that do not fit, NaN, an unknown backend or option, and a folder that holds
        an index or anything else; then nothing is written.
        """
        # Whatever is wrong comes out before the folder is made and locked.
        items = _checked_items(embeddings, paths, labels, boxes, categories)
        width = items.embeddings.shape[1]
        chosen, options = make_backend(backend, options or {})
        chosen.refuse_new()
        chosen.check(len(set(items.keys())), width)
        check_free(folder, overwrite)
        with locked(folder):
            # Another process may have built one until the lock was there.
            old = check_free(folder, overwrite) or {"next_id": 0, "generation": 0, "state": None}
            card = {
                "format": FORMAT,
                "backend": backend,
                "options": options,
                "items": 0,
                "width": width,
                "distance": "cosine",
                "fingerprint": fingerprint,
                "origin": origin,
                "recall": None,
                "segments": [],
                "next_id": old["next_id"],
                "generation": old["generation"],
                "deleted": None,
                "state": None,
                "names": None,
                "decision": None,
                "categorised": [],
            }
            # An empty generation, of which the first change makes one with items.
            index = cls(folder, card, open_rows(Path(folder), card))
            index._add_items(items, names)
            if old["state"]:
                with contextlib.suppress(InputError):  # its server may be gone, and the new index is there all the same
                    old_backend, _ = make_backend(old["backend"], old["options"])
                    old_backend.discard(old["state"])
        return index

    def add(
        self,
        embeddings: npt.ArrayLike,
        paths: Iterable[str | Path],
        labels: npt.ArrayLike | None,
        fingerprint: dict | None = None,
        boxes: npt.ArrayLike | None = None,
        names: dict[str, str] | None = None,
        categories: npt.ArrayLike | None = None,
        gone: npt.ArrayLike = (),
    ) -> Added:
        """Add items as `build` takes them, and tell what became of them. gone: ids to delete by the same change.

        One that is there already, with the same path and box, is skipped if its embedding is the same (cosine above
        SAME), else replaced, by one change; then it keeps its label and category if it comes without. Where `names`
        call a label something else than the index does, the newer name is kept. Raises InputError for another width or
        fingerprint than the index has (None: not looked at), and as `build`.
        """
        self.refuse_others(fingerprint)
        items = _checked_items(embeddings, paths, labels, boxes, categories)
        self._refuse_width(items.embeddings)
        with locked(self.folder):
            self._reopen()
            return self._add_items(items, names, np.asarray(gone, np.int64))

    def delete(self, items: int | str | Iterable) -> int:
        """Delete items and return how many; each is named by its path, name, (path, box) or id, as `Lookup.ids` says.

        Raises InputError, and deletes nothing, where one of them is not there.
        """
        if isinstance(items, (str, int, np.integer)):
            items = [items]
        items = list(items)
        with locked(self.folder):
            self._reopen()
            lookup = Lookup(self.rows)
            ids = []
            missing = []
            for item in items:
                item_ids = lookup.ids(item)
                ids += item_ids
                if not item_ids:
                    missing.append(item)
            if missing:
                name = missing[0]
                if isinstance(name, tuple):
                    name = item_name(*name)
                raise InputError(
                    f"{name!r} is not in index {str(self.folder)!r} ({len(missing)} of {len(items)} are not); "
                    "nothing is deleted"
                )
            gone = np.unique(np.array(ids, np.int64))
            if len(gone):
                self._advance(gone=gone)
        return len(gone)

    def decide(self, decision: Decision | None) -> None:
        """Keep a decision, or None for none, in the index: its card changes, and no item.

        Raises InputError where another process is changing the index, and where the disk refuses.
        """
        content = None
        if decision is not None:
            content = decision.to_json()
        self._note("decision", content)

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        fingerprint: dict | None = None,
        memory: int = MEMORY,
        *,
        labels: Value | Iterable[Value] = None,
        categories: Value | Iterable[Value] = None,
    ) -> Hits:
        """The k nearest items of each query (Q, D) by cosine, as Hits; k beyond the index means all of it.

        labels, categories: look only among items of one of these labels, and of one of these categories, which are
        given by their text or, of labels, name (retrieval/index/selection.py); None: among all. Scores are exact
        whatever the backend, equal ones by the smaller id; an approximate backend may miss items. memory: bytes for the
        search beside the queries and the backend. Raises InputError for an empty index, NaN, k below 1, a label that
        nothing has, and as `add`.
        """
        self.refuse_others(fingerprint)
        queries = _checked(queries)
        self._refuse_width(queries)
        if k < 1:
            raise InputError(f"k is {k}; at least one item has to be looked for")
        backend = self._ready()
        selection = select(self.rows, labels, categories)
        size = len(self) if selection is None else len(selection.ids)
        ids, scores = backend.search(self.rows, queries, min(k, size), memory, selection)
        return self.hits(ids, scores)

    def hits(self, ids: np.ndarray, scores: np.ndarray) -> Hits:
        """Hits of items (Q, k) of the index and their scores."""
        paths = np.array(self.rows.paths(ids.ravel())).reshape(ids.shape)
        boxes = self.rows.boxes(ids.ravel()).reshape(*ids.shape, 4)
        return Hits(ids, scores, paths, self.rows.labels(ids), boxes, self.rows.categories(ids))

    def rewrite(
        self, ids: npt.ArrayLike, embeddings: np.ndarray, fingerprint: dict | None, origin: dict, first: int
    ) -> None:
        """Give every item another model's embedding, by one change: embeddings (N, E) of the items `ids` (N,).

        Items have the ids from `first` on, the next of the index, in the order given; paths, boxes, labels, categories
        and names stay. What was decided by the scores of the model before is dropped. Raises InputError where the items
        are not those of the index any more, and as `build`.
        """
        ids = np.asarray(ids, np.int64)
        embeddings = _checked(embeddings)
        with locked(self.folder):
            self._reopen()
            if first != self.card["next_id"] or not np.array_equal(np.sort(ids), self.rows.ids):
                raise InputError(f"index {str(self.folder)!r} has been changed meanwhile; run it again")
            before = self.card
            make_backend(before["backend"], before["options"])[0].check(len(ids), embeddings.shape[1])
            items = self._items_of(ids, embeddings)
            nothing = {
                "items": 0,
                "segments": [],
                "categorised": [],
                "deleted": None,
                "state": None,
                "names": None,
                "recall": None,
            }
            card = {**before, **nothing, "width": embeddings.shape[1], "fingerprint": fingerprint, "origin": origin}
            card["decision"] = None
            # As a new index over an old one: an empty generation, of which one with the items is made.
            fresh = Index(self.folder, card, open_rows(self.folder, card))
            fresh._advance(items, (), self.names or None)
            self._move_to(fresh.card, fresh.rows)
            if before["state"]:
                with contextlib.suppress(InputError):  # as in `build`
                    make_backend(before["backend"], before["options"])[0].discard(before["state"])

    def reembed(self, ids: npt.ArrayLike, embeddings: np.ndarray, fingerprint: dict | None) -> dict[int, int]:
        """Put embeddings (n, D) in the place of those of items, by one change; {id before: id now}.

        Unlike `add` it replaces also what is nearly the same. Items that are gone meanwhile are passed over.
        """
        self.refuse_others(fingerprint)
        ids = np.asarray(ids, np.int64)
        embeddings = _checked(embeddings)
        self._refuse_width(embeddings)
        with locked(self.folder):
            self._reopen()
            self.refuse_others(fingerprint)
            there = self.rows.has(ids)
            ids = ids[there]
            first = self.card["next_id"]
            if len(ids):
                self._advance(self._items_of(ids, embeddings[there]), np.sort(ids))
        return {before: first + number for number, before in enumerate(ids.tolist())}

    def note_origin(self, origin: dict) -> None:
        """Replace what the card remembers of where the index comes from, plain JSON; nothing else changes."""
        self._note("origin", origin)

    def _note(self, fact: str, value: dict | None) -> None:
        """Replace one fact of the card, and change nothing else."""
        with locked(self.folder):
            self._reopen()
            card = {**self.card, fact: value}
            with writing(self.folder):
                replace_json(self.folder / CARD, card)
            self.card = card

    def _items_of(self, ids: np.ndarray, embeddings: np.ndarray) -> Items:
        """Items of the index, in the order of `ids` (n,), with other embeddings (n, E)."""
        positions = self.rows.positions(ids)
        return Items(
            embeddings,
            self.rows.paths(ids),
            self.rows.boxes(ids),
            self.rows.label_column.take(positions),
            self.rows.category_column.take(positions),
        )

    def refuse_others(self, fingerprint: dict | None) -> None:
        """Raise InputError, saying what differs, unless `fingerprint` is the index's own (None: not looked at)."""
        if fingerprint is None:
            return
        differ = differences(self.card["fingerprint"], fingerprint)
        if differ is not None:
            raise InputError(f"index {str(self.folder)!r} was made by another model; what differs: {differ}")

    def refuse_empty(self) -> None:
        """Raise InputError if there is nothing to find."""
        if not len(self):
            raise InputError(f"index {str(self.folder)!r} is empty: there is nothing to find")

    def advice(self) -> str | None:
        """A sentence on the backend's fitness for this index, or None."""
        backend, _ = make_backend(self.card["backend"], self.card["options"])
        return backend.advice(len(self))

    def _refuse_width(self, embeddings: np.ndarray) -> None:
        if embeddings.shape[1] != self.card["width"]:
            raise InputError(
                f"index {str(self.folder)!r} holds embeddings of {counted(self.card['width'], 'number')}; these have "
                f"{embeddings.shape[1]}"
            )

    def open_backend(self) -> None:
        """Open what finds candidates now and not at the first search, when its files may have been replaced."""
        if len(self):
            self._ready()

    def _ready(self) -> Backend:
        """The backend, ready for search; where its files were replaced meanwhile, the index moves on to newer ones."""
        while self._backend is None:
            self.refuse_empty()
            backend, _ = make_backend(self.card["backend"], self.card["options"])
            try:
                backend.open(self.folder, self.card["state"], self.rows)
                self._backend = backend
            except FileNotFoundError as error:
                before = self.card
                self._reopen()
                if self.card == before:
                    raise InputError(f"index {str(self.folder)!r} is damaged: there is no {error.filename!r}") from None
        return self._backend

    def _add_items(self, items: Items, names: dict[str, str] | None, deleted: np.ndarray | tuple[()] = ()) -> Added:
        """Write those of `items` that are new or have changed, and the names of their labels, by one change.

        deleted: ids (n,) to delete by the same change; what is no item any more is passed over.
        """
        is_new, replaces, relabelled = self._compare(items)
        is_replacing = replaces >= 0
        rows = np.flatnonzero(is_new | is_replacing)
        chosen = items.take(rows)
        gone = replaces[is_replacing]
        if len(gone):
            chosen = self._with_known_columns(chosen, replaces[rows])
        replaced = len(gone)
        if len(deleted):
            gone = np.union1d(gone, deleted[self.rows.has(deleted)])
        new_names, renamed = self._joined_names(names or {}, items.labels)
        first = self.card["next_id"]
        if new_names != self.names:
            self._advance(chosen, gone, new_names)
        elif len(rows) or len(gone):
            self._advance(chosen, gone)
        return Added(
            ids=np.arange(first, first + len(rows)),
            new=int(is_new.sum()),
            replaced=replaced,
            skipped=len(items) - len(rows),
            relabelled=relabelled,
            renamed=renamed,
        )

    def _compare(self, items: Items) -> tuple[np.ndarray, np.ndarray, int]:
        """(which items are new, (N,) bool; ids of those that they replace, (N,) int64, -1 for none; see Added)."""
        at_paths = self.rows.ids_of_paths(set(items.paths))
        keys = item_keys(self.rows.paths(at_paths), self.rows.boxes(at_paths))
        id_of = dict(zip(keys, at_paths.tolist()))
        is_new = np.zeros(len(items), dtype=bool)
        ids = np.full(len(items), -1)
        seen = set()
        for row, key in enumerate(items.keys()):
            if key not in seen:  # of one that comes twice the first counts
                seen.add(key)
                is_new[row] = key not in id_of
                ids[row] = id_of.get(key, -1)

        # What is there with the same embedding stays, and replaces nothing.
        rows = np.flatnonzero(ids >= 0)
        same = rows[self._are_same(items.embeddings, rows, ids[rows])]
        labels_there = self.rows.labels(ids[same]).tolist()
        labels_given = items.labels.values(same).tolist()
        relabelled = 0
        for given, there in zip(labels_given, labels_there):
            if given is not None and str(given) != str(there):
                relabelled += 1
        ids[same] = -1
        return is_new, ids, relabelled

    def _are_same(self, embeddings: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Whether rows of `embeddings` have the direction of the items `ids`, up to rounding: (n,) bool."""
        is_same = np.zeros(len(rows), dtype=bool)
        for block in slices_within(len(rows), self.card["width"], CACHED_NUMBERS):
            ours = self.rows.take(ids[block])[0].astype(np.float64)
            theirs = embeddings[rows[block]].astype(np.float64)
            lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            # Embeddings of zeros have no direction, and are the same.
            are_zero = ~ours.any(axis=1) & ~theirs.any(axis=1)
            is_same[block] = ((ours * theirs).sum(axis=1) > SAME * lengths) | are_zero
        return is_same

    def _with_known_columns(self, items: Items, replaces: np.ndarray) -> Items:
        """Items, of which those that replace others (ids, -1 for none) have their label and category if without."""
        is_replacing = replaces >= 0
        positions = self.rows.positions(replaces[is_replacing])
        return replace(
            items,
            labels=_inherited(items.labels, self.rows.label_column.take(positions), is_replacing),
            categories=_inherited(items.categories, self.rows.category_column.take(positions), is_replacing),
        )

    def _joined_names(
        self, names: dict[str, str], labels: LabelColumn
    ) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
        """(what labels are called with new `names` of these labels, what has changed as in Added)."""
        new = {}
        renamed = []
        for text in map(str, labels.table):
            if text in names and text not in new:
                new[text] = str(names[text])
                if self.names.get(text, new[text]) != new[text]:
                    renamed.append((text, self.names[text], new[text]))
        return {**self.names, **new}, renamed

    def _advance(
        self,
        new: Items | None = None,
        gone: np.ndarray | tuple[()] = (),
        names: dict[str, str] | None = None,
    ) -> None:
        """Move on to a new generation with Items added, ids `gone`, and labels called otherwise."""
        card, rows = change(self.folder, self.card, self.rows, new, gone, names)
        self._move_to(card, rows)

    def _reopen(self) -> None:
        """Move on to what other processes have made of the index."""
        card, rows = _read(self.folder)
        self._move_to(card, rows)


def differences(there: dict | None, here: dict) -> str | None:
    """What tells two fingerprints apart, in words; None where they are of one model."""
    there = there or {}
    # An index of images alone does not tell of the network that texts go with, nor does who embeds images alone.
    if TEXTS not in there or TEXTS not in here:
        there = {name: fact for name, fact in there.items() if name != TEXTS}
        here = {name: fact for name, fact in here.items() if name != TEXTS}
    if here == there:
        return None
    differ = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    texts = [f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differ if name != "weights"]
    if "weights" in differ:
        texts.append("the weights")
    return "; ".join(texts)


def _inherited(column: LabelColumn, replaced: LabelColumn, is_replacing: np.ndarray) -> LabelColumn:
    """A column (N,), of which unknown values are those of the items replaced, (n,) for the n that replace one."""
    # Joined, so that the codes of both are of one table.
    joined = LabelColumn.joined([column, replaced])
    codes = joined.codes[: len(column.codes)].copy()
    replaced_codes = joined.codes[len(column.codes) :]
    inherits = is_replacing & (codes < 0)
    codes[inherits] = replaced_codes[inherits[is_replacing]]
    return LabelColumn(codes, joined.table)


def _read(folder: str | Path) -> tuple[dict, Rows]:
    """(card, rows) of an index, of one whole generation though another process may be replacing it."""
    folder = Path(folder)
    before = None
    while True:
        card = read_card(folder)
        try:
            return card, open_rows(folder, card)
        except FileNotFoundError as error:
            # The card has been replaced since it was read, unless it says the same again.
            if card == before:
                raise InputError(f"index {str(folder)!r} is damaged: there is no {error.filename!r}") from None
            before = card


def _checked(embeddings: npt.ArrayLike, paths: list[str] | None = None) -> np.ndarray:
    """Embeddings (N, D) as float32 in memory, or mapped as they are. Raises InputError for others, and for NaN."""
    if not isinstance(embeddings, np.ndarray):
        import torch  # of whoever has a tensor it is imported already

        embeddings = torch.as_tensor(embeddings).detach().cpu()
        if embeddings.is_floating_point():
            embeddings = embeddings.float()  # NumPy has no bfloat16
        embeddings = embeddings.numpy()
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind != "f":
        shape = f"{embeddings.shape} {embeddings.dtype}"
        raise InputError(f"embeddings are {shape}; an index takes floating-point (N, D), N and D being 1 or more")
    with np.errstate(over="ignore"):  # what is too great is infinite, and refused below
        embeddings = np.ascontiguousarray(embeddings, np.float32)
    broken = np.flatnonzero(~np.isfinite([embeddings.min(1), embeddings.max(1)]).all(0))
    if len(broken):
        if paths is None:
            names = [f"query {row}" for row in broken[:3]]
        else:
            names = [repr(paths[row]) for row in broken[:3]]
        if len(broken) > 3:
            names.append("...")
        raise InputError(
            f"{len(broken)} of {counted(len(embeddings), 'embedding')} {plural(len(broken), 'is', 'are')} NaN or "
            f"infinite: {', '.join(names)}"
        )
    return embeddings


def _checked_items(
    embeddings: npt.ArrayLike,
    paths: Iterable[str | Path],
    labels: npt.ArrayLike | None,
    boxes: npt.ArrayLike | None,
    categories: npt.ArrayLike | None,
) -> Items:
    """What `Index.build` takes, as Items; raises InputError where they do not fit."""
    paths = [str(path) for path in paths]
    embeddings = _checked(embeddings, paths)
    if len(paths) != len(embeddings):
        raise InputError(
            f"{counted(len(embeddings), 'embedding')}, {counted(len(paths), 'path')}: an index takes one path an "
            "embedding"
        )
    for path in paths:
        try:
            path.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise InputError(f"the path {path!r} holds a character that no file's name can have") from None
    return Items(
        embeddings,
        paths,
        checked_boxes(boxes, len(paths)),
        LabelColumn.of(labels, len(paths)),
        LabelColumn.of(categories, len(paths), CATEGORY),
    )
