"""Which gallery rows are right for which query, without a list for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery

ROW_BITS = 32  # of a key; the group stands above them
ROW_MASK = 2**ROW_BITS - 1


@dataclass(frozen=True)
class Relevance:
    """Which gallery rows are right for which query, by groups, so that a label's rows are held once.

    keys (M,) int64, ascending: group << 32 | gallery row. group, own, positives (Q,) int64: the query's group, the row
    that is the query itself (-1: none), and how many rows of its group it can find. query_sequences (Q,), sequences
    (M,): int64 or None; a row of the query's own sequence is not right either. The names of the fields stand in saved
    results.
    """

    keys: torch.Tensor
    group: torch.Tensor
    own: torch.Tensor
    positives: torch.Tensor
    query_sequences: torch.Tensor | None = None
    sequences: torch.Tensor | None = None

    @classmethod
    def of_labels(cls, query_gallery: QueryGallery) -> "Relevance | None":
        """Rows of the query's label; None where labels are unknown."""
        if query_gallery.query_labels is None:
            return None
        # One sorted column holds who is right for whom: label in the upper half, row in the lower.
        keys, order = (query_gallery.gallery_labels << ROW_BITS | query_gallery.gallery_rows).sort()
        sequences = query_gallery.gallery_sequences
        return cls(
            keys=keys,
            group=query_gallery.query_labels,
            own=query_gallery.self_rows,
            positives=query_gallery.positives(),
            query_sequences=query_gallery.query_sequences,
            sequences=None if sequences is None else sequences[order],
        )

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int] | torch.Tensor]) -> "Relevance":
        """One list of gallery rows for each query."""
        positives = torch.tensor([len(rows) for rows in lists], dtype=torch.int64)
        # Each query is a group of its own.
        group = torch.arange(len(lists))
        rows = torch.zeros(0, dtype=torch.int64)
        if len(lists):
            rows = torch.cat([torch.as_tensor(rows, dtype=torch.int64) for rows in lists])
        keys = (group.repeat_interleave(positives) << ROW_BITS | rows).sort().values
        return cls(keys, group, torch.full_like(group, NOWHERE), positives)

    def hits(self, ids: torch.Tensor) -> torch.Tensor:
        """(Q, K) bool: which of ids (Q, K), -1 where there is none, are right."""
        if not len(self.keys):
            return torch.zeros_like(ids, dtype=torch.bool)
        wanted = self.group[:, None] << ROW_BITS | ids
        # An id is right if its key with the query's group is there.
        place = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        is_right = (self.keys[place] == wanted) & (ids != NOWHERE) & (ids != self.own[:, None])
        if self.sequences is not None:
            is_right &= self.sequences[place] != self.query_sequences[:, None]
        return is_right

    def rows(self, query: int) -> torch.Tensor:
        """The gallery rows that are right for one query, (P,) int64, ascending."""
        ends = torch.stack([self.group[query], self.group[query] + 1]) << ROW_BITS
        start, stop = torch.searchsorted(self.keys, ends).tolist()
        rows = self.keys[start:stop] & ROW_MASK
        is_right = rows != self.own[query]
        if self.sequences is not None:
            is_right &= self.sequences[start:stop] != self.query_sequences[query]
        return rows[is_right]
