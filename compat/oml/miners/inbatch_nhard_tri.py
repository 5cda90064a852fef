"""The hardest positives of each anchor with its hardest negatives."""

from collections.abc import Sequence

from compat.oml._errors import RefusedAssertion, RefusedType, raised_as
from compat.oml.miners._by_ours import MinerByOurs
from miners.nhard import NHardMiner


class NHardTripletsMiner(MinerByOurs):
    """n: the n hardest; (a, b): those from the a-th to the b-th hardest, from 1 on."""

    def __init__(self, n_positive: int | Sequence[int] = 1, n_negative: int | Sequence[int] = 1) -> None:
        with raised_as(RefusedAssertion):
            self.miner = NHardMiner(_ranks("n_positive", n_positive), _ranks("n_negative", n_negative))


def _ranks(name: str, ranks: int | Sequence[int]) -> int | tuple[int, int]:
    if isinstance(ranks, int):
        return ranks
    if isinstance(ranks, (list, tuple)) and len(ranks) == 2:
        return tuple(ranks)
    raise RefusedType(f"{name} is {ranks!r}; it is a number or a pair of them")


__all__ = ["NHardTripletsMiner"]
