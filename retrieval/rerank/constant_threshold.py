"""Results no farther than a distance."""

from retrieval.candidates import NOWHERE
from retrieval.rerank._steps import POSTPROCESSORS, cut


@POSTPROCESSORS.register("constant_threshold")
class ConstantThreshold:
    """Keep what is closer than a distance (1 - cosine, or squared Euclidean), as OML's ConstantThresholding does.

    Options:
        threshold: distance from which on items are dropped
    """

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def process(self, results, task=None):
        distances, ids = results.padded_distances, results.padded_ids
        return cut(results, ((distances < self.threshold) & (ids != NOWHERE)).sum(1))
