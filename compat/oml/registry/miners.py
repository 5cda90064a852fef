"""OML's names of miners."""

from collections.abc import Mapping
from typing import Any

from compat.oml._tables import entry, options_of
from compat.oml.interfaces.miners import ITripletsMiner
from compat.oml.miners import (
    AllTripletsMiner,
    HardClusterMiner,
    HardTripletsMiner,
    MinerWithBank,
    NHardTripletsMiner,
    TripletMinerWithMemory,
)

MINERS_REGISTRY = {
    "all_triplets": AllTripletsMiner,
    "hard_cluster": HardClusterMiner,
    "hard_triplets": HardTripletsMiner,
    "triplets_with_memory": TripletMinerWithMemory,
    "miner_with_bank": MinerWithBank,
    "n_hard_triplets": NHardTripletsMiner,
}


def get_miner(name: str, **options: Any) -> ITripletsMiner:
    """The miner of that name; `miner` is the section of one within it. Raises UnknownName."""
    if "miner" in options:
        options["miner"] = get_miner_by_cfg(options["miner"])
    return entry("miner", name, MINERS_REGISTRY)(**options)


def get_miner_by_cfg(cfg: Mapping[str, Any]) -> ITripletsMiner:
    """The miner of a section."""
    return get_miner(cfg["name"], **options_of(cfg))


__all__ = ["MINERS_REGISTRY", "get_miner", "get_miner_by_cfg"]
