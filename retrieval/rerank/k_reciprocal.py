"""Re-ranking by shared neighbours (Zhong et al., 2017, arXiv 1701.08398)."""

import torch

from core.errors import InputError
from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.rerank._reciprocal import averaged, encoded, jaccard_distances, joined, neighbours
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("k_reciprocal", cosine_only=True)
class KReciprocal:
    """Reorder each query's items by how much their neighbourhoods have in common with the query's.

    Zhong et al., arXiv 1701.08398, eq. 3 to 12, on all queries and gallery items as one set. Unlike there, distances
    (1 - cosine) are not divided by their maximum, and only the items that a query has retrieved are reordered. The
    figures are transductive: they use the whole gallery and all queries.

    Options:
        k1: neighbours that make a neighbourhood; a few more than a label usually has images
        k2: items whose neighbourhoods are averaged, the item itself among them; 1 for none
        reciprocal_lambda: share of the old distance in the new
    """

    def __init__(self, k1: int = 20, k2: int = 6, reciprocal_lambda: float = 0.3):
        if k1 < 1 or k2 < 1 or not 0 <= reciprocal_lambda <= 1:
            raise InputError(
                f"k1={k1}, k2={k2}, reciprocal_lambda={reciprocal_lambda}: k1 and k2 are 1 or more, lambda is 0 to 1"
            )
        self.k1 = k1
        self.k2 = k2
        self.share = reciprocal_lambda

    def process(self, results: RetrievalResults, query_gallery: QueryGallery) -> RetrievalResults:
        # Neighbourhoods are those among queries and gallery items together.
        everyone = joined(query_gallery)
        near = neighbours(everyone.query_gallery, max(self.k1, self.k2 - 1))
        vectors = encoded(everyone.query_gallery, near, self.k1)
        vectors = averaged(vectors, near[:, : self.k2])
        ids, order = results.padded_ids.sort(1)  # so that equal distances go by the smaller row
        items = everyone.position_of_gallery_row[ids.clamp_min(0)]
        jaccard = jaccard_distances(vectors, everyone.query_positions, items)
        distances = (1 - self.share) * jaccard + self.share * results.padded_distances.gather(1, order)
        distances, order = distances.masked_fill(ids == NOWHERE, torch.inf).sort(dim=1, stable=True)
        return results.replaced(distances, ids.gather(1, order))
