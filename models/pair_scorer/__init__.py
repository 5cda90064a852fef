"""Networks that look at two inputs and say how far apart they are; a new one is a new file here and its import."""

from models.pair_scorer._scorer import PAIR_SCORERS, EmbeddingScorer, PairScorer
from models.pair_scorer.build import build_pair_scorer, fast_scorer, open_pair_scorer
from models.pair_scorer.concat_siamese import ConcatSiamese
from models.pair_scorer.linear_siamese import LinearSiamese
from models.pair_scorer.trivial_distance_siamese import TrivialDistanceSiamese

__all__ = [
    "PAIR_SCORERS",
    "ConcatSiamese",
    "EmbeddingScorer",
    "LinearSiamese",
    "PairScorer",
    "TrivialDistanceSiamese",
    "build_pair_scorer",
    "fast_scorer",
    "open_pair_scorer",
]
