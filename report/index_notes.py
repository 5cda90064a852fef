"""What became of an index, and how fit it is, in sentences."""

import shlex
from collections.abc import Sequence

from core.text import counted, plural, printable, shown_path
from data.records import Records
from embeddings.sync import Synced
from report.index_fitness import fitness_notes
from retrieval.index.index import Added, Index
from retrieval.index.items import item_name

SHOWN_FILES = 10  # of those that could not be read


def built_notes(index: Index, given: int) -> list[str]:
    """Of an index that was made of so many images."""
    line = f"{counted(len(index), index.noun)} in {index.folder}, backend {index.card['backend']}"
    repeats = given - len(index)
    if repeats:
        line += f"; {repeats} skipped, which {plural(repeats, 'comes', 'come')} twice"
    return [line, *fitness_notes(index)]


def added_notes(index: Index, added: Added) -> list[str]:
    """Of an index that was added to."""
    clauses = [f"{counted(added.new, index.noun)} added to {index.folder}, which now holds {len(index)}"]
    if added.replaced:
        clauses.append(f"{added.replaced} replaced, whose picture has changed")
    if added.skipped:
        clauses.append(f"{added.skipped} skipped, which {plural(added.skipped, 'was', 'were')} there already")
    lines = ["; ".join(clauses)]
    if added.relabelled:
        have, them = plural(added.relabelled, "has", "have"), plural(added.relabelled, "it", "them")
        lines.append(
            f"note: {added.relabelled} of those skipped {have} another label in the index, which stays; delete {them} "
            f"and add {them} again to change it"
        )
    if added.renamed:
        label, before, now = added.renamed[0]
        line = f"note: the label {printable(label)} is called {now!r} now, no longer {before!r}"
        more = len(added.renamed) - 1
        if more:
            line += f", and {more} more {plural(more, 'label')} {plural(more, 'has', 'have')} another name"
        lines.append(line)
    return [*lines, *fitness_notes(index)]


def left_out_notes(given: Records, kept: Records) -> list[str]:
    """Of a list of which some rows could not be read: their number, and the first of their names."""
    if len(given) == len(kept):
        return []
    names = _names_of(given)
    there = set(_names_of(kept))
    return unreadable_notes([name for name in names if name not in there])


def unreadable_notes(names: Sequence[str]) -> list[str]:
    """Of files that could not be read: their number, and the first of their names."""
    if not names:
        return []
    shown = ", ".join(printable(shown_path(name)) for name in names[:SHOWN_FILES])
    more = f", and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return [f"{len(names)} could not be read and {plural(len(names), 'is', 'are')} left out: {shown}{more}"]


def _names_of(records: Records) -> list[str]:
    return [item_name(path, records.box_of(row)) for row, path in enumerate(records.paths.tolist())]


def synced_notes(index: Index, synced: Synced) -> list[str]:
    """Of an index that was brought up to a folder."""
    counts = {
        "added": synced.added,
        "replaced": synced.replaced,
        "moved": synced.moved,
        "forgotten": synced.forgotten,
        "as they were": synced.kept,
    }
    clauses = ", ".join(f"{count} {word}" for word, count in counts.items())
    line = f"{clauses}; {index.folder} now holds {counted(len(index), index.noun)}"
    return [line, *unreadable_notes(synced.unreadable), *fitness_notes(index)]


def next_notes(index: Index, root: str | None) -> list[str]:
    """What can be done with an index that was just built."""
    folder = shlex.quote(shown_path(index.folder))
    lines = [f"search it in the browser: python search.py serve {folder}"]
    if root is not None:
        lines.append(f"keep it up to date: python search.py sync {shlex.quote(shown_path(root))} --index={folder}")
    return [printable(line) for line in lines]


def deleted_notes(index: Index, count: int) -> list[str]:
    """Of an index from which so many items were deleted."""
    return [
        f"{counted(count, index.noun)} deleted from {index.folder}, which now holds {len(index)}",
        *fitness_notes(index),
    ]


def decided_notes(index: Index) -> list[str]:
    """Of what was decided for an index, and what that gave."""
    decision = index.decision
    origin = decision.origin
    far, tar = origin["far"], origin["tar"]
    lines = [
        f"from cosine {decision.threshold:.4f} on, {index.noun}s are called the same in {index.folder}",
        f"on {origin['list']}, {counted(origin['labels'], 'label')}: "
        f"FAR {far['value']:.3g}{_interval_text(far, 1, '.3g')}, "
        f"TAR {100 * tar['value']:.2f}{_interval_text(tar, 100, '.2f')} %",
        f"a query that is none of its {len(index):,} {plural(len(index), index.noun)} is called the same as "
        f"{far['value'] * len(index):.3g} of them on average, if they are as unlike as those of the list",
    ]
    return lines


def _interval_text(rate: dict, factor: float, form: str) -> str:
    """The interval of a rate in brackets, nothing where it has none."""
    if rate["interval"] is None:
        return ""
    low, high = (format(factor * bound, form) for bound in rate["interval"])
    return f" [{low}, {high}]"
