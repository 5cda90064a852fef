"""What each query found, and what it should have found: padded tensors inside, one list a query outside."""

import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from core.arrays import read_npz, write_npz
from core.errors import InputError
from core.slices import MEMORY
from core.text import counted
from retrieval.candidates import NOWHERE
from retrieval.query_gallery import Column, QueryGallery
from retrieval.relevance import Relevance
from retrieval.rows import row_lengths
from retrieval.topk import search, search_in_parts

SHOWN = 10  # queries that print() shows, and items of each
RELEVANCE = "relevance_"  # begins the keys of a saved Relevance

Table = np.ndarray | torch.Tensor


class RetrievalResults:
    """The items that each of Q queries found, nearest first. Nothing in it is changed afterwards.

    distances, retrieved_ids: one tensor a query, distances ascending (1 - cosine, squared Euclidean, or what a
    post-processor put in their place), ids rows of the gallery's table. gt_ids: one list of right rows a query, or None
    where labels are unknown. Inside these are `padded_distances` (Q, K) float32, infinity behind the last item,
    `padded_ids` (Q, K) int64, -1 behind the last, and `relevance`.

    Raises InputError for lengths that do not match, unsorted or NaN distances, and an id found twice.
    """

    def __init__(
        self,
        distances: Sequence[Sequence[float] | torch.Tensor],
        retrieved_ids: Sequence[Sequence[int] | torch.Tensor],
        gt_ids: Sequence[Sequence[int] | torch.Tensor] | None = None,
    ):
        _check_lists(distances, retrieved_ids, gt_ids)
        self.padded_distances = _padded(distances, torch.float32, math.inf)
        self.padded_ids = _padded(retrieved_ids, torch.int64, NOWHERE)
        self.relevance = None if gt_ids is None else Relevance.of_lists(gt_ids)
        self._check()

    @classmethod
    def from_padded(
        cls, distances: torch.Tensor, ids: torch.Tensor, relevance: Relevance | None = None
    ) -> "RetrievalResults":
        """Results from the padded tensors themselves."""
        # Around __init__, which takes lists.
        results = cls.__new__(cls)
        results.padded_distances = distances
        results.padded_ids = ids
        results.relevance = relevance
        results._check()
        return results

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Table,
        labels: Column | None = None,
        k: int = 100,
        distance: str = "cosine",
        memory: int = MEMORY,
        **flags: Column,
    ) -> "RetrievalResults":
        """Search one table; k is clipped to the gallery.

        flags: is_query, is_gallery, sequences as QueryGallery.of has them.
        """
        return cls.from_query_gallery(QueryGallery.of(embeddings, labels, **flags), k, distance, memory)

    @classmethod
    def from_embeddings_qg(
        cls,
        query_embeddings: Table | Iterable[Table],
        gallery_embeddings: Table,
        query_labels: Column | None = None,
        gallery_labels: Column | None = None,
        k: int = 100,
        distance: str = "cosine",
        memory: int = MEMORY,
    ) -> "RetrievalResults":
        """Search a gallery for the rows of another table; sizes may differ.

        query_embeddings: (Q, D), or an iterable of such batches, which are searched for one after the other so that
        never more than one is held; query_labels are then those of all batches.
        """
        if not hasattr(query_embeddings, "shape"):
            return cls._from_batches(
                query_embeddings, gallery_embeddings, query_labels, gallery_labels, k, distance, memory
            )
        query_gallery = QueryGallery.apart(query_embeddings, gallery_embeddings, query_labels, gallery_labels)
        return cls.from_query_gallery(query_gallery, k, distance, memory)

    @classmethod
    def _from_batches(
        cls,
        batches: Iterable[Table],
        gallery: Table,
        query_labels: Column | None,
        gallery_labels: Column | None,
        k: int,
        distance: str,
        memory: int,
    ) -> "RetrievalResults":
        gallery = torch.as_tensor(gallery)
        lengths = row_lengths(gallery)
        all_ids = []
        all_scores = []
        for batch in batches:
            batch_gallery = QueryGallery.apart(batch, gallery)
            # The lengths of the gallery are the same for each batch, and made once.
            for _, ids, scores in search_in_parts(batch_gallery, k, distance, memory, gallery_lengths=lengths):
                all_ids.append(ids)
                all_scores.append(scores)
        ids = torch.cat(all_ids)
        # The queries are gone by now; zeros stand for them, since only their labels count here.
        placeholder = gallery.new_zeros(1, gallery.shape[1]).expand(len(ids), -1)
        relevance = Relevance.of_labels(QueryGallery.apart(placeholder, gallery, query_labels, gallery_labels))
        return cls.from_padded(as_distances(torch.cat(all_scores), distance), ids, relevance)

    @classmethod
    def from_query_gallery(
        cls, query_gallery: QueryGallery, k: int = 100, distance: str = "cosine", memory: int = MEMORY
    ) -> "RetrievalResults":
        """Search for the k nearest of each query. Raises InputError for k below 1."""
        if k < 1:
            raise InputError(f"k is {k}; at least one item has to be looked for")
        ids, scores = search(query_gallery, k, distance, memory)
        return cls.from_padded(as_distances(scores, distance), ids, Relevance.of_labels(query_gallery))

    def _check(self) -> None:
        distances = self.padded_distances
        ids = self.padded_ids
        if distances.shape != ids.shape or distances.ndim != 2:
            raise InputError(f"distances have shape {tuple(distances.shape)}, ids {tuple(ids.shape)}; both are (Q, K)")
        # Each is a column of bool, so that the sentence can name the first query and count the others.
        checks = {
            "distances are not ascending": (distances[:, 1:] < distances[:, :-1]).any(1),
            "distances hold NaN": distances.isnan().any(1),
            "an id is found twice": _has_repeats(ids),
            "ids are below 0": (ids < NOWHERE).any(1),
            "an item is infinitely far": ((ids == NOWHERE) != distances.isposinf()).any(1),
        }
        for fault, rows in checks.items():
            if rows.any():
                raise InputError(
                    f"query {int(rows.nonzero()[0])}: {fault} ({int(rows.sum())} of {counted(len(rows), 'query')})"
                )
        if self.relevance is not None and len(self.relevance.group) != len(ids):
            raise InputError(
                f"right ids are known for {counted(len(self.relevance.group), 'query')}, results for {len(ids)}"
            )

    def __len__(self) -> int:
        return len(self.padded_ids)

    @cached_property
    def counts(self) -> torch.Tensor:
        """(Q,) int64: how many items each query found."""
        return (self.padded_ids != NOWHERE).sum(1)

    @cached_property
    def hits(self) -> torch.Tensor:
        """(Q, K) bool: which items are right. Raises InputError where labels are unknown."""
        return self._known_relevance().hits(self.padded_ids)

    @property
    def positives(self) -> torch.Tensor:
        """(Q,) int64: how many items would be right. Raises InputError where labels are unknown."""
        return self._known_relevance().positives

    @property
    def n_retrieved_items(self) -> int:
        """The most that any query found."""
        return int(self.counts.max()) if len(self) else 0

    @property
    def distances(self) -> tuple[torch.Tensor, ...]:
        return self._without_padding(self.padded_distances)

    @property
    def retrieved_ids(self) -> tuple[torch.Tensor, ...]:
        return self._without_padding(self.padded_ids)

    @property
    def gt_ids(self) -> tuple[torch.Tensor, ...] | None:
        if self.relevance is None:
            return None
        return tuple(self.relevance.rows(query) for query in range(len(self)))

    def is_empty(self) -> bool:
        return self.n_retrieved_items == 0

    def _known_relevance(self) -> Relevance:
        if self.relevance is None:
            raise InputError("labels are unknown, so there is nothing to count as right or wrong")
        return self.relevance

    def _without_padding(self, padded: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(row[:count] for row, count in zip(padded, self.counts.tolist()))

    def replaced(self, distances: torch.Tensor, ids: torch.Tensor) -> "RetrievalResults":
        """The same queries with other items, as padded tensors; what a post-processor returns."""
        # No wider than the longest list; one column at least, which torch can reduce over.
        width = 1
        if len(ids):
            width = max(1, int((ids != NOWHERE).sum(1).max()))
        return type(self).from_padded(distances[:, :width], ids[:, :width], self.relevance)

    def __str__(self) -> str:
        lines = [
            f"{counted(len(self), 'query')}, at most {counted(self.n_retrieved_items, 'item')} each, nearest first"
        ]
        for query, count in enumerate(self.counts[:SHOWN].clamp_max(SHOWN).tolist()):
            items = [self._item_text(query, place) for place in range(count)]
            lines.append(f"query {query}: {', '.join(items) or 'nothing'}")
        if self.relevance is not None:
            lines.append("(id distance; + is right)")
        return "\n".join(lines)

    def _item_text(self, query: int, place: int) -> str:
        is_right = self.relevance is not None and bool(self.hits[query, place])
        mark = "+" if is_right else ""
        return f"{int(self.padded_ids[query, place])}{mark} {self.padded_distances[query, place].item():.4g}"

    def save(self, path: str | Path) -> None:
        """Write a .npz that `load` reads."""
        arrays = {"distances": self.padded_distances, "ids": self.padded_ids}
        if self.relevance is not None:
            for name, value in vars(self.relevance).items():
                if value is not None:
                    arrays[RELEVANCE + name] = value
        write_npz(path, {name: tensor.cpu().numpy() for name, tensor in arrays.items()})

    @classmethod
    def load(cls, path: str | Path) -> "RetrievalResults":
        """Read what `save` wrote; plain arrays only. Raises InputError for any other file."""
        arrays = read_npz(path, ("distances", "ids"))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        columns = {}
        for name, tensor in tensors.items():
            if name.startswith(RELEVANCE):
                columns[name.removeprefix(RELEVANCE)] = tensor
        try:
            # A file of somebody else may have some of the columns only.
            relevance = Relevance(**columns) if columns else None
            return cls.from_padded(tensors["distances"], tensors["ids"], relevance)
        except TypeError as error:
            raise InputError(f"{str(path)!r} holds no retrieval results: {error}") from None

    def to_dicts(self) -> list[dict[str, list]]:
        """One dict a query, of lists: ids, distances, and where labels are known right_ids, which it should find."""
        dicts = []
        for ids, distances in zip(self.retrieved_ids, self.distances):
            dicts.append({"ids": ids.tolist(), "distances": distances.tolist()})
        if self.relevance is not None:
            for query, right in zip(dicts, self.gt_ids):
                query["right_ids"] = right.tolist()
        return dicts

    def to_json(self) -> str:
        """`to_dicts` as JSON."""
        return json.dumps(self.to_dicts())


def as_distances(scores: torch.Tensor, distance: str) -> torch.Tensor:
    """Scores, larger being closer, as distances: 1 - cosine, or squared Euclidean."""
    if distance == "cosine":
        return 1 - scores
    return -scores


def _check_lists(distances: Sequence, retrieved_ids: Sequence, gt_ids: Sequence | None) -> None:
    """Raise InputError for lists that are not of one length, query by query."""
    lengths = {len(distances), len(retrieved_ids)}
    right = ""
    if gt_ids is not None:
        lengths.add(len(gt_ids))
        right = f", {counted(len(gt_ids), 'list')} of right ids"
    if len(lengths) > 1:
        raise InputError(
            f"{counted(len(distances), 'list')} of distances, {counted(len(retrieved_ids), 'list')} of ids{right}: "
            "they differ"
        )
    for query, (query_distances, query_ids) in enumerate(zip(distances, retrieved_ids)):
        distances_shape = tuple(torch.as_tensor(query_distances).shape)
        ids_shape = tuple(torch.as_tensor(query_ids).shape)
        if distances_shape != ids_shape or len(ids_shape) != 1:
            raise InputError(
                f"query {query}: distances {distances_shape} and ids {ids_shape} are not lists of one length"
            )


def _padded(lists: Sequence, dtype: torch.dtype, filling: float) -> torch.Tensor:
    """Lists of numbers, one a query, as one tensor."""
    columns = [torch.as_tensor(numbers, dtype=dtype).cpu() for numbers in lists]
    width = max([1, *(len(column) for column in columns)])
    padded = torch.full((len(columns), width), filling, dtype=dtype)
    for row, column in zip(padded, columns):
        row[: len(column)] = column
    return padded


def _has_repeats(ids: torch.Tensor) -> torch.Tensor:
    """(Q,) bool: whether a query has an id twice."""
    ordered = ids.sort(1).values
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NOWHERE)).any(1)
