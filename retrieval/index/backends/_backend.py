"""What a backend is: whatever an index keeps beside its segments so that candidates are found faster."""

import importlib

import numpy as np
import torch

from core.errors import InputError
from retrieval.index.nearest import best_of, nearest
from retrieval.index.segments import unit
from retrieval.rows import row_lengths

MORE = 16  # candidates beyond k: rounding may have changed the order of the last ones


class Backend:
    """Finds candidates; their order and cosines are then reckoned exactly from the segments' embeddings.

    A backend keeps a `state`, plain JSON that stands in the index's card, and files named `<backend>-<generation>.*` in
    the index's folder or things elsewhere that its state names. What an old card names stays as it is until the new
    card is in place. The ids of items never change their meaning, so deleted ones need not be removed at once.
    """

    @staticmethod
    def keeps(options):
        """What a state holds beside `built` and `approximate`, {name: type, or pattern of a text}, by the options."""
        return {}

    def check(self, items, width):
        """Raise InputError where the options do not fit so many items of this width. Nothing is written yet."""

    def update(self, folder, generation, rows, state):
        """Bring what is kept up to `rows` (retrieval/segments.py) without touching what `state` names; the new state.

        state: of the last generation, None where there was nothing. A state has `built`, the generation in which it was
        made from all rows, and `approximate`: whether it may miss items, so that recall has to be measured.
        """
        return {"built": generation, "approximate": False}

    def settle(self, state, deleted):
        """The card names `state` now: drop outside of the folder what stands for the ids `deleted` (n,)."""

    def discard(self, state):
        """The index was replaced: drop what `state` names outside of the folder."""

    def open(self, folder, state, rows):
        """Make ready for search. Raises FileNotFoundError where another process has replaced the generation."""

    def candidates(self, queries, k):
        """Ids (Q, C) int64 of about the k nearest or more, in any order, -1 for none; queries (Q, D) have length 1."""
        raise NotImplementedError(f"{type(self).__name__} has neither candidates nor a search of its own")

    def search(self, rows, queries, k, memory):
        """The k nearest items as far as they are found: ids (Q, k) int64 and exact cosines (Q, k) float32."""
        asking = unit(queries.numpy(), row_lengths(queries, "query embeddings").numpy())
        ids, scores = best_of(rows, queries, self.candidates(asking, k + MORE), k)
        short = np.flatnonzero(ids[:, -1] < 0)  # as by lists with few items, or an older generation's reader
        if len(short):
            ids[short], scores[short] = nearest(rows, queries[torch.from_numpy(short)], k, memory)
        return ids, scores

    def advice(self, items):
        """A sentence for who uses this backend with so many items, or None."""


def require(module, package, backend):
    """Import an optional package. Raises InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"the backend {backend} needs a package that is not here: pip install {package}") from None
