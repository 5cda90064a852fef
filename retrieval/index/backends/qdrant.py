"""Qdrant, a server, over HTTP; within this process there is qdrant_edge.

Older versions had the database in this process, by the package's own local mode, which is pure Python. The index of one
is searched exactly.
"""

import contextlib
import time
import uuid
from pathlib import Path

import numpy as np

from core.errors import InputError
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend, require
from retrieval.index.backends._conditions import conditions_of
from retrieval.index.backends._facts import as_utf8, facts_of
from retrieval.index.nearest import nearest
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection

PACKAGE = ("qdrant-client", "qdrant")
POINTS, BLOCK = 500, 64 * 2**20  # points an upsert; bytes of embeddings read at a time
QUERIES = 64  # searched for at a time


@BACKENDS.register("qdrant", package="qdrant-client")
class QdrantBackend(Backend):
    """A vector database on a server, which other programs ask too; needs qdrant-client.

    Options:
        qdrant_url: address of the server, such as http://localhost:6333
    """

    def __init__(self, qdrant_url: str = ""):
        self.url = qdrant_url
        if not qdrant_url:  # an old index, or a sentence of `refuse_new`
            return
        if not qdrant_url.startswith(("http://", "https://")):
            raise InputError(f"qdrant_url {qdrant_url!r} is no address such as http://localhost:6333")
        self.qdrant = require("qdrant_client", *PACKAGE)
        self.models = require("qdrant_client.models", *PACKAGE)
        self.refusals = require("qdrant_client.http.exceptions", *PACKAGE).ApiException

    def refuse_new(self) -> None:
        if not self.url:
            raise InputError(
                "the backend qdrant is a server's: give --qdrant_url=http://...; in this process there is "
                "--backend=qdrant_edge"
            )

    @staticmethod
    def keeps(options: dict) -> dict[str, object]:
        if not options.get("qdrant_url"):
            return {}
        # Only a name as `update` makes it: the collection is deleted with its index.
        return {"collection": "images-[0-9a-f]{12}", "last": int}

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        if not self.url:
            return {"built": generation, "approximate": False}
        is_new = state is None
        if is_new:
            collection = f"images-{uuid.uuid4().hex[:12]}"
            state = {"built": generation, "approximate": True, "collection": collection, "last": -1}
        with self._asking() as client:
            try:
                if is_new:
                    self._create(client, state["collection"], rows.width)
                else:  # points of a change that died
                    after = self.models.FieldCondition(key="id", range=self.models.Range(gt=state["last"]))
                    client.delete(state["collection"], self.models.Filter(must=[after]))
                self._upsert(client, rows, state)
                if is_new:
                    self._wait_for_graph(client, state["collection"])
            except BaseException:
                if is_new:
                    self.discard(state)
                raise
        if not len(rows):
            return state
        return {**state, "last": int(rows.ids[-1])}

    def settle(self, state: dict, deleted: np.ndarray) -> None:
        if self.url and len(deleted):
            with self._asking() as client:
                client.delete(state["collection"], self.models.PointIdsList(points=deleted.tolist()))

    def discard(self, state: dict) -> None:
        if self.url:
            with self._asking() as client:
                client.delete_collection(state["collection"])

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        if self.url:
            self.collection = state["collection"]
            self.client = self._connect()

    def search(
        self, rows: Rows, queries: np.ndarray, k: int, memory: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.url:
            return super().search(rows, queries, k, memory, selection)
        return nearest(rows, queries, k, memory, None if selection is None else selection.ids)

    def candidates(self, queries: np.ndarray, k: int, selection: Selection | None = None) -> np.ndarray:
        query_filter = None
        if selection is not None:
            query_filter = conditions_of(self.models, selection, as_utf8)
        candidates = np.full((len(queries), k), -1)
        with self._asking(self.client) as client:
            for start in range(0, len(queries), QUERIES):
                block = queries[start : start + QUERIES].tolist()
                requests = [self.models.QueryRequest(query=query, limit=k, filter=query_filter) for query in block]
                for row, answer in enumerate(client.query_batch_points(self.collection, requests), start):
                    ids = [point.id for point in answer.points]
                    candidates[row, : len(ids)] = ids
        return candidates

    def advice(self, items: int) -> str | None:
        if self.url:
            return None
        return (
            "its Qdrant was kept in memory by older versions; it is searched exactly. To search it faster build it "
            "anew with --backend=qdrant_edge"
        )

    def _connect(self):
        return self.qdrant.QdrantClient(url=self.url, check_compatibility=False, timeout=60)

    @contextlib.contextmanager
    def _asking(self, client=None):
        """A client, whose refusals come in one sentence."""
        try:
            yield client or self._connect()
        except (self.refusals, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"Qdrant at {self.url} does not answer: {reason[0]}") from None

    def _create(self, client, collection: str, width: int) -> None:
        """A collection whose codes of a byte a number are in memory, its vectors on the server's disk."""
        models = self.models
        codes = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        client.create_collection(
            collection,
            vectors_config=models.VectorParams(size=width, distance=models.Distance.COSINE, on_disk=True),
            quantization_config=models.ScalarQuantization(scalar=codes),
        )

    def _wait_for_graph(self, client, collection: str) -> None:
        """Return when the server has built its graph, whose recall will be measured."""
        while client.get_collection(collection).status == "yellow":
            time.sleep(1)

    def _upsert(self, client, rows: Rows, state: dict) -> None:
        """Write the items above the state's last id, in batches."""
        for ids, embeddings in rows.normalized_blocks(BLOCK, after=state["last"]):
            for start in range(0, len(ids), POINTS):
                batch = ids[start : start + POINTS]
                vectors = embeddings[start : start + POINTS].tolist()
                points = self.models.Batch(ids=batch.tolist(), vectors=vectors, payloads=facts_of(rows, batch))
                client.upsert(state["collection"], points)
