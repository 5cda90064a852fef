"""Who asks and who can be found: embeddings with their labels, flags, sequences and categories, checked once."""

from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError


@dataclass(frozen=True)
class QueryGallery:
    """Queries against a gallery; `Task.of` (one table, the usual case) and `Task.apart` (two tables) make one.

    query_table, gallery_table: (N, D) floating tensors on one device; the same object where queries and gallery are
    rows of one table. query_rows (Q,), gallery_rows (G,): int64, ascending, the rows that ask and that can be found.
    own_rows (Q,): int64, the row of the gallery's table that is the query itself and that it never finds, -1 for none.
    query_labels (Q,), gallery_labels (G,): int64 codes that both share, or None where labels are unknown.
    query_sequences, gallery_sequences: likewise, or None; a query never finds an item of its own sequence.
    query_categories: (Q,) array of anything, or None; figures can be had for each.
    """

    query_table: torch.Tensor
    gallery_table: torch.Tensor
    query_rows: torch.Tensor
    gallery_rows: torch.Tensor
    own_rows: torch.Tensor
    query_labels: torch.Tensor | None = None
    gallery_labels: torch.Tensor | None = None
    query_sequences: torch.Tensor | None = None
    gallery_sequences: torch.Tensor | None = None
    query_categories: np.ndarray | None = None

    @classmethod
    def of(cls, embeddings, labels=None, is_query=None, is_gallery=None, sequences=None, categories=None):
        """Rows of one table against each other: one against the rest, or the rows that the flags name.

        embeddings (N, D); labels (N,) integers or strings; is_query, is_gallery (N,) bool, all of them for None;
        sequences, categories (N,). Raises InputError for no rows, shapes that do not fit, flags that name nothing, and
        NaN or infinite embeddings.
        """
        table = _checked_table(embeddings, "embeddings")
        queries, gallery = _rows(is_query, table, "is_query"), _rows(is_gallery, table, "is_gallery")
        codes = [
            _codes([values], [len(table)], name) for values, name in ((labels, "labels"), (sequences, "sequences"))
        ]
        (labels,), (sequences,) = ([code if code is None else code.to(table.device) for code in both] for both in codes)
        if categories is not None:
            categories = np.asarray(categories)
            _check_length(categories, len(table), "categories")
            categories = categories[queries.cpu().numpy()]
        return cls(
            table,
            table,
            queries,
            gallery,
            queries,
            *(None if labels is None else labels[rows] for rows in (queries, gallery)),
            *(None if sequences is None else sequences[rows] for rows in (queries, gallery)),
            categories,
        )

    @classmethod
    def apart(
        cls,
        query_embeddings,
        gallery_embeddings,
        query_labels=None,
        gallery_labels=None,
        query_sequences=None,
        gallery_sequences=None,
        query_categories=None,
    ):
        """Every row of one table against every row of another. Raises InputError as `of` does."""
        tables = _checked_table(query_embeddings, "query embeddings"), _checked_table(gallery_embeddings, "the gallery")
        if tables[0].shape[1] != tables[1].shape[1]:
            widths = [table.shape[1] for table in tables]
            raise InputError(f"query embeddings have {widths[0]} columns, the gallery's have {widths[1]}")
        sizes = [len(table) for table in tables]
        labels = _codes([query_labels, gallery_labels], sizes, "labels")
        sequences = _codes([query_sequences, gallery_sequences], sizes, "sequences")
        if query_categories is not None:
            query_categories = np.asarray(query_categories)
            _check_length(query_categories, sizes[0], "categories")
        device = tables[1].device
        rows = [torch.arange(size, device=device) for size in sizes]
        both = [None if code is None else code.to(device) for code in (*labels, *sequences)]
        nothing = torch.full_like(rows[0], -1)
        return cls(tables[0].to(device), tables[1], *rows, nothing, *both, query_categories)

    @property
    def device(self):
        return self.gallery_table.device

    @property
    def one_table(self):
        return self.query_table is self.gallery_table

    @property
    def one_against_rest(self):
        """Whether queries and gallery are the same rows, so that scores are symmetric."""
        return self.one_table and torch.equal(self.query_rows, self.gallery_rows)

    def own_places(self):
        """(Q,) int64: where in `gallery_rows` each query itself stands, -1 where it does not."""
        return places_among(self.gallery_rows, self.own_rows)

    def positives(self):
        """(Q,) int64: how many gallery items of its label each query can find. Raises InputError without labels."""
        if self.query_labels is None:
            raise InputError("labels are unknown, so there is nothing to count as right or wrong")
        own = (self.own_places() >= 0).long()
        codes = torch.cat([self.query_labels, self.gallery_labels])
        size = int(codes.max()) + 1
        counts = self.gallery_labels.bincount(minlength=size)[self.query_labels] - own
        if self.query_sequences is None:
            return counts
        width = int(torch.cat([self.query_sequences, self.gallery_sequences]).max()) + 1
        asked = self.query_labels * width + self.query_sequences
        found = (self.gallery_labels * width + self.gallery_sequences).sort().values
        together = torch.searchsorted(found, asked, right=True) - torch.searchsorted(found, asked)
        return counts + own - together

    def query_slice(self, queries):
        """The same task for some of its queries: a slice or (M,) int64 places in `query_rows`, ascending."""
        part = {
            name: None if column is None else column[queries if torch.is_tensor(column) else _numpy(queries)]
            for name in ("query_rows", "own_rows", "query_labels", "query_sequences", "query_categories")
            for column in [getattr(self, name)]
        }
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return QueryGallery(**{**columns, **part})


def places_among(rows, wanted):
    """(M,) int64: where each of `wanted` (M,) stands in `rows` (N,), which rise; -1 for what is not there."""
    if not len(rows):
        return torch.full_like(wanted, -1)
    places = torch.searchsorted(rows, wanted).clamp_max(len(rows) - 1)
    return torch.where(rows[places] == wanted, places, -1)


def _numpy(index):
    return index.cpu().numpy() if torch.is_tensor(index) else index


def _checked_table(embeddings, name):
    table = torch.as_tensor(embeddings).detach()
    if table.ndim != 2 or not len(table) or not table.shape[1]:
        raise InputError(f"{name} have shape {tuple(table.shape)}; retrieval takes (N, D) with N and D of at least 1")
    if not table.is_floating_point():
        raise InputError(f"{name} are {table.dtype}; retrieval takes floating-point numbers")
    return table


def _rows(mask, table, name):
    if mask is None:
        return torch.arange(len(table), device=table.device)
    mask = torch.as_tensor(mask, device=table.device)
    if mask.shape != (len(table),) or mask.dtype != torch.bool or not mask.any():
        chosen = int(mask.sum()) if mask.dtype == torch.bool else f"{mask.dtype} values"
        raise InputError(
            f"{name} has shape {tuple(mask.shape)} with {chosen} set; {len(table)} embeddings need ({len(table)},) "
            "bool, one or more set"
        )
    return mask.nonzero().flatten()


def _names_things(column):
    """Whether a column's values are whole numbers or strings."""
    if torch.is_tensor(column):
        return not (column.is_floating_point() or column.is_complex() or column.dtype == torch.bool)
    return column.dtype.kind in "iuUS" or column.dtype.kind == "O" and all(type(value) is str for value in column)


def _check_length(values, length, name):
    if tuple(values.shape) != (length,):
        raise InputError(f"{name} have shape {tuple(values.shape)}; {length} embeddings need ({length},)")


def _codes(columns, lengths, name):
    """Labels or sequences, renumbered together from 0; all columns or none. Raises InputError for the wrong type."""
    if any(values is None for values in columns):
        if any(values is not None for values in columns):
            raise InputError(f"{name} are given for queries or gallery only; give both or neither")
        return columns
    columns = [values if torch.is_tensor(values) else np.asarray(values) for values in columns]
    for column, length in zip(columns, lengths):
        _check_length(column, length, name)
        if not _names_things(column):
            raise InputError(f"{name} are {column.dtype}; retrieval takes integers or strings")
    arrays = [column.cpu().numpy() if torch.is_tensor(column) else column for column in columns]
    joined = np.concatenate(arrays)
    codes = torch.from_numpy(np.unique(joined, return_inverse=True)[1].astype(np.int64).reshape(-1))
    return list(codes.split(lengths))
