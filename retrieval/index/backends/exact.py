"""The default backend: every item is compared, by its embedding, or first by a code that is proven to hide none."""

from pathlib import Path

import numpy as np
import torch

from core.errors import InputError, near_match
from retrieval.codes import KINDS
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import FEW_SELECTED, Backend
from retrieval.index.coded import CodedRows, write_codes
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection

UNCODED = "float32"


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
            write_codes(rows, self.codes)
        return super().update(folder, generation, rows, state)

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        if self.codes != UNCODED:
            self._coded = CodedRows(rows, self.codes)

    def search(
        self, rows: Rows, queries: torch.Tensor, k: int, memory: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        among = None
        if selection is not None:
            among = selection.ids
        is_small = among is not None and len(among) <= FEW_SELECTED
        if self._coded is None or is_small:
            return nearest(rows, queries, k, memory, among)
        return self._coded.nearest(queries, k, memory, among)
