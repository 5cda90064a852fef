"""The default backend: every item is compared, by its embedding, or first by a code that is proven to hide none."""

import sys
from pathlib import Path

import numpy as np

from core.errors import InputError, near_match
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import FEW_SELECTED, Backend
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection
from retrieval.unscaled import fits

UNCODED = "float32"
KINDS = ("int8", "binary")  # those of retrieval/codes.py, which imports torch, as all that makes and reads codes
READ_AT_ONCE = 2**31  # bytes of embeddings that are looked through before torch would be imported


@BACKENDS.register("exact")
class ExactBackend(Backend):
    """Exact to float32, in a bounded memory, with no package to install.

    Options:
        codes: what items are first compared by: int8 (a byte a number, the fastest), binary (a bit a number, for the
            least memory), or float32, the embeddings themselves; what is found is the same
    """

    def __init__(self, codes: str = "int8"):
        names = (UNCODED, *KINDS)
        if codes not in names:
            raise InputError(f"codes {codes!r} are none of {', '.join(names)}.{near_match(codes, names)}")
        self.codes = codes
        self._coded = None

    @staticmethod
    def read_options(options: dict) -> dict:
        # There were no codes when the first indexes of this backend were made.
        return {"codes": UNCODED, **options}

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        if self.codes != UNCODED:
            from retrieval.index.coded import write_codes

            write_codes(rows, self.codes)
        return super().update(folder, generation, rows, state)

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        if self.codes != UNCODED and "torch" in sys.modules:
            self._open_codes(rows)

    def search(
        self, rows: Rows, queries: np.ndarray, k: int, memory: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        among = None
        if selection is not None:
            among = selection.ids
        is_small = among is not None and len(among) <= FEW_SELECTED
        if self.codes == UNCODED or is_small or self._is_first_to_ask(rows, len(queries), k, memory):
            return nearest(rows, queries, k, memory, among)
        if self._coded is None:
            try:
                self._open_codes(rows)
            except FileNotFoundError:  # replaced by another process since the rows were opened, which are still there
                return nearest(rows, queries, k, memory, among)
        return self._coded.nearest(queries, k, memory, among)

    def _open_codes(self, rows: Rows) -> None:
        from retrieval.index.coded import CodedRows

        self._coded = CodedRows(rows, self.codes)

    def _is_first_to_ask(self, rows: Rows, queries: int, k: int, memory: int) -> bool:
        """Whether a process that has not needed torch so far finds the same sooner without it, and without codes."""
        stored = sum(len(segment.ids) for segment in rows.segments)
        is_soon = 4 * rows.width * stored <= READ_AT_ONCE and fits(queries, rows.width, k, memory)
        return is_soon and "torch" not in sys.modules
