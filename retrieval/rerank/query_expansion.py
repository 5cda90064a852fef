"""Queries moved towards what they found, and searched again."""

from dataclasses import replace

import torch

from retrieval.rerank._steps import POSTPROCESSORS, at_least_one, expanded, searched_again


@POSTPROCESSORS.register("query_expansion")
class QueryExpansion:
    """Search again with each query's sum of itself and its nearest items, weighted by cosine^alpha (αQE).

    Radenović, Tolias, Chum, arXiv 1711.02512 §3.3. Cosine distance only. Results have as many items as before.

    Options:
        qe_items: nearest items to add
        qe_alpha: power of their cosines, which below 0 count as 0
    """

    def __init__(self, qe_items=3, qe_alpha=3.0):
        self.items, self.alpha = at_least_one(qe_items, "qe_items"), qe_alpha

    def process(self, results, task):
        table = expanded(task.query_table[task.query_rows], results, task.gallery_table, self.items, self.alpha)
        rows = torch.arange(len(table), device=table.device)
        return searched_again(results, replace(task, query_table=table, query_rows=rows))
