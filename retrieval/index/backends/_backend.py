"""What a backend is: whatever an index keeps beside its segments so that candidates are found faster."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from core.errors import InputError
from retrieval.index.nearest import best_of, nearest
from retrieval.index.segments import Rows, normalized
from retrieval.index.selection import Selection
from retrieval.plain import row_lengths
from retrieval.unscaled import MORE

FEW_SELECTED = 20_000  # items among which exact search is as fast as any other


class Backend:
    """Finds candidates; their order and cosines are then reckoned exactly from the segments' embeddings.

    A backend keeps a `state`, plain JSON that stands in the index's card, and files named `<backend>-<generation>.*` in
    the index's folder or things elsewhere that its state names. What an old card names stays as it is until the new
    card is in place. The ids of items never change their meaning, so deleted ones need not be removed at once.
    """

    @staticmethod
    def keeps(options: dict) -> dict[str, object]:
        """What a state holds beside `built` and `approximate`, {name: type, list[type], or pattern of a text}.

        A name `file` is of a file or folder in the index's own, `files` of several.
        """
        return {}

    def kept_options(self, options: dict) -> dict:
        """Of all options what an index's card keeps, by which it is opened again."""
        return options

    @staticmethod
    def read_options(options: dict) -> dict:
        """The options in an index's card, with those that there were not yet when the first ones were written."""
        return options

    def refuse_new(self) -> None:
        """Raise InputError where no index can be made with these options; one that is there may still be read."""

    def check(self, items: int, width: int) -> None:
        """Raise InputError where the options do not fit so many items of this width. Nothing is written yet."""

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        """Bring what is kept up to `rows` (../segments.py) without touching what `state` names; the new state.

        state: of the last generation, None where there was nothing. A state has `built`, the generation in which it was
        made from all rows, and `approximate`: whether it may miss items, so that recall has to be measured.
        """
        return {"built": generation, "approximate": False}

    def settle(self, state: dict, deleted: np.ndarray) -> None:
        """The card names `state` now: drop outside of the folder what stands for the ids `deleted` (n,)."""

    def discard(self, state: dict) -> None:
        """The index was replaced: drop what `state` names outside of the folder."""

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        """Make ready for search. Raises FileNotFoundError where another process has replaced the generation."""

    def candidates(self, queries: np.ndarray, k: int, selection: Selection | None = None) -> np.ndarray:
        """Ids (Q, C) int64 of about the k nearest or more, in any order, -1 for none; queries (Q, D) have length 1.

        selection: of these items only, as far as the backend can tell; others among them are left out later.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither candidates nor a search of its own")

    def search(
        self, rows: Rows, queries: np.ndarray, k: int, memory: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items as far as they are found: ids (Q, k) int64 and exact cosines (Q, k) float32.

        queries: (Q, D) float32. selection: items among which is searched, k at least, or None for all.
        """
        among = None
        if selection is not None:
            among = selection.ids
            if len(among) <= FEW_SELECTED:
                return nearest(rows, queries, k, memory, among)
        lengths = row_lengths(queries, "query embeddings")
        candidates = self.candidates(normalized(queries, lengths), k + MORE, selection)
        ids, scores = best_of(rows, queries, candidates, k, among)
        # Too few are found in lists with few items, or by an older generation's reader.
        short = np.flatnonzero(ids[:, -1] < 0)
        if len(short):
            ids[short], scores[short] = nearest(rows, queries[short], k, memory, among)
        return ids, scores

    def advice(self, items: int) -> str | None:
        """A sentence for who uses this backend with so many items, or None."""


def require(module: str, package: str, backend: str) -> ModuleType:
    """Import an optional package. Raises InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"the backend {backend} needs a package that is not here: pip install {package}") from None
