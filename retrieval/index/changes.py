"""A change of an index: what it writes, in which order, and what is cleared away."""

import contextlib

import numpy as np
import torch

from core.errors import InputError
from core.files import read_json, read_npy, replace_json, write_json, write_npy
from retrieval.best_positive import MEMORY
from retrieval.index.backends import make_backend
from retrieval.index.folder import CARD, FORMAT, sweep, writing
from retrieval.index.items import Items
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows, write_segment

COPIED = 64 * 2**20  # bytes of embeddings copied at a time
SAMPLE, RECALL_AT = 1000, 10  # items that recall is measured on, and at which k
# Recall is measured anew once so large a share of the items that it was measured among has come or gone. Fewer cannot
# move it by much: they are some of the right answers, and some of those who ask. And measuring, SAMPLE comparisons with
# every item, is spread over so many changes that each costs 20,000 comparisons, however large the index is.
STALE = 0.05


def open_rows(folder, card):
    """The items that a card names, as Rows. Raises FileNotFoundError where a file of them is missing."""
    deleted = read_npy(folder / card["deleted"]) if card["deleted"] else np.zeros(0, np.int64)
    rows = Rows(folder, card["segments"], card["width"], deleted, _read_names(folder, card))
    if len(rows) and rows.ids[-1] >= card["next_id"]:
        raise InputError(f"{str(folder)!r} is damaged: the id {rows.ids[-1]} is there, the next is {card['next_id']}")
    return rows


def _read_names(folder, card):
    """What the labels are called, {label as text: name}."""
    if card["names"] is None:
        return {}
    names = read_json(folder / card["names"])
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{str(folder / card['names'])!r} is damaged: names of labels have to be a text for each")
    return names


def change(folder, card: dict, rows: Rows, new: Items | None = None, gone=(), names: dict[str, str] | None = None):
    """Write the generation after `card` and its `rows` and put it in their place; returns its own card and rows.

    new: Items to add, or None; gone: ids to delete; names: what labels are called from now on, {label as text: name},
    or None for no change. The folder is locked by the caller. Whatever fails, the old generation stays.
    """
    backend, _ = make_backend(card["backend"], card["options"])
    new = Items.none(card["width"]) if new is None else new
    card, old_state = {**card, "format": FORMAT, "generation": card["generation"] + 1}, card["state"]
    deleted = np.union1d(rows.deleted, gone).astype(np.int64)
    sweep(folder)
    try:
        with writing(folder):
            _write_items(folder, card, rows, new, deleted)
            if names is not None:
                card["names"] = f"names-{card['generation']:06d}.json"
                write_json(folder / card["names"], names)
            rows = open_rows(folder, card)
            card["state"] = backend.update(folder, card["generation"], rows, old_state)
            card["recall"] = _recall_after(len(new) + len(gone), backend, folder, card, rows)
            replace_json(folder / CARD, card)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what the user has to know
            there = sweep(folder) or {"generation": 0}
            if there["generation"] < card["generation"] and _is_new(card["state"], card):
                backend.discard(card["state"])
        raise
    with contextlib.suppress(Exception):  # the change is made; what is left over the next one clears away
        if card["state"]:
            backend.settle(card["state"], deleted)
        sweep(folder)
    return card, rows


def _is_new(state, card):
    return state is not None and state["built"] == card["generation"]


def _write_items(folder, card, rows, new, deleted):
    """Write the new items' segment and the deleted ids, and name them in the new card.

    A new segment absorbs the last ones that are no longer than itself, so that there are never many; when more than
    half of what is stored is deleted, one segment takes over all that lives.
    """
    names, generation, first = card["segments"], card["generation"], card["next_id"]
    lives = [int((~np.isin(segment.ids, deleted)).sum()) for segment in rows.segments]
    stored, keep, size = sum(len(segment.ids) for segment in rows.segments), len(names), len(new)
    while keep and (2 * len(deleted) > stored or len(new) and lives[keep - 1] <= size):
        keep -= 1
        size += lives[keep]
    card["segments"] = list(names[:keep])
    if size:
        absorbed = Rows(folder, names[keep:], card["width"], deleted)
        card["segments"].append(f"segment-{generation:06d}")
        ids = np.arange(first, first + len(new))
        write_segment(folder / card["segments"][-1], absorbed, ids, new, COPIED)
    kept = [segment.ids for segment in rows.segments[:keep]]
    deleted = deleted[np.isin(deleted, np.concatenate(kept))] if kept else deleted[:0]
    card["deleted"] = f"deleted-{generation:06d}.npy" if len(deleted) else None
    if len(deleted):
        write_npy(folder / card["deleted"], deleted)
    card["items"], card["next_id"] = sum(lives) + len(new), first + len(new)


def _recall_after(changed, backend, folder, card, rows):
    """What a card says of its backend's recall once so many items have come or gone; None where nothing is missed.

    A replaced item has both gone and come. `changes` counts them since it was measured among `items`; `when_built` is
    the value when the backend was last made from all items.
    """
    state, before = card["state"], card["recall"]
    if state is None or not state["approximate"] or not len(rows):
        return None
    if before is None or _is_new(state, card):
        measured = _measured_recall(backend, folder, state, rows)
        return {**measured, "changes": 0, "when_built": measured["value"]}
    # A card of format 1 does not tell how many changes there were since.
    changes = before["changes"] + changed if "changes" in before else None
    if changes is not None and changes < STALE * before["items"]:
        return {**before, "changes": changes}
    measured = _measured_recall(backend, folder, state, rows)
    return {**measured, "changes": 0, "when_built": before.get("when_built", before["value"])}


def _measured_recall(backend, folder, state, rows):
    """Recall of a backend: the share of the nearest items, of some items that are themselves left out, that it finds.

    Those who ask are SAMPLE items, drawn at random from all of the index, so it is the mean over all kinds of items in
    it: of queries that resemble some of them only, such as those added last, more or less may be found. What is as near
    as the last of the nearest counts as one of them.
    """
    backend.open(folder, state, rows)
    asking = np.sort(np.random.default_rng(0).choice(rows.ids, min(SAMPLE, len(rows)), replace=False))
    queries, k = torch.from_numpy(rows.take(asking)[0]), min(RECALL_AT + 1, len(rows))
    right, cosines = nearest(rows, queries, k, MEMORY)
    found, found_cosines = backend.search(rows, queries, k, MEMORY)
    expected = (right != asking[:, None]).sum(1)
    hits = ((found != asking[:, None]) & (found_cosines >= cosines[:, -1:])).sum(1).clip(max=expected)
    share = float(hits.sum() / expected.sum()) if expected.any() else 1.0
    return {"at": RECALL_AT, "value": share, "queries": len(asking), "items": len(rows)}
