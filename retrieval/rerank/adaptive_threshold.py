"""Results up to the widest gap between two distances."""

import torch

from retrieval.rerank._steps import POSTPROCESSORS, cut


@POSTPROCESSORS.register("adaptive_threshold")
class AdaptiveThreshold:
    """Cut each query's list before its first gap in distance that is wide beside the mean gap of all queries.

    As OML's AdaptiveThresholding, whose n_std is this factor; lists of one item have no gap and stay.

    Options:
        gap_factor: so many mean gaps are a wide one
    """

    def __init__(self, gap_factor=2.0):
        self.gap_factor = gap_factor

    def process(self, results, task=None):
        counts, distances = results.counts, results.padded_distances
        gaps = distances[:, 1:] - distances[:, :-1]
        inside = torch.arange(1, distances.shape[1], device=distances.device) < counts[:, None]
        if not inside.any():
            return results
        wide = inside & (gaps > self.gap_factor * gaps[inside].double().mean())
        return cut(results, torch.where(wide.any(1), wide.double().argmax(1) + 1, counts))
