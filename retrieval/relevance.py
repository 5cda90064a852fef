"""Which gallery rows are right for which query, without a list for each."""

from dataclasses import dataclass

import torch

from retrieval.candidates import NOWHERE


@dataclass(frozen=True)
class Relevance:
    """Which gallery rows are right for which query, by groups, so that a label's rows are held once.

    keys (M,) int64, ascending: group << 32 | gallery row. group, own, positives (Q,) int64: the query's group, the row
    that is the query itself (-1: none), and how many rows of its group it can find. query_sequences (Q,), sequences
    (M,): int64 or None; a row of the query's own sequence is not right either.
    """

    keys: torch.Tensor
    group: torch.Tensor
    own: torch.Tensor
    positives: torch.Tensor
    query_sequences: torch.Tensor | None = None
    sequences: torch.Tensor | None = None

    @classmethod
    def of_task(cls, task):
        """Rows of the query's label; None where labels are unknown."""
        if task.query_labels is None:
            return None
        keys, order = (task.gallery_labels << 32 | task.gallery_rows).sort()
        sequences = None if task.gallery_sequences is None else task.gallery_sequences[order]
        return cls(keys, task.query_labels, task.own_rows, task.positives(), task.query_sequences, sequences)

    @classmethod
    def of_lists(cls, lists):
        """One list of gallery rows for each query."""
        positives = torch.tensor([len(rows) for rows in lists], dtype=torch.int64)
        group = torch.arange(len(lists))
        rows = torch.cat([torch.as_tensor(rows, dtype=torch.int64) for rows in lists] or [group])
        keys = (group.repeat_interleave(positives) << 32 | rows).sort().values
        return cls(keys, group, torch.full_like(group, NOWHERE), positives)

    def hits(self, ids):
        """(Q, K) bool: which of ids (Q, K), -1 where there is none, are right."""
        wanted = self.group[:, None] << 32 | ids
        place = torch.searchsorted(self.keys, wanted).clamp_max(max(0, len(self.keys) - 1))
        if not len(self.keys):
            return torch.zeros_like(ids, dtype=torch.bool)
        right = (self.keys[place] == wanted) & (ids != NOWHERE) & (ids != self.own[:, None])
        if self.sequences is not None:
            right &= self.sequences[place] != self.query_sequences[:, None]
        return right

    def rows(self, query):
        """The gallery rows that are right for one query, (P,) int64, ascending."""
        ends = torch.stack([self.group[query], self.group[query] + 1]) << 32
        start, stop = torch.searchsorted(self.keys, ends).tolist()
        rows = self.keys[start:stop] & 0xFFFFFFFF
        right = rows != self.own[query]
        if self.sequences is not None:
            right &= self.sequences[start:stop] != self.query_sequences[query]
        return rows[right]
