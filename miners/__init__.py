"""Every miner by name: which pairs or triplets of a batch a loss looks at.

`miner(embeddings, labels, reference=None)` gives `Triplets` or `Pairs`; columns are the batch's rows, then the
reference's. A new miner is a new file here with one `@MINERS.register(...)` line, and its import below.
"""

from miners._forms import as_pairs, as_triplets
from miners._registry import MINERS
from miners.all import AllMiner
from miners.distance_weighted import DistanceWeightedMiner
from miners.easy_positive import EasyPositiveMiner
from miners.hard import HardMiner
from miners.hard_cluster import HardClusterMiner
from miners.multi_similarity import MultiSimilarityMiner
from miners.nhard import NHardMiner
from miners.pairs import PairsMiner
from miners.semihard import SemihardMiner

__all__ = [
    "MINERS",
    "AllMiner",
    "DistanceWeightedMiner",
    "EasyPositiveMiner",
    "HardClusterMiner",
    "HardMiner",
    "MultiSimilarityMiner",
    "NHardMiner",
    "PairsMiner",
    "SemihardMiner",
    "as_pairs",
    "as_triplets",
]
