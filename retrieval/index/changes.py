"""A change of an index: what it writes, in which order, and what is cleared away."""

import contextlib
from pathlib import Path

import numpy as np

from core.arrays import read_npy, write_npy
from core.errors import InputError
from core.files import read_json, replace_json, write_json
from core.slices import MEMORY
from retrieval.index.backends import make_backend
from retrieval.index.backends._backend import Backend
from retrieval.index.folder import CARD, FORMAT, sweep, writing
from retrieval.index.items import Items
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows, write_segment

COPIED = 64 * 2**20  # bytes of embeddings copied at a time
SAMPLE = 1000  # items that recall is measured on
RECALL_AT = 10  # the k of that recall
# Recall is measured anew once so large a share of the items that it was measured among has come or gone. Fewer cannot
# move it by much: they are some of the right answers, and some of those who ask. And measuring, SAMPLE comparisons with
# every item, is spread over so many changes that each costs 20,000 comparisons, however large the index is.
STALE = 0.05


def open_rows(folder: Path, card: dict) -> Rows:
    """The items that a card names, as Rows. Raises FileNotFoundError where a file of them is missing."""
    deleted = np.zeros(0, np.int64)
    if card["deleted"]:
        deleted = read_npy(folder / card["deleted"])
    rows = Rows(folder, card["segments"], card["width"], deleted, _read_names(folder, card), card["categorised"])
    if len(rows) and rows.ids[-1] >= card["next_id"]:
        raise InputError(f"{str(folder)!r} is damaged: the id {rows.ids[-1]} is there, the next is {card['next_id']}")
    return rows


def _read_names(folder: Path, card: dict) -> dict[str, str]:
    """What the labels are called, {label as text: name}."""
    if card["names"] is None:
        return {}
    names = read_json(folder / card["names"])
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{str(folder / card['names'])!r} is damaged: names of labels have to be a text for each")
    return names


def change(
    folder: Path,
    card: dict,
    rows: Rows,
    new: Items | None = None,
    gone: np.ndarray | tuple[()] = (),
    names: dict[str, str] | None = None,
) -> tuple[dict, Rows]:
    """Write the generation after `card` and its `rows` and put it in their place; returns its own card and rows.

    new: Items to add, or None; gone: ids to delete; names: what labels are called from now on, {label as text: name},
    or None for no change. The folder is locked by the caller. Whatever fails, the old generation stays.
    """
    backend, _ = make_backend(card["backend"], card["options"])
    if new is None:
        new = Items.none(card["width"])
    old_state = card["state"]
    card = {**card, "format": FORMAT, "generation": card["generation"] + 1}
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
            # From here on the new generation is the index; before, whatever fails, the old one is.
            replace_json(folder / CARD, card)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what the user has to know
            # Nothing is discarded that the card names, as it does where the very replacing was cut short too late.
            there = sweep(folder) or {"generation": 0}
            if there["generation"] < card["generation"] and _is_new(card["state"], card):
                backend.discard(card["state"])
        raise
    with contextlib.suppress(Exception):  # the change is made; what is left over the next one clears away
        if card["state"]:
            backend.settle(card["state"], deleted)
        sweep(folder)
    return card, rows


def _is_new(state: dict | None, card: dict) -> bool:
    """Whether a backend's state was made from all rows by the change that makes this card."""
    return state is not None and state["built"] == card["generation"]


def _write_items(folder: Path, card: dict, rows: Rows, new: Items, deleted: np.ndarray) -> None:
    """Write the new items' segment and the deleted ids, and name them in the new card.

    A new segment absorbs the last ones that are no longer than itself, so that there are never many; when more than
    half of what is stored is deleted, one segment takes over all that lives.
    """
    names = card["segments"]
    first_id = card["next_id"]
    living = [int((~np.isin(segment.ids, deleted)).sum()) for segment in rows.segments]
    stored = sum(len(segment.ids) for segment in rows.segments)

    # From the last segment backwards, how many stay as they are; the others go into the new one.
    keep = len(names)
    size = len(new)
    is_half_deleted = 2 * len(deleted) > stored
    while keep and (is_half_deleted or len(new) and living[keep - 1] <= size):
        keep -= 1
        size += living[keep]
    card["segments"] = list(names[:keep])
    categorised = card["categorised"]
    card["categorised"] = [name for name in card["segments"] if name in categorised]
    if size:
        absorbed = Rows(folder, names[keep:], card["width"], deleted, categorised=categorised)
        segment = f"segment-{card['generation']:06d}"
        card["segments"].append(segment)
        ids = np.arange(first_id, first_id + len(new))
        if write_segment(folder / segment, absorbed, ids, new, COPIED):
            card["categorised"].append(segment)

    # Ids need to be remembered as deleted only while they still stand in a segment.
    kept_ids = [segment.ids for segment in rows.segments[:keep]]
    still_stored = np.isin(deleted, np.concatenate([np.zeros(0, np.int64), *kept_ids]))
    deleted = deleted[still_stored]
    card["deleted"] = None
    if len(deleted):
        card["deleted"] = f"deleted-{card['generation']:06d}.npy"
        write_npy(folder / card["deleted"], deleted)
    card["items"] = sum(living) + len(new)
    card["next_id"] = first_id + len(new)


def _recall_after(changed: int, backend: Backend, folder: Path, card: dict, rows: Rows) -> dict | None:
    """What a card says of its backend's recall once so many items have come or gone; None where nothing is missed.

    A replaced item has both gone and come. `changes` counts them since it was measured among `items`; `when_built` is
    the value when the backend was last made from all items.
    """
    state = card["state"]
    before = card["recall"]
    if state is None or not state["approximate"] or not len(rows):
        return None
    if before is None or _is_new(state, card):
        measured = _measured_recall(backend, folder, state, rows)
        return {**measured, "changes": 0, "when_built": measured["value"]}
    # A card of format 1 does not tell how many changes there were since.
    if "changes" in before:
        changes = before["changes"] + changed
        if changes < STALE * before["items"]:
            return {**before, "changes": changes}
    measured = _measured_recall(backend, folder, state, rows)
    return {**measured, "changes": 0, "when_built": before.get("when_built", before["value"])}


def _measured_recall(backend: Backend, folder: Path, state: dict, rows: Rows) -> dict:
    """Recall of a backend: the share of the nearest items, of some items that are themselves left out, that it finds.

    Those who ask are SAMPLE items, drawn at random from all of the index, so it is the mean over all kinds of items in
    it: of queries that resemble some of them only, such as those added last, more or less may be found. What is as near
    as the last of the nearest counts as one of them.
    """
    backend.open(folder, state, rows)
    asking = np.sort(np.random.default_rng(0).choice(rows.ids, min(SAMPLE, len(rows)), replace=False))
    queries, _ = rows.take(asking)
    k = min(RECALL_AT + 1, len(rows))  # one more, since each finds itself
    right_ids, right_cosines = nearest(rows, queries, k, MEMORY)
    found_ids, found_cosines = backend.search(rows, queries, k, MEMORY)
    expected = (right_ids != asking[:, None]).sum(1)
    is_hit = (found_ids != asking[:, None]) & (found_cosines >= right_cosines[:, -1:])
    hits = is_hit.sum(1).clip(max=expected)
    share = 1.0
    if expected.any():
        share = float(hits.sum() / expected.sum())
    return {"at": RECALL_AT, "value": share, "queries": len(asking), "items": len(rows)}
