"""The hardest triplet of each anchor."""

from compat.oml.miners._by_ours import MinerByOurs
from miners.hard import HardMiner


class HardTripletsMiner(MinerByOurs):
    """Each row with its farthest positive and its nearest negative."""

    def __init__(self) -> None:
        self.miner = HardMiner()


__all__ = ["HardTripletsMiner"]
