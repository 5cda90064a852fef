"""Results up to the widest gap between two distances."""

import torch

from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS, first_items
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("adaptive_threshold", cosine_only=False)
class AdaptiveThreshold:
    """Cut each query's list before its first gap in distance that is wide beside the mean gap of all queries.

    As OML's AdaptiveThresholding, whose n_std is this factor; lists of one item have no gap and stay.

    Options:
        gap_factor: so many mean gaps are a wide one
    """

    def __init__(self, gap_factor: float = 2.0):
        self.gap_factor = gap_factor

    def process(self, results: RetrievalResults, query_gallery: QueryGallery | None = None) -> RetrievalResults:
        counts = results.counts
        distances = results.padded_distances
        gaps = distances[:, 1:] - distances[:, :-1]
        # The padding behind a list is infinitely far, which is no gap within it.
        is_inside = torch.arange(1, distances.shape[1], device=distances.device) < counts[:, None]
        if not is_inside.any():
            return results
        is_wide = is_inside & (gaps > self.gap_factor * gaps[is_inside].double().mean())
        first_wide = is_wide.double().argmax(1) + 1
        return first_items(results, torch.where(is_wide.any(1), first_wide, counts))
