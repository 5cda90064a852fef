"""Queries against a gallery: embeddings with their labels, flags, sequences and categories, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.errors import InputError
from core.text import counted, plural

Column = np.ndarray | torch.Tensor | Sequence


@dataclass(frozen=True)
class QueryGallery:
    """Queries against a gallery; `QueryGallery.of` (one table, the usual case) and `.apart` (two tables) make one.

    query_table, gallery_table: (N, D) floating tensors on one device; the same object where queries and gallery are
    rows of one table. query_rows (Q,), gallery_rows (G,): int64, ascending, the rows that ask and that can be found.
    self_rows (Q,): int64, the row of the gallery's table that is the query itself and that it never finds, -1 for none.
    query_labels (Q,), gallery_labels (G,): int64 codes that both share, or None where labels are unknown.
    query_sequences, gallery_sequences: likewise, or None; a query never finds an item of its own sequence.
    query_categories: (Q,) array of anything, or None; figures can be had for each.

    Elsewhere, `positions` count the queries (0 to Q - 1) or the gallery's items (0 to G - 1), `rows` those of a table.
    """

    query_table: torch.Tensor
    gallery_table: torch.Tensor
    query_rows: torch.Tensor
    gallery_rows: torch.Tensor
    self_rows: torch.Tensor
    query_labels: torch.Tensor | None = None
    gallery_labels: torch.Tensor | None = None
    query_sequences: torch.Tensor | None = None
    gallery_sequences: torch.Tensor | None = None
    query_categories: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        embeddings: np.ndarray | torch.Tensor,
        labels: Column | None = None,
        is_query: Column | None = None,
        is_gallery: Column | None = None,
        sequences: Column | None = None,
        categories: Column | None = None,
    ) -> "QueryGallery":
        """Rows of one table against each other: one against the rest, or the rows that the flags name.

        embeddings (N, D); labels (N,) integers or strings; is_query, is_gallery (N,) bool, all of them for None;
        sequences, categories (N,). Raises InputError for no rows, shapes that do not fit, flags that name nothing, and
        NaN or infinite embeddings.
        """
        table = _checked_table(embeddings, "embeddings")
        query_rows = _flagged_rows(is_query, table, "is_query")
        gallery_rows = _flagged_rows(is_gallery, table, "is_gallery")
        # Whatever names labels and sequences have, from here on they are small whole numbers.
        (label_codes,) = _shared_codes([labels], [len(table)], "labels", table.device)
        (sequence_codes,) = _shared_codes([sequences], [len(table)], "sequences", table.device)
        if categories is not None:
            categories = _checked_categories(categories, len(table))[query_rows.cpu().numpy()]
        return cls(
            query_table=table,
            gallery_table=table,
            query_rows=query_rows,
            gallery_rows=gallery_rows,
            self_rows=query_rows,
            query_labels=_taken(label_codes, query_rows),
            gallery_labels=_taken(label_codes, gallery_rows),
            query_sequences=_taken(sequence_codes, query_rows),
            gallery_sequences=_taken(sequence_codes, gallery_rows),
            query_categories=categories,
        )

    @classmethod
    def apart(
        cls,
        query_embeddings: np.ndarray | torch.Tensor,
        gallery_embeddings: np.ndarray | torch.Tensor,
        query_labels: Column | None = None,
        gallery_labels: Column | None = None,
        query_sequences: Column | None = None,
        gallery_sequences: Column | None = None,
        query_categories: Column | None = None,
    ) -> "QueryGallery":
        """Every row of one table against every row of another. Raises InputError as `of` does."""
        queries = _checked_table(query_embeddings, "query embeddings")
        gallery = _checked_table(gallery_embeddings, "the gallery")
        if queries.shape[1] != gallery.shape[1]:
            raise InputError(
                f"query embeddings have {counted(queries.shape[1], 'column')}, the gallery's have {gallery.shape[1]}"
            )
        device = gallery.device
        sizes = [len(queries), len(gallery)]
        # Numbered together: a label has one number on both sides.
        label_codes = _shared_codes([query_labels, gallery_labels], sizes, "labels", device)
        sequence_codes = _shared_codes([query_sequences, gallery_sequences], sizes, "sequences", device)
        if query_categories is not None:
            query_categories = _checked_categories(query_categories, len(queries))
        query_rows = torch.arange(len(queries), device=device)
        return cls(
            query_table=queries.to(device),
            gallery_table=gallery,
            query_rows=query_rows,
            gallery_rows=torch.arange(len(gallery), device=device),
            self_rows=torch.full_like(query_rows, -1),
            query_labels=label_codes[0],
            gallery_labels=label_codes[1],
            query_sequences=sequence_codes[0],
            gallery_sequences=sequence_codes[1],
            query_categories=query_categories,
        )

    @property
    def device(self) -> torch.device:
        return self.gallery_table.device

    @property
    def one_table(self) -> bool:
        return self.query_table is self.gallery_table

    @property
    def one_against_rest(self) -> bool:
        """Whether queries and gallery are the same rows, so that scores are symmetric."""
        return self.one_table and torch.equal(self.query_rows, self.gallery_rows)

    def self_positions(self) -> torch.Tensor:
        """(Q,) int64: where in `gallery_rows` each query itself stands, -1 where it does not."""
        return positions_among(self.gallery_rows, self.self_rows)

    def require_labels(self) -> None:
        """Raise InputError where labels are unknown."""
        if self.query_labels is None:
            raise InputError("labels are unknown, so there is nothing to count as right or wrong")

    def positives(self) -> torch.Tensor:
        """(Q,) int64: how many gallery items of its label each query can find. Raises InputError without labels."""
        self.require_labels()
        itself = (self.self_positions() >= 0).long()
        label_count = int(torch.cat([self.query_labels, self.gallery_labels]).max()) + 1
        # Counted by label, not by query: Q x G comparisons would be too many.
        same_label = self.gallery_labels.bincount(minlength=label_count)[self.query_labels]
        if self.query_sequences is None:
            return same_label - itself
        # Label and sequence as one number each, so that those who share both are counted in one sorted column.
        sequence_count = int(torch.cat([self.query_sequences, self.gallery_sequences]).max()) + 1
        wanted = self.query_labels * sequence_count + self.query_sequences
        stored = (self.gallery_labels * sequence_count + self.gallery_sequences).sort().values
        same_both = torch.searchsorted(stored, wanted, right=True) - torch.searchsorted(stored, wanted)
        # The query itself is of its own sequence, and so it is already among those taken off.
        return same_label - same_both

    def query_slice(self, queries: slice | torch.Tensor) -> "QueryGallery":
        """The same gallery for some of the queries: a slice or (M,) int64 positions, ascending."""
        # Categories may be strings, which only NumPy holds.
        categories = self.query_categories
        if categories is not None:
            index = queries.cpu().numpy() if torch.is_tensor(queries) else queries
            categories = categories[index]
        return replace(
            self,
            query_rows=self.query_rows[queries],
            self_rows=self.self_rows[queries],
            query_labels=_taken(self.query_labels, queries),
            query_sequences=_taken(self.query_sequences, queries),
            query_categories=categories,
        )


def positions_among(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(M,) int64: where each of `wanted` (M,) stands in `rows` (N,), which rise; -1 for what is not there."""
    if not len(rows):
        return torch.full_like(wanted, -1)
    positions = torch.searchsorted(rows, wanted).clamp_max(len(rows) - 1)
    return torch.where(rows[positions] == wanted, positions, -1)


def _taken(column: torch.Tensor | None, index: slice | torch.Tensor) -> torch.Tensor | None:
    """Some elements of a column that may be unknown."""
    if column is None:
        return None
    return column[index]


def _checked_table(embeddings: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """Embeddings as a tensor (N, D) without gradient. Raises InputError for any other shape or type."""
    table = torch.as_tensor(embeddings).detach()
    if table.ndim != 2 or not len(table) or not table.shape[1]:
        raise InputError(f"{name} have shape {tuple(table.shape)}; retrieval takes (N, D) with N and D of at least 1")
    if not table.is_floating_point():
        raise InputError(f"{name} are {table.dtype}; retrieval takes floating-point numbers")
    return table


def _flagged_rows(mask: Column | None, table: torch.Tensor, name: str) -> torch.Tensor:
    """The rows (M,) int64 that a flag (N,) names, or all. Raises InputError for a flag that names none."""
    if mask is None:
        return torch.arange(len(table), device=table.device)
    mask = torch.as_tensor(mask, device=table.device)
    if mask.shape != (len(table),) or mask.dtype != torch.bool or not mask.any():
        chosen = int(mask.sum()) if mask.dtype == torch.bool else f"{mask.dtype} values"
        raise InputError(
            f"{name} has shape {tuple(mask.shape)} with {chosen} set; {counted(len(table), 'embedding')} "
            f"{plural(len(table), 'needs', 'need')} ({len(table)},) bool, one or more set"
        )
    return mask.nonzero().flatten()


def _checked_categories(categories: Column, length: int) -> np.ndarray:
    categories = np.asarray(categories)
    _check_length(categories, length, "categories")
    return categories


def _check_length(values: np.ndarray | torch.Tensor, length: int, name: str) -> None:
    if tuple(values.shape) != (length,):
        raise InputError(
            f"{name} have shape {tuple(values.shape)}; {counted(length, 'embedding')} "
            f"{plural(length, 'needs', 'need')} ({length},)"
        )


def _shared_codes(
    columns: list[Column | None], lengths: list[int], name: str, device: torch.device
) -> list[torch.Tensor | None]:
    """Labels or sequences, renumbered together from 0; all columns or none. Raises InputError for the wrong type."""
    given = [column for column in columns if column is not None]
    if not given:
        return columns
    if len(given) < len(columns):
        raise InputError(f"{name} are given for queries or gallery only; give both or neither")
    arrays = []
    for column, length in zip(columns, lengths):
        if not torch.is_tensor(column):
            column = np.asarray(column)
        _check_length(column, length, name)
        if not _holds_names(column):
            raise InputError(f"{name} are {column.dtype}; retrieval takes integers or strings")
        arrays.append(column.cpu().numpy() if torch.is_tensor(column) else column)
    # NumPy sorts strings, too.
    _, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    codes = torch.from_numpy(codes.astype(np.int64).reshape(-1)).to(device)
    return list(codes.split(lengths))


def _holds_names(column: np.ndarray | torch.Tensor) -> bool:
    """Whether a column's values are whole numbers or strings."""
    if torch.is_tensor(column):
        return not (column.is_floating_point() or column.is_complex() or column.dtype == torch.bool)
    if column.dtype.kind == "O":
        return all(type(value) is str for value in column)
    return column.dtype.kind in "iuUS"
