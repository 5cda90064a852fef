"""Re-ranking by whoever looks at both items of a pair."""

import torch

from core.errors import InputError
from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.rerank._steps import POSTPROCESSORS, PairDistances
from retrieval.results import RetrievalResults

# Between what was reordered and what stands behind it, as Open Metric Learning has it.
GAP = 1000 * 2**-23


@POSTPROCESSORS.register("pairwise", cosine_only=False, of_pairs=True)
class Pairwise:
    """Reorder each query's first items by the distances that a network gives the pairs of query and item.

    As Open Metric Learning's PairwiseReranker: what stands behind the first items stays as it is. Where the last new
    distance is larger than the first old one behind it, all new ones of that query are multiplied by the ratio of both,
    less a small gap, so that distances still rise. Equal new distances keep the order of the old ones.

    Options:
        pairwise_model: the run of train_reranker.py whose network looks at the pairs
        top_n: so many first items of each query are reordered, 2 or more
        symmetric: take the mean of the distances of (query, item) and (item, query)
    """

    def __init__(
        self,
        pair_distances: PairDistances | None,
        pairwise_model: str | None = None,
        top_n: int = 5,
        symmetric: bool = False,
    ):
        if pairwise_model is None and pair_distances is None:
            raise InputError("--postprocess=pairwise needs --pairwise_model, a run of train_reranker.py")
        if top_n < 2:
            raise InputError(f"top_n is {top_n}; at least two items have to be put in order")
        self.pair_distances = pair_distances
        self.top_n = top_n

    def process(self, results: RetrievalResults, query_gallery: QueryGallery) -> RetrievalResults:
        queries, items = pairs_of(results, query_gallery, self.top_n)
        if not len(queries):
            return results
        ids = results.padded_ids[:, : self.top_n]
        is_item = ids != NOWHERE
        new = self.pair_distances(queries, items).to(ids.device, torch.float32)
        if not new.isfinite().all():
            pair = int((~new.isfinite()).nonzero()[0])
            raise InputError(
                f"the pair of rows {int(queries[pair])} and {int(items[pair])} has the distance {float(new[pair])}; "
                "distances have to be finite"
            )
        distances = torch.full(ids.shape, torch.inf, device=ids.device)
        distances[is_item] = new
        distances, order = distances.sort(dim=1, stable=True)

        rest = results.padded_distances[:, self.top_n :]
        if rest.shape[1]:
            distances = below(distances, rest[:, :1])
        distances = torch.cat([distances, rest], dim=1)
        ids = torch.cat([ids.gather(1, order), results.padded_ids[:, self.top_n :]], dim=1)
        return results.replaced(distances, ids)


def pairs_of(results: RetrievalResults, query_gallery: QueryGallery, top_n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of queries (P,), rows of items (P,)) of each query with each of its first items, on the CPU."""
    ids = results.padded_ids[:, :top_n]
    is_item = ids != NOWHERE
    queries = query_gallery.query_rows.to(ids.device)[:, None].expand_as(ids)
    return queries[is_item].cpu(), ids[is_item].cpu()


def below(distances: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Rising distances (Q, n), where the last is above the limit (Q, 1) scaled to end a gap below it.

    Infinity stands behind the last item of a list, which has no limit then.
    """
    last = distances[:, -1:]
    is_above = last > limit
    # Rounding may leave a distance a little below 0, by which an order would turn round.
    scaled = distances * (limit / last).clamp_min(0) - GAP
    # A gap is nothing beside large distances, where rounding alone might pass the limit.
    return torch.where(is_above, torch.minimum(scaled, limit), distances)
