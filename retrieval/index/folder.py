"""The folder of an index: its card, its lock, and which of its files count."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, NoneType

from core.errors import InputError
from core.files import read_json
from core.locks import lock_for_writing
from retrieval.decision import Decision
from retrieval.index.backends import BACKENDS

CARD = "index.json"
LOCK = ".lock"
CONTENTS = "contents.npy"  # what files held when they were embedded (retrieval/index/contents.py)
NETWORK = "network.onnx"  # what embeds images without torch (embeddings/own_network.py)
FORMAT = 2
OLD_FORMAT = 1  # is read, and becomes the new one by its first change
# The facts of a card, and the types that they may have.
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
    "categorised": list,
    "deleted": (str, NoneType),
    "names": (str, NoneType),
    "state": (dict, NoneType),
    "decision": (dict, NoneType),
}
# Facts that came later, and what they are where a card has none.
LATER = {"decision": None, "categorised": []}
LEAST = {"items": 0, "width": 1, "generation": 0, "next_id": 0}
MOST = 2**62


class InUse(InputError):
    """Another process changes the index at the moment."""


class DiskRefuses(InputError):
    """The disk takes no more, or nothing from this user."""


def read_card(folder: str | Path) -> dict:
    """The facts in an index's card. Raises InputError where there is none, and for one that is not ours."""
    path = Path(folder) / CARD
    try:
        card = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{str(folder)!r} is no index: there is no {str(path)!r}") from None
    version = None
    if isinstance(card, dict):
        version = card.get("format")
    if version not in (OLD_FORMAT, FORMAT):
        shown = type(version).__name__
        if isinstance(version, int | str | None):
            shown = repr(version)
        raise InputError(
            f"{str(path)!r} has the format {shown}; this program reads the formats {OLD_FORMAT} and {FORMAT}"
        )
    if version == OLD_FORMAT:
        card = _without_new_facts(card)
    card = {**LATER, **card}
    if card.get("backend") in BACKENDS.names() and isinstance(card.get("options"), dict):
        card["options"] = BACKENDS[card["backend"]].read_options(card["options"])
    wrong = _wrong_facts(card)
    if wrong:
        raise InputError(f"{str(path)!r} is damaged: {', '.join(wrong)}")
    for name in files_of(card):
        if not _is_due(name, card["generation"]):
            raise InputError(f"{str(path)!r} is damaged: it names {name!r}")
    if card["decision"] is not None:
        Decision.from_json(card["decision"], path)
    return card


def _without_new_facts(card: dict) -> dict:
    """A card of the old format, with what it knows nothing of said to be unknown, whatever stands there."""
    card = {**card, "names": None, "categorised": []}
    if isinstance(card.get("recall"), dict):
        card["recall"] = {name: fact for name, fact in card["recall"].items() if name not in ("changes", "when_built")}
    return card


def _wrong_facts(card: dict) -> list[str]:
    """Names of the facts of a card that are missing, or not what they have to be."""
    wrong = [name for name, kind in FACTS.items() if name not in card or not isinstance(card[name], kind)]
    wrong += [name for name, least in LEAST.items() if name not in wrong and not least <= card[name] <= MOST]
    if not wrong and not all(isinstance(name, str) for name in card["segments"]):
        wrong = ["segments"]
    # What lies deeper can be looked at only where the outer facts are right.
    if wrong:
        return wrong
    if card["backend"] in BACKENDS.names() and card["state"] is not None:
        kinds = {"built": int, "approximate": bool, **BACKENDS[card["backend"]].keeps(card["options"])}
        wrong = [f"state.{name}" for name, kind in kinds.items() if not _fits(card["state"].get(name), kind)]
    return wrong + [f"recall.{name}" for name in _wrong_recall(card)]


def _wrong_recall(card: dict) -> list[str]:
    """Names of the facts of a card's recall that are not what they have to be."""
    if card["recall"] is None:
        return []
    shares = ["value"]
    counts = ["at", "queries", "items"]
    if card["format"] != OLD_FORMAT:
        shares.append("when_built")
        counts.append("changes")
    wrong = []
    for name in counts:
        value = card["recall"].get(name)
        if not (isinstance(value, int) and 0 <= value <= MOST):
            wrong.append(name)
    for name in shares:
        value = card["recall"].get(name)
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            wrong.append(name)
    return wrong


def _fits(value: object, kind: type | GenericAlias | str) -> bool:
    """Whether a value is of a type, a list of one, or a text of the form that a pattern gives."""
    if isinstance(kind, GenericAlias):
        return isinstance(value, list) and all(isinstance(element, kind.__args__[0]) for element in value)
    if isinstance(kind, str):
        return isinstance(value, str) and re.fullmatch(kind, value) is not None
    return isinstance(value, kind)


def _is_due(name: str, generation: int) -> bool:
    """Whether a card of `generation` may name this: a later one is written to, and may be a link out of the folder."""
    number = re.search(r"-(\d+)", str(name))
    return _is_ours(name) and (number is None or int(number[1]) <= generation)


def files_of(card: dict) -> list[str]:
    """Names of the files and folders that a card names."""
    names = [*card["segments"], card["deleted"], card["names"]]
    if card["state"]:
        names.append(card["state"].get("file"))
        if isinstance(card["state"].get("files"), list):
            names += card["state"]["files"]
    return [name for name in names if name]


def _is_ours(name: str) -> bool:
    """Whether a file or folder is called as those of an index are."""
    kinds = "|".join(["segment", "deleted", "names", *BACKENDS.names()])
    files = "|".join(map(re.escape, (CARD, CONTENTS, NETWORK)))
    pattern = rf"(({kinds})-\d{{6,}}(\.\w+)?)|({files})(\.tmp)?|{re.escape(LOCK)}"
    return re.fullmatch(pattern, str(name)) is not None


def check_free(folder: str | Path, overwrite: bool) -> dict | None:
    """The card of the index in `folder`, None where there is none. Raises InputError where none can be built there."""
    folder = Path(folder)
    if (folder / CARD).exists():
        if not overwrite:
            raise InputError(f"{str(folder)!r} already holds an index; add to it, or replace it with --overwrite=True")
        return read_card(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot make an index of {str(folder)!r}: it is a file")
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if not _is_ours(path.name):
                raise InputError(f"{str(folder)!r} holds {path.name!r}; an index takes a folder of its own")
    return None


def sweep(folder: Path) -> dict | None:
    """Remove what changes that died, or old generations, left behind; returns the card, None where there is none."""
    card = None
    counted = {CARD, LOCK, CONTENTS, NETWORK}
    if (folder / CARD).exists():
        card = read_card(folder)
        counted.update(files_of(card))
    for path in folder.iterdir():
        if not _is_ours(path.name) or path.name in counted:
            continue
        # A link is removed itself, never what it points to.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return card


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """The folder, made if need be, for one process that changes it. Raises InUse where another one does.

    A folder that was made for an index which then failed is removed again.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a", opener=_open_no_link)
    with lock:
        try:
            lock_for_writing(lock)
            # Whoever removed the folder meanwhile left a lock on a file that is not there any more.
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
                raise OSError("removed by the process that held it")
        except OSError:
            raise InUse(f"another process is changing index {str(folder)!r}; try again when it is done") from None
        try:
            yield
        finally:
            if not (folder / CARD).exists():
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()


def _open_no_link(path: str, mode: int) -> int:
    """An opener that follows no link: a lock may not be made outside the folder. Windows knows no such mode."""
    return os.open(path, mode | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Failures of the disk in one sentence, DiskRefuses."""
    try:
        yield
    except OSError as error:
        raise DiskRefuses(f"cannot write to index {str(folder)!r}: {error.strerror or error}") from None
