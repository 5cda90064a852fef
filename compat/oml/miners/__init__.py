"""OML's miners: features and labels to triplets of features."""

from compat.oml.miners.cross_batch import TripletMinerWithMemory
from compat.oml.miners.inbatch_all_tri import AllTripletsMiner, get_available_triplets
from compat.oml.miners.inbatch_hard_cluster import HardClusterMiner
from compat.oml.miners.inbatch_hard_tri import HardTripletsMiner
from compat.oml.miners.inbatch_nhard_tri import NHardTripletsMiner
from compat.oml.miners.miner_with_bank import MinerWithBank
from compat.oml.miners.pairs import PairsMiner

__all__ = [
    "AllTripletsMiner",
    "HardClusterMiner",
    "HardTripletsMiner",
    "MinerWithBank",
    "NHardTripletsMiner",
    "PairsMiner",
    "TripletMinerWithMemory",
    "get_available_triplets",
]
