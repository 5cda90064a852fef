"""The rank of each query's best positive, by counting what beats it: no sort, no top-k, all of N x N never held."""

import math

import torch

from retrieval.blocks import block_side, overlap, products
from retrieval.scores import Scores

MEMORY = 256 * 2**20
COUNTED_BYTES = 8 * 2**20  # rows that are counted are copied in pieces of so many bytes
MOST_APART = 0.5  # where more than this share is undecided all are counted again, for the sake of the symmetry
PRECISIONS = [torch.bfloat16, torch.float32, torch.float64]
NONE = 2**62  # a row that stands behind all others


@torch.no_grad()
def positive_ranks(task, ks=None, distance="cosine", memory=MEMORY, dtype=None, shard=None):
    """How many gallery items come before the best positive of each query, (Q,) float64; infinity without a positive.

    Exact, ties by the smaller row: see retrieval/space.py. With `ks` a rank is only as exact as to tell rank < k for
    each of them, which is less work. memory: bytes beside the embeddings and a few numbers a row. dtype: of the first
    count, None for what the device multiplies fastest; the result is the same. shard: the Shard (retrieval/shards.py)
    that is the task's gallery, where several ranks have one each; ranks are then those in all of them together.

    Gallery and queries are sorted by label, so positives stand in strips along the diagonal and all other blocks hold
    negatives only. A count gives bounds, and queries that they leave undecided are counted again, more precisely.
    """
    space = Scores(task, distance, shard.lengths, shard.frame) if shard else Scores(task, distance)
    counting = _Counting(task, space, ks, memory, shard)
    queries = counting.by_label
    first = counting.highest(torch.tensor(PRECISIONS.index(dtype or fast_dtype(task.device))))
    for precision in PRECISIONS[first:]:
        few = len(queries) < MOST_APART * len(counting.by_label)
        queries = queries if few else counting.by_label
        counting.count(queries, precision)
        queries = queries[counting.undecided(queries)]
        if not len(queries):
            break
    return counting.ranks()


def fast_dtype(device):
    """bfloat16 where the device multiplies it natively (CPU with AMX, CUDA from Ampere), else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer torch only
        native = device.type == "cpu" and capabilities.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


class _Counting:
    """Counts of gallery items before each query's best positive, as bounds that are narrowed to a number.

    All (Q,), in the task's order: `best`, the positive's fast score in float32; `sure`, items certainly before it;
    `maybe`, items whose fast score cannot tell. Where the gallery is a Shard, they are of all shards.
    """

    def __init__(self, task, space, ks, memory, shard):
        self.task, self.space, self.memory, self.shard = task, space, memory, shard
        self.rows = shard.rows[task.gallery_rows] if shard else task.gallery_rows
        self.ks = None if ks is None else torch.tensor(sorted(set(ks)), device=task.device)
        self.limit = math.inf if ks is None else max(ks)
        self.errors = space.rounding_errors("query", torch.float32)
        self.alone = self.total(task.positives()) == 0
        self.by_label = task.query_labels.argsort(stable=True)
        self.gallery = task.gallery_labels.argsort(stable=True)
        self.sorted_labels = task.gallery_labels[self.gallery]
        self.own = task.own_places()
        self.best = torch.full((len(self.own),), -math.inf, device=task.device)
        for queries, _, scores in self._strips(self.by_label, torch.float32):
            self.best[queries] = torch.maximum(self.best[queries], scores.amax(1))
        self.best = self.highest(self.best)
        self.sure = torch.zeros_like(self.own)
        self.maybe = torch.zeros_like(self.sure)

    def total(self, counts):
        return self.shard.total(counts) if self.shard else counts

    def highest(self, numbers):
        return self.shard.highest(numbers) if self.shard else numbers

    def _strips(self, queries, dtype):
        """Scores of queries (sorted by label) against their positives; what is none is -infinity.

        Yields (queries (m,), gallery places (n,), scores (m, n)).
        """
        for part in queries.split(min(512, block_side(self.space.width, dtype.itemsize, self.memory))):
            labels = self.task.query_labels[part]
            start = int(torch.searchsorted(self.sorted_labels, labels[0]))
            stop = int(torch.searchsorted(self.sorted_labels, labels[-1], right=True))
            strip = self.gallery[start:stop]
            for block in products(self.space, part, strip, dtype, self.memory):
                asking, found = part[block.rows], strip[block.columns]
                yield asking, found, block.scores.masked_fill_(~self._is_positive(asking, found), -math.inf)

    def _is_positive(self, queries, gallery):
        task = self.task
        same = task.query_labels[queries, None] == task.gallery_labels[gallery]
        same &= self.own[queries, None] != gallery
        if task.query_sequences is not None:
            same &= task.query_sequences[queries, None] != task.gallery_sequences[gallery]
        return same

    def _hide(self, scores, queries, gallery):
        """Set to -infinity what is no negative: items of the query's label (itself, too) or sequence."""
        task = self.task
        for asked, found in (
            (task.query_labels, task.gallery_labels),
            (task.query_sequences, task.gallery_sequences),
        ):
            if asked is not None and overlap(asked[queries], found[gallery]):
                scores.masked_fill_(asked[queries, None] == found[gallery], -math.inf)
        return scores

    def _bounds(self, queries, dtype):
        """Scores (low, high), float32: an item above high is before the best positive, one below low behind it."""
        gallery_error = self.space.gallery_error(torch.float32)
        errors = self.errors[queries]
        low, high = self.space.exact_range(self.best[queries], errors, gallery_error, torch.float32)
        if dtype != torch.float32:
            errors = self.space.rounding_errors("query", dtype)[queries]
            gallery_error = self.space.gallery_error(dtype)
        low, _ = self.space.fast_range(low, errors, gallery_error, dtype)
        _, high = self.space.fast_range(high, errors, gallery_error, dtype)
        return low.float(), high.float()

    def _best_exactly(self, queries):
        """Exact score (n,) float32 and gallery row of each query's best positive, the smallest row among equals."""
        best = torch.full((len(self.best),), -math.inf, device=self.best.device)
        rows = torch.full_like(self.own, NONE)
        for asking, found, scores in self._strips(queries, torch.float64):
            score = scores.amax(1)
            row = torch.where(scores == score[:, None], self.rows[found], NONE).amin(1)
            rows[asking] = torch.where(
                score > best[asking], row, torch.where(score == best[asking], rows[asking].minimum(row), rows[asking])
            )
            best[asking] = best[asking].maximum(score)
        everywhere = self.highest(best)
        rows = -self.highest(-rows.where(best == everywhere, NONE))
        return everywhere[queries], rows[queries]

    def count(self, queries, dtype):
        """Count anew for `queries`, which are sorted by label."""
        exact = dtype == torch.float64
        low, first = self._best_exactly(queries) if exact else (None, None)
        low, high = (low, low) if exact else self._bounds(queries, dtype)
        low = low.masked_fill(self.alone[queries], math.inf)  # nothing comes before what is not there
        sure, maybe = self.sure.new_zeros((2, len(queries)))
        symmetric = self.task.one_against_rest and torch.equal(queries, self.gallery)

        def wanted(rows, columns):
            return bool((sure[rows] < self.limit).any()) or symmetric and bool((sure[columns] < self.limit).any())

        for block in products(self.space, queries, self.gallery, dtype, self.memory, symmetric, wanted):
            scores = self._hide(block.scores, queries[block.rows], self.gallery[block.columns])
            sides = (block.rows, block.columns, 1), (block.columns, block.rows, 0)
            for asking, found, axis in sides[: 1 + block.twice]:
                hot = (_peaks(scores, axis, low[asking]) & (sure[asking] < self.limit)).nonzero().flatten()
                for part in hot.split(max(1, COUNTED_BYTES // (4 * scores.shape[axis]))):
                    chosen, places = scores.index_select(1 - axis, part), asking.start + part
                    above, within = _count(chosen, axis, low[places], high[places])
                    if exact:
                        rows = self.rows[self.gallery[found]]
                        above += _ties_before(chosen, axis, low[places], first[places], rows, within)
                    sure[places] += above
                    maybe[places] += within
        self.sure[queries] = self.total(sure)
        self.maybe[queries] = torch.zeros_like(maybe) if exact else self.total(maybe)

    def undecided(self, queries):
        """(n,) bool: whether the bounds leave open on which side of some k the rank is, or any rank without ks."""
        sure, maybe = self.sure[queries], self.maybe[queries]
        if self.ks is None:
            return maybe > 0
        return torch.searchsorted(self.ks, sure, right=True) != torch.searchsorted(self.ks, sure + maybe, right=True)

    def ranks(self):
        return self.sure.double().masked_fill(self.alone, math.inf)


def _peaks(scores, axis, low):
    """(n,) bool: whether any score along `axis` may reach `low` (n,)."""
    if scores.dtype == torch.bfloat16:
        # Positive bfloat16 are ordered as their bits are, and maxima of whole numbers are several times faster.
        peaks = scores.view(torch.int16).amax(axis).view(torch.bfloat16)
        return (peaks >= low) | (low <= 0)
    return scores.amax(axis) >= low


def _count(scores, axis, low, high):
    """Along `axis`: how many scores are above high (n,), and how many from low (n,) to high."""
    scores, low, high = scores.float(), low.unsqueeze(axis), high.unsqueeze(axis)
    mask = torch.empty_like(scores)  # comparisons written and summed as floats are several times faster than bools
    above = torch.gt(scores, high, out=mask).sum(axis).long()
    return above, torch.ge(scores, low, out=mask).sum(axis).long() - above


def _ties_before(scores, axis, best, first, rows, ties):
    """How many of the scores that equal best (n,) along `axis` stand in smaller gallery rows than first (n,)."""
    before = torch.zeros_like(first)
    tied = (ties > 0).nonzero().flatten()
    if len(tied):
        scores = scores.index_select(1 - axis, tied)
        earlier = rows.unsqueeze(1 - axis) < first[tied].unsqueeze(axis)
        before[tied] = ((scores == best[tied].unsqueeze(axis)) & earlier).sum(axis)
    return before
