"""The default backend: every item is compared, nothing is kept beside the segments."""

import numpy as np
import torch

from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection


@BACKENDS.register("exact")
class ExactBackend(Backend):
    """Exact to float32, in a bounded memory, with no package to install."""

    def search(
        self, rows: Rows, queries: torch.Tensor, k: int, memory: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        among = None
        if selection is not None:
            among = selection.ids
        return nearest(rows, queries, k, memory, among)
