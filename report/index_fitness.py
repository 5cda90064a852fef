"""How fit an index is for what it holds, in sentences."""

import shlex

from core.text import counted, printable, shown_path
from retrieval.index.backends import BACKENDS
from retrieval.index.index import Index

LOST = 0.05  # of its recall since it was built, from which on an index had better be built anew


def fitness_notes(index: Index) -> list[str]:
    """How much an approximate index finds, and what would be better; nothing for one that misses nothing."""
    lines = []
    recall = index.card["recall"]
    if recall:
        lines.append(recall_text(recall))
        when_built = recall.get("when_built", recall["value"])
        if recall["value"] < when_built - LOST:
            lines.append(
                f"recall@{recall['at']} was {when_built:.4f} when the index was built; build it anew, of all its "
                f"{index.noun}s: {build_command(index)}"
            )
    advice = index.advice()
    if advice:
        lines.append(advice)
    return lines


def recall_text(recall: dict) -> str:
    """What a card says of recall, and what it is true of."""
    text = f"recall@{recall['at']} against exact search: {recall['value']:.4f} ({counted(recall['queries'], 'query')})"
    if recall.get("changes") == 0:
        return text
    if "changes" in recall:
        since = f"{counted(recall['changes'], 'change', ',')} since"
    else:
        since = "how many changes since is not known"
    return f"{text}, measured when it held {counted(recall['items'], 'item', ',')}; {since}"


def build_command(index: Index) -> str:
    """The line that makes an index like this one in its place, but for the images."""
    card = index.card
    flags = {"overwrite": True, "backend": card["backend"]}
    for option in BACKENDS.options(card["backend"]):
        value = card["options"].get(option.name)
        if value not in (None, option.default):
            flags[option.name] = value
    source = (card["origin"] or {}).get("pretrained_model")
    if isinstance(source, str):
        flags["pretrained_model"] = shown_path(source)
    words = [shlex.quote(shown_path(index.folder))]
    words += [shlex.quote(f"--{name}={value}") for name, value in flags.items()]
    return printable(" ".join(["python search.py build", *words, "--input ..."]))
