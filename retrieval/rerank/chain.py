"""Re-rankers by name, one after the other."""

from collections.abc import Iterable

from core.errors import InputError
from retrieval.rerank._steps import POSTPROCESSORS, PairDistances


def chain_options(names: Iterable[str], given: dict[str, object]) -> dict[str, object]:
    """The options of the re-rankers `names`, {option: value}: what is `given`, else their defaults."""
    options = {}
    for name in names:
        for option in POSTPROCESSORS.options(name):
            options[option.name] = given.get(option.name, option.default)
    return options


def open_chain(
    names: Iterable[str], given: dict[str, object], distance: str, pair_distances: PairDistances | None = None
) -> list:
    """The re-rankers `names` with their options out of `given`. Raises InputError where one does not fit.

    pair_distances: for those that look at pairs; None to see whether all options fit.
    """
    names = list(names)
    for name in names:
        if distance != "cosine" and POSTPROCESSORS.fact(name, "cosine_only"):
            raise InputError(f"{name} goes by cosine and does not work with --distance={distance}")
    chain = []
    for name in names:
        handed = {"pair_distances": pair_distances} if POSTPROCESSORS.fact(name, "of_pairs") else {}
        chain.append(POSTPROCESSORS[name](**handed, **chain_options([name], given)))
    return chain
