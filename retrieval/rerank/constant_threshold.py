"""Results no farther than a distance."""

from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS, first_items
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("constant_threshold", cosine_only=False)
class ConstantThreshold:
    """Keep what is closer than a distance (1 - cosine, or squared Euclidean), as OML's ConstantThresholding does.

    Options:
        threshold: distance from which on items are dropped
    """

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold

    def process(self, results: RetrievalResults, query_gallery: QueryGallery | None = None) -> RetrievalResults:
        is_near = (results.padded_distances < self.threshold) & (results.padded_ids != NOWHERE)
        return first_items(results, is_near.sum(1))
