"""The folder of an index: its card, its lock, and which of its files count."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from types import NoneType

from core.errors import InputError
from core.files import read_json
from retrieval.index.backends import BACKENDS

CARD, LOCK = "index.json", ".lock"
FORMAT, OLD_FORMAT = 2, 1  # the old one is read, and becomes the new one by its first change
FACTS = {
    "format": int,
    "backend": str,
    "options": dict,
    "items": int,
    "width": int,
    "distance": str,
    "fingerprint": (dict, NoneType),
    "origin": (dict, NoneType),
    "recall": (dict, NoneType),
    "generation": int,
    "next_id": int,
    "segments": list,
    "deleted": (str, NoneType),
    "names": (str, NoneType),
    "state": (dict, NoneType),
}
LEAST, MOST = {"items": 0, "width": 1, "generation": 0, "next_id": 0}, 2**62


def read_card(folder):
    """The facts in an index's card. Raises InputError where there is none, and for one that is not ours."""
    path = Path(folder) / CARD
    try:
        card = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{str(folder)!r} is no index: there is no {str(path)!r}") from None
    version = card.get("format") if isinstance(card, dict) else None
    if version not in (OLD_FORMAT, FORMAT):
        shown = repr(version) if isinstance(version, (int, str, NoneType)) else type(version).__name__
        raise InputError(
            f"{str(path)!r} has the format {shown}; this program reads the formats {OLD_FORMAT} and {FORMAT}"
        )
    if version == OLD_FORMAT:
        card = _without_new_facts(card)
    wrong = _wrong_facts(card)
    strangers = [name for name in files_of(card) if not _is_due(name, card["generation"])] if not wrong else []
    if wrong or strangers:
        raise InputError(f"{str(path)!r} is damaged: {', '.join(wrong) or f'it names {strangers[0]!r}'}")
    return card


def _without_new_facts(card):
    """A card of the old format, with what it knows nothing of said to be unknown, whatever stands there."""
    recall = card.get("recall")
    if isinstance(recall, dict):
        recall = {name: fact for name, fact in recall.items() if name not in ("changes", "when_built")}
    return {**card, "names": None, **({"recall": recall} if "recall" in card else {})}


def _wrong_facts(card):
    """Names of the facts of a card that are missing, or not what they have to be."""
    wrong = [name for name, kind in FACTS.items() if not isinstance(card.get(name), kind) or name not in card]
    wrong += [name for name, least in LEAST.items() if name not in wrong and not least <= card[name] <= MOST]
    if not wrong and not all(isinstance(name, str) for name in card["segments"]):
        wrong = ["segments"]
    if wrong:
        return wrong
    if card["backend"] in BACKENDS.names() and card["state"] is not None:
        kinds = {"built": int, "approximate": bool, **BACKENDS[card["backend"]].keeps(card["options"])}
        wrong = [f"state.{name}" for name, kind in kinds.items() if not _fits(card["state"].get(name), kind)]
    return wrong + [f"recall.{name}" for name in _wrong_recall(card)]


def _wrong_recall(card):
    """Names of the facts of a card's recall that are not what they have to be."""
    if card["recall"] is None:
        return []
    shares, counts = ["value"], ["at", "queries", "items"]
    if card["format"] != OLD_FORMAT:
        shares, counts = [*shares, "when_built"], [*counts, "changes"]
    ranges = {**dict.fromkeys(counts, (int, MOST)), **dict.fromkeys(shares, ((int, float), 1))}
    values = {name: card["recall"].get(name) for name in ranges}
    return [
        name
        for name, (kind, most) in ranges.items()
        if not (isinstance(values[name], kind) and 0 <= values[name] <= most)
    ]


def _fits(value, kind):
    """Whether a value is of a type, or a text of the form that a pattern gives."""
    return isinstance(value, str) and re.fullmatch(kind, value) if isinstance(kind, str) else isinstance(value, kind)


def _is_due(name, generation):
    """Whether a card of `generation` may name this: a later one is written to, and may be a link out of the folder."""
    number = re.search(r"-(\d+)", str(name))
    return _is_ours(name) and (number is None or int(number[1]) <= generation)


def files_of(card):
    """Names of the files and folders that a card names."""
    names = (*card["segments"], card["deleted"], card["names"], (card["state"] or {}).get("file"))
    return [name for name in names if name]


def _is_ours(name):
    kinds = "|".join(["segment", "deleted", "names", *BACKENDS.names()])
    return (
        re.fullmatch(rf"(({kinds})-\d{{6,}}(\.\w+)?)|{re.escape(CARD)}(\.tmp)?|{re.escape(LOCK)}", str(name))
        is not None
    )


def check_free(folder, overwrite):
    """The card of the index in `folder`, None where there is none. Raises InputError where none can be built there."""
    folder = Path(folder)
    if (folder / CARD).exists():
        if not overwrite:
            raise InputError(f"{str(folder)!r} already holds an index; add to it, or replace it with --overwrite=True")
        return read_card(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot make an index of {str(folder)!r}: it is a file")
    others = [path.name for path in sorted(folder.iterdir()) if not _is_ours(path.name)] if folder.is_dir() else []
    if others:
        raise InputError(f"{str(folder)!r} holds {others[0]!r}; an index takes a folder of its own")
    return None


def sweep(folder):
    """Remove what changes that died, or old generations, left behind; returns the card, None where there is none."""
    card = read_card(folder) if (folder / CARD).exists() else None
    counted = {CARD, LOCK, *(files_of(card) if card else ())}
    for path in folder.iterdir():
        if _is_ours(path.name) and path.name not in counted:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return card


@contextlib.contextmanager
def locked(folder):
    """The folder, made if need be, for one process that changes it. Raises InputError where another one does.

    A folder that was made for an index which then failed is removed again.
    """
    import fcntl  # not on Windows, where an index can be searched all the same

    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a", opener=_open_no_link)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
                raise OSError("removed by the process that held it")
        except OSError:
            raise InputError(f"another process is changing index {str(folder)!r}; try again when it is done") from None
        try:
            yield
        finally:
            if not (folder / CARD).exists():
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()


def _open_no_link(path, mode):
    return os.open(path, mode | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def writing(folder):
    """Failures of the disk in one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to index {str(folder)!r}: {error.strerror or error}") from None
