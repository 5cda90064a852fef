"""Flags of pytorch-metric-learning's classes: the keywords of a loss, those of its miner and distance with a prefix."""

from collections.abc import Container
from dataclasses import replace

from config.signatures import Flag
from core.pml import PmlClass, classes, loss_class
from core.types import boolean, literal, literal_or_text, one_of

PML_MINER, PML_DISTANCE = "pml_miner", "pml_distance"


def flags_of_pml(loss_name: str, miner: str, distance: str, taken: Container[str]) -> list[Flag]:
    """The flags that a loss pml:NAME brings, with a miner and a distance of those names; `none` is none.

    A name that is none of the package's brings no flags; the flag itself will refuse it. taken: names of flags that
    mean something else; a keyword of such a name is the flag --pml_KEYWORD.
    """
    loss = loss_class(loss_name)
    flags = _options(loss, "")
    for flag, kind, chosen, what in (
        (PML_MINER, "miners", miner, "which pairs or triplets the loss looks at"),
        (PML_DISTANCE, "distances", distance, "distance of the loss and of its miner"),
    ):
        there_are = classes(kind)
        text = f"{what}, one of {', '.join(there_are)}, or none for the loss's own"
        flags.append(Flag(flag, flag, "none", one_of([*there_are, "none"]), text, loss_name))
        if chosen in there_are:
            flags += _options(there_are[chosen], f"{flag}_")
    return [replace(flag, name=f"pml_{flag.name}") if flag.name in taken else flag for flag in flags]


def _options(described: PmlClass, prefix: str) -> list[Flag]:
    flags = []
    for name, default in described.options.items():
        if isinstance(default, bool):
            read = boolean
        elif isinstance(default, str):
            read = literal_or_text
        else:
            read = literal
        flags.append(Flag(prefix + name, prefix + name, default, read, f"{name} of {described.name}", described.name))
    return flags
