"""Gallery items moved towards their own neighbours, before queries are searched again."""

from dataclasses import replace

import torch

from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS, at_least_one, expanded, searched_again
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("database_augmentation", cosine_only=True)
class DatabaseAugmentation:
    """Search again in a gallery of which each item is the sum of itself and its nearest items there (DBA).

    Arandjelović and Zisserman, CVPR 2012 (DOI 10.1109/CVPR.2012.6248018) §4; weights as in query_expansion. Queries
    stay as they are.

    Options:
        dba_items: nearest items to add
        dba_alpha: power of their cosines, which below 0 count as 0
    """

    def __init__(self, dba_items: int = 3, dba_alpha: float = 3.0):
        self.items = at_least_one(dba_items, "dba_items")
        self.alpha = dba_alpha

    def process(self, results: RetrievalResults, query_gallery: QueryGallery) -> RetrievalResults:
        gallery_rows = query_gallery.gallery_rows
        # The gallery against itself; neither labels nor sequences have a say in what an item is moved to.
        within_gallery = replace(
            query_gallery,
            query_table=query_gallery.gallery_table,
            query_rows=gallery_rows,
            self_rows=gallery_rows,
            query_labels=None,
            gallery_labels=None,
            query_sequences=None,
            gallery_sequences=None,
        )
        neighbours = RetrievalResults.from_query_gallery(within_gallery, self.items)
        items = query_gallery.gallery_table[gallery_rows]
        table = torch.zeros_like(query_gallery.gallery_table, dtype=torch.float32)
        table[gallery_rows] = expanded(items, neighbours, query_gallery.gallery_table, self.items, self.alpha)
        return searched_again(results, replace(query_gallery, gallery_table=table))
