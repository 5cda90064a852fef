"""Gallery items moved towards their own neighbours, before queries are searched again."""

from dataclasses import replace

import torch

from retrieval.rerank._steps import POSTPROCESSORS, at_least_one, expanded, searched_again
from retrieval.results import RetrievalResults


@POSTPROCESSORS.register("database_augmentation")
class DatabaseAugmentation:
    """Search again in a gallery of which each item is the sum of itself and its nearest items there (DBA).

    Arandjelović and Zisserman, CVPR 2012 (DOI 10.1109/CVPR.2012.6248018) §4; weights as in query_expansion. Queries
    stay as they are.

    Options:
        dba_items: nearest items to add
        dba_alpha: power of their cosines, which below 0 count as 0
    """

    def __init__(self, dba_items=3, dba_alpha=3.0):
        self.items, self.alpha = at_least_one(dba_items, "dba_items"), dba_alpha

    def process(self, results, task):
        inside = replace(
            task,
            query_table=task.gallery_table,
            query_rows=task.gallery_rows,
            own_rows=task.gallery_rows,
            query_labels=None,
            gallery_labels=None,
            query_sequences=None,
            gallery_sequences=None,
        )
        neighbours = RetrievalResults.from_task(inside, self.items)
        gallery = task.gallery_table[task.gallery_rows]
        table = torch.zeros_like(task.gallery_table, dtype=torch.float32)
        table[task.gallery_rows] = expanded(gallery, neighbours, task.gallery_table, self.items, self.alpha)
        return searched_again(results, replace(task, gallery_table=table))
