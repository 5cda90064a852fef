"""OML's results of retrieval and what is done to them."""

from compat.oml.retrieval.pairwise import PairwiseReranker
from compat.oml.retrieval.results import RetrievalResults
from compat.oml.retrieval.thresholds import AdaptiveThresholding, ConstantThresholding

__all__ = ["AdaptiveThresholding", "ConstantThresholding", "PairwiseReranker", "RetrievalResults"]
