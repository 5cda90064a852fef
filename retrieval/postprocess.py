"""From results to results: thresholds, query expansion, database augmentation, k-reciprocal re-ranking.

A post-processor is made with its options and called by `process(results, task)`: it returns other RetrievalResults and
leaves what it was given as it is, so that several make a chain. `task` is the search that the results come from, by
cosine for all that search again.
"""

from dataclasses import replace

import torch

from errors import InputError
from registry import Registry
from retrieval.reciprocal import averaged, encoded, jaccard_distances, neighbours, one_set
from retrieval.results import RetrievalResults, as_distances
from retrieval.search import NOWHERE, search

POSTPROCESSORS = Registry("post-processor")


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


@POSTPROCESSORS.register("query_expansion")
class QueryExpansion:
    """Search again with each query's sum of itself and its nearest items, weighted by cosine^alpha (αQE).

    Radenović, Tolias, Chum, arXiv 1711.02512 §3.3. Cosine distance only. Results have as many items as before.

    Options:
        qe_items: nearest items to add
        qe_alpha: power of their cosines, which below 0 count as 0
    """

    def __init__(self, qe_items=3, qe_alpha=3.0):
        self.items, self.alpha = _at_least_one(qe_items, "qe_items"), qe_alpha

    def process(self, results, task):
        table = expanded(task.query_table[task.query_rows], results, task.gallery_table, self.items, self.alpha)
        rows = torch.arange(len(table), device=table.device)
        return searched_again(results, replace(task, query_table=table, query_rows=rows))


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
        self.items, self.alpha = _at_least_one(dba_items, "dba_items"), dba_alpha

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


@POSTPROCESSORS.register("k_reciprocal")
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

    def __init__(self, k1=20, k2=6, reciprocal_lambda=0.3):
        if k1 < 1 or k2 < 1 or not 0 <= reciprocal_lambda <= 1:
            raise InputError(
                f"k1={k1}, k2={k2}, reciprocal_lambda={reciprocal_lambda}: k1 and k2 are 1 or more, lambda is 0 to 1"
            )
        self.k1, self.k2, self.share = k1, k2, reciprocal_lambda

    def process(self, results, task):
        everyone, queries, place_of_row = one_set(task)
        near = neighbours(everyone, max(self.k1, self.k2 - 1))
        vectors = averaged(encoded(everyone, near, self.k1), near[:, : self.k2])
        ids, order = results.padded_ids.sort(1)  # so that equal distances go by the smaller row
        jaccard = jaccard_distances(vectors, queries, place_of_row[ids.clamp_min(0)])
        distances = (1 - self.share) * jaccard + self.share * results.padded_distances.gather(1, order)
        distances, order = distances.masked_fill(ids == NOWHERE, torch.inf).sort(dim=1, stable=True)
        return results.replaced(distances, ids.gather(1, order))


def expanded(rows, results, table, items, alpha):
    """Unit vectors of rows (n, D) plus those of each row's first `items` results in `table`, weighted by cosine."""
    ids = results.padded_ids[:, :items].to(table.device)
    cosines = (1 - results.padded_distances[:, :items]).to(table.device).clamp_min(0)
    weights = torch.where(ids == NOWHERE, 0, cosines**alpha)
    total = torch.nn.functional.normalize(rows.float(), dim=1)
    for column, weight in zip(ids.T, weights.T):
        total += weight[:, None] * torch.nn.functional.normalize(table[column.clamp_min(0)].float(), dim=1)
    return total


def searched_again(results, task):
    """Results of another task for the same queries and labels, as many items each."""
    ids, scores = search(task, results.padded_ids.shape[1])
    return results.replaced(as_distances(scores, "cosine"), ids)


def cut(results, counts):
    """The first counts (Q,) items of each query."""
    beyond = torch.arange(results.padded_ids.shape[1], device=counts.device) >= counts[:, None]
    ids = results.padded_ids.masked_fill(beyond, NOWHERE)
    return results.replaced(results.padded_distances.masked_fill(beyond, torch.inf), ids)


def _at_least_one(value, name):
    if value < 1:
        raise InputError(f"{name} is {value}; at least one item has to be added")
    return value
