"""OML's results of retrieval and what is done to them."""

from compat.oml.retrieval.postprocessors.algo import AdaptiveThresholding, ConstantThresholding
from compat.oml.retrieval.postprocessors.pairwise import PairwiseReranker
from compat.oml.retrieval.retrieval_results import RetrievalResults

__all__ = ["AdaptiveThresholding", "ConstantThresholding", "PairwiseReranker", "RetrievalResults"]
