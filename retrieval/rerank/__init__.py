"""Better results out of results; a re-ranker is a file here with one `@POSTPROCESSORS.register(...)` line."""

from retrieval.rerank._steps import POSTPROCESSORS, PairDistances
from retrieval.rerank.adaptive_threshold import AdaptiveThreshold
from retrieval.rerank.chain import chain_options, open_chain
from retrieval.rerank.constant_threshold import ConstantThreshold
from retrieval.rerank.database_augmentation import DatabaseAugmentation
from retrieval.rerank.k_reciprocal import KReciprocal
from retrieval.rerank.pairwise import Pairwise, pairs_of
from retrieval.rerank.query_expansion import QueryExpansion

__all__ = [
    "POSTPROCESSORS",
    "AdaptiveThreshold",
    "ConstantThreshold",
    "DatabaseAugmentation",
    "KReciprocal",
    "PairDistances",
    "Pairwise",
    "QueryExpansion",
    "chain_options",
    "open_chain",
    "pairs_of",
]
