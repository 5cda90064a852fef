"""Queries moved towards what they found, and searched again."""

from dataclasses import replace

import torch

from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS, at_least_one, expanded, searched_again
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("query_expansion", cosine_only=True)
class QueryExpansion:
    """Search again with each query's sum of itself and its nearest items, weighted by cosine^alpha (αQE).

    Radenović, Tolias, Chum, arXiv 1711.02512 §3.3. Cosine distance only. Results have as many items as before.

    Options:
        qe_items: nearest items to add
        qe_alpha: power of their cosines, which below 0 count as 0
    """

    def __init__(self, qe_items: int = 3, qe_alpha: float = 3.0):
        self.items = at_least_one(qe_items, "qe_items")
        self.alpha = qe_alpha

    def process(self, results: RetrievalResults, query_gallery: QueryGallery) -> RetrievalResults:
        queries = query_gallery.query_table[query_gallery.query_rows]
        table = expanded(queries, results, query_gallery.gallery_table, self.items, self.alpha)
        # The moved queries are a table of their own; self_rows still say which gallery row each is.
        rows = torch.arange(len(table), device=table.device)
        return searched_again(results, replace(query_gallery, query_table=table, query_rows=rows))
