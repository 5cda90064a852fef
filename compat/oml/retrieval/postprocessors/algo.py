"""OML's thresholds on results."""

from compat.oml.interfaces.retrieval import IRetrievalPostprocessor
from compat.oml.retrieval.retrieval_results import RetrievalResults
from retrieval.rerank import AdaptiveThreshold, ConstantThreshold


class ConstantThresholding(IRetrievalPostprocessor):
    """Keeps items that are closer than `th`."""

    def __init__(self, th: float) -> None:
        self.th = th

    def process(self, rr: RetrievalResults, dataset: object = None) -> RetrievalResults:
        """Results without the rest; a dataset is taken and not looked at."""
        return ConstantThreshold(self.th).process(rr)


class AdaptiveThresholding(IRetrievalPostprocessor):
    """Cuts each list before its first gap between two distances that is over `n_std` mean gaps wide."""

    def __init__(self, n_std: float = 2.0) -> None:
        self.n_std = n_std

    def process(self, rr: RetrievalResults, dataset: object = None) -> RetrievalResults:
        """Results without the rest; a dataset is taken and not looked at."""
        return AdaptiveThreshold(self.n_std).process(rr)


__all__ = ["AdaptiveThresholding", "ConstantThresholding"]
