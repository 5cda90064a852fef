"""Qdrant: embedded in this process, or a server, by the same calls.

Embedded, the collection is filled from the index's segments when it is first searched. Qdrant's own folder on disk is
not used: it holds pickles, which run whatever a stranger has put into them, and admits one process at a time.
"""

import contextlib
import math
import time
import uuid

import numpy as np

from core.errors import InputError
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend, require

PACKAGE = ("qdrant-client", "qdrant")
EMBEDDED = "images"
FEW = 20_000  # items up to which Qdrant finds its embedded form fit
POINTS, BLOCK = 500, 64 * 2**20  # points an upsert; bytes of embeddings read at a time
QUERIES = 64  # searched for at a time


@BACKENDS.register("qdrant", package="qdrant-client")
class QdrantBackend(Backend):
    """A vector database, embedded or a server that other programs ask too; needs qdrant-client.

    Options:
        qdrant_url: address of a server such as http://localhost:6333 (empty: embedded, in this process)
    """

    def __init__(self, qdrant_url=""):
        self.qdrant, self.url = require("qdrant_client", *PACKAGE), qdrant_url
        self.models = require("qdrant_client.models", *PACKAGE)
        self.refusals = require("qdrant_client.http.exceptions", *PACKAGE).ApiException
        if qdrant_url and not qdrant_url.startswith(("http://", "https://")):
            raise InputError(f"qdrant_url {qdrant_url!r} is no address such as http://localhost:6333")

    @staticmethod
    def keeps(options):
        # Only a name as `update` makes it: the collection is deleted with its index.
        return {"collection": "images-[0-9a-f]{12}", "last": int} if options.get("qdrant_url") else {}

    def update(self, folder, generation, rows, state):
        if not self.url:
            return {"built": generation, "approximate": False}
        new = {"built": generation, "approximate": True, "collection": f"images-{uuid.uuid4().hex[:12]}", "last": -1}
        with self._asking() as client:
            try:
                if state is None:
                    self._create(client, new["collection"], rows.width)
                else:  # points of a change that died
                    after = self.models.FieldCondition(key="id", range=self.models.Range(gt=state["last"]))
                    client.delete(state["collection"], self.models.Filter(must=[after]))
                self._upsert(client, rows, state or new)
                while state is None and client.get_collection(new["collection"]).status == "yellow":
                    time.sleep(1)  # the server builds its graph, whose recall will be measured
            except BaseException:
                if state is None:
                    self.discard(new)
                raise
        return {**(state or new), "last": int(rows.ids[-1]) if len(rows) else (state or new)["last"]}

    def settle(self, state, deleted):
        if self.url and len(deleted):
            with self._asking() as client:
                client.delete(state["collection"], self.models.PointIdsList(points=deleted.tolist()))

    def discard(self, state):
        if self.url:
            with self._asking() as client:
                client.delete_collection(state["collection"])

    def open(self, folder, state, rows):
        if self.url:
            self.collection, self.client = state["collection"], self._connect()
            return
        self.collection, self.client = EMBEDDED, self._connect()
        # Said in our own words by `advice`.
        require("qdrant_client.common.client_warnings", *PACKAGE).SEEN_MESSAGES.add("large-local-collection")
        self._create(self.client, EMBEDDED, rows.width)
        self._upsert(self.client, rows, {"collection": EMBEDDED, "last": -1})

    def candidates(self, queries, k):
        found = np.full((len(queries), k), -1)
        with self._asking(self.client) as client:
            for start in range(0, len(queries), QUERIES):
                some = queries[start : start + QUERIES].tolist()
                requests = [self.models.QueryRequest(query=query, limit=k) for query in some]
                for row, answer in enumerate(client.query_batch_points(self.collection, requests), start):
                    ids = [point.id for point in answer.points]
                    found[row, : len(ids)] = ids
        return found

    def advice(self, items):
        if self.url or items <= FEW:
            return None
        return (
            f"embedded Qdrant is made for {FEW} items; for {items} run a server and build with --qdrant_url, or take "
            "another backend"
        )

    def _connect(self):
        if self.url:
            return self.qdrant.QdrantClient(url=self.url, check_compatibility=False, timeout=60)
        return self.qdrant.QdrantClient(":memory:")

    @contextlib.contextmanager
    def _asking(self, client=None):
        """A client, whose refusals come in one sentence."""
        try:
            yield client or self._connect()
        except (self.refusals, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"Qdrant{f' at {self.url}' if self.url else ''} does not answer: {reason[0]}") from None

    def _create(self, client, collection, width):
        client.create_collection(
            collection, vectors_config=self.models.VectorParams(size=width, distance=self.models.Distance.COSINE)
        )

    def _upsert(self, client, rows, state):
        """The items above the state's last id, in batches."""
        for ids, embeddings in rows.unit_blocks(BLOCK, after=state["last"]):
            for start in range(0, len(ids), POINTS):
                some, vectors = ids[start : start + POINTS], embeddings[start : start + POINTS].tolist()
                payloads = _payloads(rows, some)
                client.upsert(
                    state["collection"], self.models.Batch(ids=some.tolist(), vectors=vectors, payloads=payloads)
                )


def _payloads(rows, ids):
    """What other programs can see of items: label as it is, its name, path and box; None, empty to Qdrant, for unknown.

    A name stays what it was when the item was added.
    """
    columns = zip(ids.tolist(), rows.labels(ids).tolist(), rows.paths(ids), rows.boxes(ids).tolist())
    payloads = []
    for id_, label, path, box in columns:
        name = rows.label_names.get(str(label)) if label is not None else None
        box = None if math.isnan(box[0]) else box
        texts = {"label": label, "name": name, "path": path}
        payloads.append({"id": id_, **{key: _as_utf8(text) for key, text in texts.items()}, "box": box})
    return payloads


def _as_utf8(value):
    """A text without what UTF-8 cannot hold, as a file's name may have it; anything else as it is."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
