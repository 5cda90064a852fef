"""An index: a folder of embeddings with ids, paths and labels that can be searched, added to and deleted from.

`index.json`, the card, names the files that count. A change writes new files of a new generation beside them and then
replaces the card, so whenever a process dies the old index or the new one is there. One process changes it at a time.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from errors import InputError
from retrieval.backends import make_backend
from retrieval.changes import change, open_rows
from retrieval.index_folder import check_free, locked, read_card
from retrieval.ranks import MEMORY


class Hits(NamedTuple):
    """What Q queries found, nearest first, (Q, k) each: ids, cosines (float32), paths and labels (-1: unknown)."""

    ids: np.ndarray
    scores: np.ndarray
    paths: np.ndarray
    labels: np.ndarray


class Index:
    """An index as it was when it was opened; a change made through it moves it on to what the index has become.

    card: the facts of index.json. rows: the items (retrieval/segments.py).
    """

    def __init__(self, folder, card, rows):
        self.folder = Path(folder)
        self._take(card, rows)

    def _take(self, card, rows):
        self.card, self.rows, self._backend = card, rows, None

    def __len__(self):
        return len(self.rows)

    @classmethod
    def open(cls, folder):
        """The index in `folder`. Raises InputError where there is none or a damaged one."""
        return cls(folder, *_read(folder))

    @classmethod
    def build(
        cls, folder, embeddings, paths, labels, fingerprint, backend="exact", options=None, overwrite=False, origin=None
    ):
        """Make an index of embeddings (N, D), paths (N,) and labels (N,) integers, -1 for unknown.

        Of a path that comes twice the first is kept. fingerprint: plain JSON that tells models apart, or None; origin:
        plain JSON to keep in the card. backend: a name of BACKENDS; options: its keywords. overwrite: replace an index
        that is there, whose ids are not used again. Raises InputError for arrays that do not fit, NaN, an unknown
        backend or option, and a folder that holds an index or anything else; then nothing is written.
        """
        embeddings, paths, labels = _checked(embeddings, paths, labels)
        chosen, options = make_backend(backend, options or {})
        chosen.check(len(set(paths)), embeddings.shape[1])
        check_free(folder, overwrite)
        with locked(folder):
            old = check_free(folder, overwrite) or {"next_id": 0, "generation": 0, "state": None}
            card = {"format": 1, "backend": backend, "options": options, "items": 0, "width": embeddings.shape[1]}
            card |= {"distance": "cosine", "fingerprint": fingerprint, "origin": origin, "recall": None, "segments": []}
            card |= {"next_id": old["next_id"], "generation": old["generation"], "deleted": None, "state": None}
            index = cls(folder, card, open_rows(folder, card))
            index._advance(index._new(embeddings, paths, labels))
            if old["state"]:
                with contextlib.suppress(InputError):  # its server may be gone, and the new index is there all the same
                    make_backend(old["backend"], old["options"])[0].discard(old["state"])
        return index

    def add(self, embeddings, paths, labels, fingerprint=None):
        """Add items as `build` takes them; returns their ids (n,) and how many were skipped, their path being there.

        Raises InputError for another width or fingerprint than the index has (None: not looked at), and as `build`.
        """
        self.refuse_others(fingerprint)
        embeddings, paths, labels = _checked(embeddings, paths, labels)
        self._refuse_width(embeddings)
        with locked(self.folder):
            self._take(*_read(self.folder))
            new = self._new(embeddings, paths, labels)
            first = self.card["next_id"]
            if new[1]:
                self._advance(new)
        return np.arange(first, first + len(new[1])), len(paths) - len(new[1])

    def delete(self, items):
        """Delete items by path (str) or id (int); returns how many.

        Raises InputError, and deletes nothing, where one of them is not there.
        """
        items = [items] if isinstance(items, (str, int, np.integer)) else list(items)
        with locked(self.folder):
            self._take(*_read(self.folder))
            by_path = dict(zip(self.rows.paths(), self.rows.ids.tolist()))
            ids = [by_path.get(item, -1) if isinstance(item, str) else int(item) for item in items]
            gone = np.array(sorted(set(ids)), np.int64)
            missing = [item for item, there in zip(items, self.rows.has(np.array(ids, np.int64))) if not there]
            if missing:
                raise InputError(
                    f"{missing[0]!r} is not in index {str(self.folder)!r} ({len(missing)} of {len(items)} are not); "
                    "nothing is deleted"
                )
            if len(gone):
                self._advance(gone=gone)
        return len(gone)

    def search(self, queries, k=10, fingerprint=None, memory=MEMORY):
        """The k nearest items of each query (Q, D) by cosine, as Hits; k beyond the index means all of it.

        Scores are exact whatever the backend, equal ones by the smaller id; an approximate backend may miss items.
        memory: bytes for the search beside the queries and the backend. Raises InputError for an empty index, NaN,
        k below 1, and as `add`.
        """
        self.refuse_others(fingerprint)
        queries = _checked(queries)[0]
        self._refuse_width(queries)
        if k < 1:
            raise InputError(f"k is {k}; at least one item has to be looked for")
        backend = self._ready()
        ids, scores = backend.search(self.rows, torch.from_numpy(queries), min(k, len(self)), memory)
        paths = np.array(self.rows.paths(ids.ravel())).reshape(ids.shape)
        return Hits(ids, scores, paths, self.rows.labels[self.rows.places(ids)])

    def refuse_others(self, fingerprint):
        """Raise InputError, saying what differs, unless `fingerprint` is the index's own (None: not looked at)."""
        ours = self.card["fingerprint"] or {}
        if fingerprint is None or fingerprint == ours:
            return
        differ = [name for name in {**ours, **fingerprint} if ours.get(name) != fingerprint.get(name)]
        texts = [f"{n}: {ours.get(n)} there, {fingerprint.get(n)} here" for n in differ if n != "weights"]
        texts += ["the weights"] if "weights" in differ else []
        raise InputError(f"index {str(self.folder)!r} was made by another model; what differs: {'; '.join(texts)}")

    def advice(self):
        """A sentence on the backend's fitness for this index, or None."""
        return make_backend(self.card["backend"], self.card["options"])[0].advice(len(self))

    def _refuse_width(self, embeddings):
        if embeddings.shape[1] != self.card["width"]:
            raise InputError(
                f"index {str(self.folder)!r} holds embeddings of {self.card['width']} numbers; these have "
                f"{embeddings.shape[1]}"
            )

    def _ready(self):
        """The backend, ready for search; where its files were replaced meanwhile, the index moves on to newer ones."""
        while self._backend is None:
            if not len(self):
                raise InputError(f"index {str(self.folder)!r} is empty: there is nothing to find")
            backend, _ = make_backend(self.card["backend"], self.card["options"])
            try:
                backend.open(self.folder, self.card["state"], self.rows)
                self._backend = backend
            except FileNotFoundError as error:
                before = self.card
                self._take(*_read(self.folder))
                if self.card == before:
                    raise InputError(f"index {str(self.folder)!r} is damaged: there is no {error.filename!r}") from None
        return self._backend

    def _new(self, embeddings, paths, labels):
        """Of items, those whose path is new: the first of each path."""
        known, chosen = set(self.rows.paths()), []
        for row, path in enumerate(paths):
            if path not in known:
                known.add(path)
                chosen.append(row)
        if len(chosen) == len(paths):
            return embeddings, paths, labels
        return embeddings[chosen], [paths[row] for row in chosen], labels[chosen]

    def _advance(self, new=None, gone=()):
        """Move on to a new generation with items added (embeddings, paths, labels) or `gone` (ids)."""
        self._take(*change(self.folder, self.card, self.rows, new, gone))


def _read(folder):
    """(card, rows) of an index, of one whole generation though another process may be replacing it."""
    folder, before = Path(folder), None
    while True:
        card = read_card(folder)
        try:
            return card, open_rows(folder, card)
        except FileNotFoundError as error:
            if card == before:
                raise InputError(f"index {str(folder)!r} is damaged: there is no {error.filename!r}") from None
            before = card


def _checked(embeddings, paths=None, labels=None):
    """Embeddings (N, D) float32, paths as a list, labels (N,) int64; raises InputError where they do not fit."""
    embeddings = torch.as_tensor(embeddings).detach().cpu()
    if embeddings.ndim != 2 or not len(embeddings) or not embeddings.shape[1] or not embeddings.is_floating_point():
        shape = f"{tuple(embeddings.shape)} {embeddings.dtype}"
        raise InputError(f"embeddings are {shape}; an index takes floating-point (N, D), N and D being 1 or more")
    embeddings = np.ascontiguousarray(embeddings.float().numpy())
    broken = np.flatnonzero(~np.isfinite([embeddings.min(1), embeddings.max(1)]).all(0))
    if len(broken):
        names = [f"query {row}" if paths is None else repr(str(paths[row])) for row in broken[:3]]
        names = ", ".join(names + ["..."] * (len(broken) > 3))
        raise InputError(f"{len(broken)} of {len(embeddings)} embeddings are NaN or infinite: {names}")
    if paths is None:
        return embeddings, None, None
    paths, labels = [str(path) for path in paths], np.asarray(labels)
    if not len(paths) == len(labels) == len(embeddings) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{len(embeddings)} embeddings, {len(paths)} paths, labels {labels.shape} {labels.dtype}: an index takes "
            "one path and one integer label an embedding"
        )
    return embeddings, paths, labels.astype(np.int64)
