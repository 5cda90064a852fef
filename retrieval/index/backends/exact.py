"""The default backend: every item is compared, nothing is kept beside the segments."""

from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend
from retrieval.index.nearest import nearest


@BACKENDS.register("exact")
class ExactBackend(Backend):
    """Exact to float32, in a bounded memory, with no package to install."""

    def search(self, rows, queries, k, memory):
        return nearest(rows, queries, k, memory)
