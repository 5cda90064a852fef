"""What each query found, and what it should have found: padded tensors inside, one list a query outside."""

import json
import math
from functools import cached_property

import torch

from core.errors import InputError
from core.files import read_npz, write_npz
from retrieval.best_positive import MEMORY
from retrieval.candidates import NOWHERE
from retrieval.query_gallery import QueryGallery
from retrieval.relevance import Relevance
from retrieval.rows import row_lengths
from retrieval.topk import search_in_parts

SHOWN = 10  # queries that print() shows


class RetrievalResults:
    """The items that each of Q queries found, nearest first. Nothing in it is changed afterwards.

    distances, retrieved_ids: one tensor a query, distances ascending (1 - cosine, squared Euclidean, or what a
    post-processor put in their place), ids rows of the gallery's table. gt_ids: one list of right rows a query, or None
    where labels are unknown. Inside these are `padded_distances` (Q, K) float32, infinity behind the last item,
    `padded_ids` (Q, K) int64, -1 behind the last, and `relevance`.

    Raises InputError for lengths that do not match, unsorted or NaN distances, and an id found twice.
    """

    def __init__(self, distances, retrieved_ids, gt_ids=None):
        if not len(distances) == len(retrieved_ids) or gt_ids is not None and len(gt_ids) != len(distances):
            right = "" if gt_ids is None else f", {len(gt_ids)} lists of right ids"
            raise InputError(
                f"{len(distances)} lists of distances, {len(retrieved_ids)} lists of ids{right}: they differ"
            )
        for query, (one, other) in enumerate(zip(distances, retrieved_ids)):
            if torch.as_tensor(one).shape != torch.as_tensor(other).shape or torch.as_tensor(one).ndim != 1:
                shapes = tuple(torch.as_tensor(one).shape), tuple(torch.as_tensor(other).shape)
                raise InputError(
                    f"query {query}: distances {shapes[0]} and ids {shapes[1]} are not lists of one length"
                )
        self.padded_distances = _padded(distances, torch.float32, math.inf)
        self.padded_ids = _padded(retrieved_ids, torch.int64, NOWHERE)
        self.relevance = None if gt_ids is None else Relevance.of_lists(gt_ids)
        self._check()

    @classmethod
    def from_padded(cls, distances, ids, relevance=None):
        """Results from the padded tensors themselves."""
        results = cls.__new__(cls)
        results.padded_distances, results.padded_ids, results.relevance = distances, ids, relevance
        results._check()
        return results

    @classmethod
    def from_embeddings(cls, embeddings, labels=None, k=100, distance="cosine", memory=MEMORY, **flags):
        """Search one table. flags: is_query, is_gallery, sequences as Task.of has them; k is clipped to the gallery."""
        return cls.from_task(QueryGallery.of(embeddings, labels, **flags), k, distance, memory)

    @classmethod
    def from_embeddings_qg(
        cls,
        query_embeddings,
        gallery_embeddings,
        query_labels=None,
        gallery_labels=None,
        k=100,
        distance="cosine",
        memory=MEMORY,
    ):
        """Search a gallery for the rows of another table; sizes may differ.

        query_embeddings: (Q, D), or an iterable of such batches, which are searched for one after the other so that
        never more than one is held; query_labels are then those of all batches.
        """
        if hasattr(query_embeddings, "shape"):
            task = QueryGallery.apart(query_embeddings, gallery_embeddings, query_labels, gallery_labels)
            return cls.from_task(task, k, distance, memory)
        return cls._from_batches(
            query_embeddings, gallery_embeddings, query_labels, gallery_labels, k, distance, memory
        )

    @classmethod
    def _from_batches(cls, batches, gallery, query_labels, gallery_labels, k, distance, memory):
        gallery = torch.as_tensor(gallery)
        lengths, found = row_lengths(gallery), []
        for batch in batches:
            parts = search_in_parts(QueryGallery.apart(batch, gallery), k, distance, memory, gallery_lengths=lengths)
            found += [(ids, scores) for _, ids, scores in parts]
        ids, scores = (torch.cat(column) for column in zip(*found))
        nothing = gallery.new_zeros(1, gallery.shape[1]).expand(
            len(ids), -1
        )  # the queries' labels are what counts here
        relevance = Relevance.of_task(QueryGallery.apart(nothing, gallery, query_labels, gallery_labels))
        return cls.from_padded(as_distances(scores, distance), ids, relevance)

    @classmethod
    def from_task(cls, task, k=100, distance="cosine", memory=MEMORY):
        """Search for the k nearest of each query of a Task."""
        if k < 1:
            raise InputError(f"k is {k}; at least one item has to be looked for")
        parts = [part[1:] for part in search_in_parts(task, k, distance, memory)]
        ids, scores = (torch.cat(column) for column in zip(*parts))
        return cls.from_padded(as_distances(scores, distance), ids, Relevance.of_task(task))

    def _check(self):
        distances, ids = self.padded_distances, self.padded_ids
        if distances.shape != ids.shape or distances.ndim != 2:
            raise InputError(f"distances have shape {tuple(distances.shape)}, ids {tuple(ids.shape)}; both are (Q, K)")
        checks = {
            "distances are not ascending": (distances[:, 1:] < distances[:, :-1]).any(1),
            "distances hold NaN": distances.isnan().any(1),
            "an id is found twice": _repeats(ids),
            "ids are below 0": (ids < NOWHERE).any(1),
            "an item is infinitely far": ((ids == NOWHERE) != distances.isposinf()).any(1),
        }
        for fault, rows in checks.items():
            if rows.any():
                raise InputError(f"query {int(rows.nonzero()[0])}: {fault} ({int(rows.sum())} of {len(rows)} queries)")
        if self.relevance is not None and len(self.relevance.group) != len(ids):
            raise InputError(f"right ids are known for {len(self.relevance.group)} queries, results for {len(ids)}")

    def __len__(self):
        return len(self.padded_ids)

    @cached_property
    def counts(self):
        """(Q,) int64: how many items each query found."""
        return (self.padded_ids != NOWHERE).sum(1)

    @cached_property
    def hits(self):
        """(Q, K) bool: which items are right. Raises InputError where labels are unknown."""
        return self._known().hits(self.padded_ids)

    @property
    def positives(self):
        """(Q,) int64: how many items would be right. Raises InputError where labels are unknown."""
        return self._known().positives

    @property
    def n_retrieved_items(self):
        """The most that any query found."""
        return int(self.counts.max()) if len(self) else 0

    @property
    def distances(self):
        return self._lists(self.padded_distances)

    @property
    def retrieved_ids(self):
        return self._lists(self.padded_ids)

    @property
    def gt_ids(self):
        return None if self.relevance is None else tuple(self.relevance.rows(query) for query in range(len(self)))

    def is_empty(self):
        return self.n_retrieved_items == 0

    def _known(self):
        if self.relevance is None:
            raise InputError("labels are unknown, so there is nothing to count as right or wrong")
        return self.relevance

    def _lists(self, padded):
        return tuple(row[:count] for row, count in zip(padded, self.counts.tolist()))

    def replaced(self, distances, ids):
        """The same queries with other items, as padded tensors; what a post-processor returns."""
        width = max(1, int((ids != NOWHERE).sum(1).max())) if len(ids) else 1
        return RetrievalResults.from_padded(distances[:, :width], ids[:, :width], self.relevance)

    def __str__(self):
        lines = [f"{len(self)} queries, at most {self.n_retrieved_items} items each, nearest first"]
        right = torch.zeros_like(self.padded_ids) if self.relevance is None else self.hits
        for query, count in enumerate(self.counts[:SHOWN].clamp_max(SHOWN).tolist()):
            columns = (column[query, :count].tolist() for column in (self.padded_ids, right, self.padded_distances))
            items = [f"{row}{'+' * hit} {distance:.4g}" for row, hit, distance in zip(*columns)]
            lines.append(f"query {query}: {', '.join(items) or 'nothing'}")
        if self.relevance is not None:
            lines.append("(id distance; + is right)")
        return "\n".join(lines)

    def save(self, path):
        """Write a .npz that `load` reads."""
        arrays = {"distances": self.padded_distances, "ids": self.padded_ids}
        if self.relevance is not None:
            arrays |= {f"relevance_{name}": value for name, value in vars(self.relevance).items() if value is not None}
        write_npz(path, {name: tensor.cpu().numpy() for name, tensor in arrays.items()})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; plain arrays only. Raises InputError for any other file."""
        arrays = {name: torch.from_numpy(array) for name, array in read_npz(path, ("distances", "ids")).items()}
        known = {
            name.removeprefix("relevance_"): value for name, value in arrays.items() if name.startswith("relevance_")
        }
        try:
            return cls.from_padded(arrays["distances"], arrays["ids"], Relevance(**known) if known else None)
        except TypeError as error:
            raise InputError(f"{str(path)!r} holds no retrieval results: {error}") from None

    def to_dicts(self):
        """One dict a query, of lists: ids, distances, and where labels are known right_ids, which it should find."""
        found = [
            {"ids": ids.tolist(), "distances": distances.tolist()}
            for ids, distances in zip(self.retrieved_ids, self.distances)
        ]
        for query, right in zip(found, self.gt_ids or ()):
            query["right_ids"] = right.tolist()
        return found

    def to_json(self):
        """`to_dicts` as JSON."""
        return json.dumps(self.to_dicts())


def as_distances(scores, distance):
    """Scores, larger being closer, as distances: 1 - cosine, or squared Euclidean."""
    return 1 - scores if distance == "cosine" else -scores


def _padded(lists, dtype, filling):
    """Lists of numbers, one a query, as one tensor."""
    columns = [torch.as_tensor(one, dtype=dtype).cpu() for one in lists]
    width = max([len(one) for one in columns], default=0)
    padded = torch.full((len(columns), max(1, width)), filling, dtype=dtype)
    for row, one in zip(padded, columns):
        row[: len(one)] = one
    return padded


def _repeats(ids):
    ordered = ids.sort(1).values
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NOWHERE)).any(1)
