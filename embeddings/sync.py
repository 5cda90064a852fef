"""An index brought up to a folder: what is new is added, what has changed is replaced, what is gone is forgotten.

Files are looked at by size and time of change, then by a hash of their bytes (retrieval/index/contents.py). What the
index holds already under another name is moved, and not embedded again. All of one look becomes one change of the
index, so whenever a process dies the old index or the new one is there; embeddings that are made already are kept
beside it for the next try.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core.console import log
from core.errors import InputError
from core.items import file_of
from core.text import counted, plural, shown_path
from core.types import AboveZero
from data.formats.folders import find_files
from data.records import Records
from embeddings.collection import categories_below, labels_below
from embeddings.encoder import Encoder
from embeddings.streaming import NothingReadable, embed_stream
from retrieval.index.contents import Contents, FileState, digest_of
from retrieval.index.index import Added, Index
from retrieval.index.items import item_name

# A file that changed within so many seconds may still be written; a watch leaves it for its next look.
SETTLED = 2.0
NAMED = 5  # files of a kind that a dry run names


@dataclass(frozen=True)
class Row:
    """An item to write: path from the root, box, label and category; None where there is none."""

    path: str
    box: tuple[float, ...] | None
    label: int | str | None
    category: int | str | None = None


@dataclass
class Plan:
    """What a folder holds beside what the index knows of it.

    new, changed: rows to embed. moved: rows whose content the index holds, with the id of an item that does;
    copied_over: those of them whose names it holds, with other content. gone: ids
    of items whose files are not there any more; forgotten: those of them whose content is nowhere else, either.
    kept: how many items stay. settling: files that may still be written. unseen: files that the disk refuses to show.
    states, digests: of the files that are there, and the hashes of those that were read.
    """

    new: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    moved: list[tuple[Row, int]] = field(default_factory=list)
    copied_over: list[Row] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    kept: int = 0
    settling: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    states: dict[str, FileState] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.new or self.changed or self.moved or self.gone)

    @property
    def moves(self) -> int:
        """How many of the new names stand in the place of one that is gone; the others have copies of what is kept."""
        return min(len(self.moved) - len(self.copied_over), len(self.gone) - len(self.forgotten))


@dataclass(frozen=True)
class Synced:
    """What became of an index: numbers of items; unreadable: names of files that could not be read, which are left."""

    added: int
    replaced: int
    moved: int
    forgotten: int
    kept: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """How a folder is brought into an index.

    Options:
        forget_most: forget what is gone even if it is more than half of what the index holds below the folder
        dry_run: say what would be done, and do nothing
        watch: look again every so many seconds, until Ctrl-C
    """

    forget_most: bool = False
    dry_run: bool = False
    watch: AboveZero | None = None


def look(
    index: Index, root: str, level: int, settles: bool = False, ignored: dict[str, FileState] | None = None
) -> Plan:
    """Hold a folder against an index. Nothing is changed.

    root: the folder, from the root of the disk. level: as --label_level. settles: leave files alone that changed a
    moment ago. ignored: files in the state in which they could not be read, which are not tried again. Raises
    InputError where the folder is not there.
    """
    if not os.path.isdir(root):
        raise InputError(f"no folder {root!r}; nothing is forgotten of what the index holds below it")
    found, _ = find_files(root)
    contents = Contents.read(index)
    plan = Plan()
    ids_of = _ids_below(index, root)
    holders = _holders(index, contents)

    # Whatever the index holds is looked at by itself, too: a walk leaves folders out that it cannot open.
    gone_files = []
    for path in sorted({*found, *ids_of}):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            gone_files.append(path)
            continue
        except OSError:
            plan.unseen.append(path)
            plan.kept += len(ids_of.get(path, []))
            continue
        state = FileState(status.st_size, status.st_mtime_ns)
        plan.states[path] = state
        if (ignored or {}).get(path) == state:
            plan.kept += len(ids_of.get(path, []))
            continue
        if _is_known(contents, ids_of.get(path, []), state):
            plan.kept += len(ids_of[path])
        elif settles and abs(time.time() - state.mtime / 1e9) < SETTLED:
            plan.settling.append(path)
            plan.kept += len(ids_of.get(path, []))
        else:
            _compare(plan, index, contents, path, ids_of.get(path, []), holders, root, level)

    moved = {(plan.digests[row.path], row.box) for row, _ in plan.moved}
    of_gone = set()
    for path in gone_files:
        numbers = ids_of.get(path, [])
        plan.gone += numbers
        for number, box in zip(numbers, index.rows.boxes(np.array(numbers, np.int64))):
            if number not in contents.known or (contents.known[number][1], _box_of(box)) not in moved:
                plan.forgotten.append(number)
            else:
                of_gone.add((contents.known[number][1], _box_of(box)))
    # Copies of what is kept come behind what is moved.
    plan.moved.sort(key=lambda move: (plan.digests[move[0].path], move[0].box) not in of_gone)
    return plan


def refuse_to_forget_most(plan: Plan, index: Index, root: str) -> None:
    """Raise InputError where a plan would forget more than half of what the index holds below a folder."""
    held = plan.kept + len(plan.gone) + len(plan.changed)
    if len(plan.forgotten) * 2 > held:
        items, are = plural(held, index.noun), plural(len(plan.forgotten), "is", "are")
        raise InputError(
            f"{len(plan.forgotten)} of {held} {items} that {str(index.folder)!r} holds below {root!r} {are} not there "
            "any more; is it the right folder, and all there? --forget_most=True forgets them all the same"
        )


def apply(index: Index, plan: Plan, encoder: Callable[[], Encoder], root: str, skips: bool) -> Synced:
    """Carry out a plan by one change of the index.

    encoder: opens the index's network, and is called only where something is to be embedded. skips: files that cannot
    be read are left out and counted, else InputError.
    """
    rows = [*plan.new, *plan.changed]
    copied = [row for row, _ in plan.moved]
    copies = index.rows.take(np.array([number for _, number in plan.moved], np.int64))[0]
    embedded: list[Row] = []
    if rows:
        try:
            records = _records_of(rows, root)
            with embed_stream(records, encoder(), rows_file(index.folder), None, True, skips, True) as table:
                embedded = _rows_of(table.records, rows)
                matrix = table.mapped()
                if len(copied):
                    matrix = np.concatenate([matrix, copies])
                written = _write(index, matrix, [*embedded, *copied], plan.gone, table.fingerprint)
        except NothingReadable:
            remove_rows(index.folder)
            written = _write(index, copies, copied, plan.gone, None)
    else:
        # A process that died when all was done had no time to clear away.
        remove_rows(index.folder)
        written = _write(index, copies, copied, plan.gone, None)
    _learn(index, plan, [*embedded, *copied])
    done = {(row.path, row.box) for row in embedded}
    return Synced(
        added=written.new - plan.moves,
        replaced=written.replaced,
        moved=plan.moves,
        forgotten=len(plan.forgotten),
        kept=plan.kept + written.skipped,
        unreadable=tuple(item_name(row.path, row.box) for row in rows if (row.path, row.box) not in done),
    )


def watch(
    folder: str,
    root: str,
    level: int,
    seconds: float,
    encoder: Callable[[], Encoder],
    say: Callable[[Index, Synced], None],
    forget_most: bool,
    waits: Callable[[float], None] = time.sleep,
) -> None:
    """Look and apply every so many seconds, until KeyboardInterrupt.

    What cannot be read is tried again once it has changed. A folder that is not there, one that has lost most of its
    files, and an index that another process is changing are said, once each, and looked at again.
    """
    ignored: dict[str, FileState] = {}
    last = ""
    while True:
        try:
            index = Index.open(folder)
            plan = look(index, root, level, True, ignored)
            if not forget_most:
                refuse_to_forget_most(plan, index, root)
            if not plan.is_empty:
                synced = apply(index, plan, encoder, root, True)
                for name in synced.unreadable:
                    path = file_of(name)
                    if path in plan.states:
                        ignored[path] = plan.states[path]
                say(index, synced)
            last = ""
        except InputError as error:
            if str(error) != last:
                log(f"{error}; looked at again every {seconds:g} s")
            last = str(error)
        waits(seconds)


def plan_lines(plan: Plan, index: Index) -> list[str]:
    """What a plan would do, in sentences, with the first names of each kind."""
    names_of_gone = index.rows.paths(np.array(plan.forgotten, np.int64))
    renamed = [row.path for row, _ in plan.moved if row not in plan.copied_over]
    kinds = {
        "add": [*(row.path for row in plan.new), *renamed[plan.moves :]],
        "replace": [item_name(row.path, row.box) for row in [*plan.changed, *plan.copied_over]],
        "move": renamed[: plan.moves],
        "forget": names_of_gone,
    }
    lines = []
    for verb, names in kinds.items():
        if names:
            more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(f"would {verb} {len(names)}: {', '.join(map(shown_path, names[:NAMED]))}{more}")
    if plan.unseen:
        stay = plural(len(plan.unseen), "stays as it is", "stay as they are")
        lines.append(f"cannot look at {len(plan.unseen)}, which {stay}: {plan.unseen[0]}, for one")
    kept = f"{counted(plan.kept, index.noun)} {plural(plan.kept, 'stays as it is', 'stay as they are')}"
    return [*lines, kept]


def level_of(index: Index, level: int | None) -> int:
    """The --label_level of an index where it is left open: the one that it was built with, else 1 where labels are
    known, 0 where nobody knows any."""
    if level is not None:
        return level
    built = (index.card["origin"] or {}).get("label_level")
    if isinstance(built, int):
        return built
    return 1 if index.rows.label_column.table else 0


def rows_file(folder: str | Path) -> str:
    """Where embeddings for an index wait until all of them are made."""
    return f"{os.path.abspath(folder)}.rows"


def remove_rows(folder: str | Path) -> None:
    """Forget the embeddings that wait for an index."""
    for path in (rows_file(folder), f"{rows_file(folder)}.keys"):
        Path(path).unlink(missing_ok=True)


def _ids_below(index: Index, root: str) -> dict[str, list[int]]:
    """{file below a folder: ids of its items, with all boxes and clips of it}."""
    start = os.path.join(root, "")
    ids = defaultdict(list)
    for number, path in zip(index.rows.ids.tolist(), index.rows.paths()):
        if path.startswith(start):
            ids[file_of(path)].append(number)
    return dict(ids)


def _holders(index: Index, contents: Contents) -> dict[tuple[bytes, tuple[float, ...] | None], int]:
    """{(hash of a file, box): id of an item that holds this}."""
    # What is behind a bridge to another model is embedded where it is needed elsewhere (embeddings/upgrade.py).
    below = (index.card["origin"] or {}).get("upgrade", {}).get("below", 0)
    numbers = np.array(sorted(number for number in contents.known if number >= below), np.int64)
    holders = {}
    for number, box in zip(numbers.tolist(), index.rows.boxes(numbers)):
        holders.setdefault((contents.known[number][1], _box_of(box)), number)
    return holders


def _is_known(contents: Contents, numbers: Sequence[int], state: FileState) -> bool:
    """Whether all items of a file were made of it as it is, by its size and time."""
    return bool(numbers) and all(number in contents.known and contents.known[number][0] == state for number in numbers)


def _compare(
    plan: Plan,
    index: Index,
    contents: Contents,
    path: str,
    numbers: list[int],
    holders: dict[tuple[bytes, tuple[float, ...] | None], int],
    root: str,
    level: int,
) -> None:
    """Put one file that is new, or whose size or time has changed, where it belongs in a plan."""
    digest = digest_of(path)
    if digest is not None:
        plan.digests[path] = digest
    if not numbers:
        row = Row(path, None, labels_below(root, [path], level)[0], categories_below(root, [path], level)[0])
        _embed_or_move(plan, plan.new, index, row, digest, holders)
        return
    known = [contents.known.get(number) for number in numbers]
    if digest is not None and all(entry is not None and entry[1] == digest for entry in known):
        plan.kept += len(numbers)  # touched, and nothing else
        return
    paths = index.rows.paths(np.array(numbers))
    for item_path, box, label in zip(paths, index.rows.boxes(np.array(numbers)), index.rows.labels(np.array(numbers))):
        if label is None:
            label = labels_below(root, [path], level)[0]
        _embed_or_move(plan, plan.changed, index, Row(item_path, _box_of(box), label), digest, holders)


def _embed_or_move(
    plan: Plan,
    to_embed: list[Row],
    index: Index,
    row: Row,
    digest: bytes | None,
    holders: dict[tuple[bytes, tuple[float, ...] | None], int],
) -> None:
    """Where the index holds the content of a row under another name, that embedding is taken."""
    number = holders.get((digest, row.box)) if digest is not None and file_of(row.path) == row.path else None
    if number is None:
        to_embed.append(row)
        return
    label = row.label
    if label is None:
        label = index.rows.labels(np.array([number]))[0]
    category = row.category
    if category is None:
        category = index.rows.categories(np.array([number]))[0]
    copy = replace(row, label=label, category=category)
    plan.moved.append((copy, number))
    if to_embed is plan.changed:
        plan.copied_over.append(copy)


def _records_of(rows: Sequence[Row], root: str) -> Records:
    """Rows to embed, as a list."""
    columns: dict[str, list] = {"paths": [row.path for row in rows]}
    if any(row.box is not None for row in rows):
        columns["boxes"] = [row.box or (np.nan,) * 4 for row in rows]
    return Records.of_columns(root, columns)


def _box_of(box: np.ndarray | None) -> tuple[float, ...] | None:
    if box is None or np.isnan(box).any():
        return None
    return tuple(box.tolist())


def _rows_of(records: Records, rows: Sequence[Row]) -> list[Row]:
    """The rows that records were made of, in their order."""
    row_of = {(row.path, row.box): row for row in rows}
    return [row_of[path, _box_of(records.box_of(number))] for number, path in enumerate(records.paths.tolist())]


def _write(index: Index, matrix: np.ndarray, rows: Sequence[Row], gone: list[int], fingerprint: dict | None) -> Added:
    """Add embeddings (N, D) of rows and delete items, by one change."""
    if len(rows):
        boxes = [row.box or (np.nan,) * 4 for row in rows]
        paths = [row.path for row in rows]
        labels = [row.label for row in rows]
        categories = [row.category for row in rows]
        return index.add(matrix, paths, labels, fingerprint, boxes, categories=categories, gone=gone)
    if gone:
        index.delete(gone)
    return Added(np.zeros(0, np.int64), 0, 0, 0, 0, [])


def _learn(index: Index, plan: Plan, written: Sequence[Row]) -> None:
    """Remember what files held: those of written items, and those that were only touched."""
    changed = {file_of(row.path) for row in [*plan.new, *plan.changed, *(row for row, _ in plan.moved)]}
    done = {file_of(row.path) for row in written}
    states = {}
    for path, digest in plan.digests.items():
        # What could not be read keeps what is known of it, so that it is tried again.
        if path in changed and path not in done:
            continue
        # What changed while it was embedded is not known.
        if FileState.of(path) == plan.states[path]:
            states[path] = (plan.states[path], digest)
    if not states and not plan.gone:
        return
    contents = Contents.read(index)
    for number, path in zip(index.rows.ids.tolist(), index.rows.paths()):
        if file_of(path) in states:
            contents.known[number] = states[file_of(path)]
    contents.write(index)
