"""Qdrant Edge: the database Qdrant within this process, its vectors as int8 codes in a graph (HNSW).

Items lie in shards, folders that are written once and never changed: a change writes one for what is new, and it takes
over the shards before it that are not much longer. So any number of processes read an index while one writes to it, and
whenever that one dies the card names whole shards. Deleted items stay in theirs until it is taken over, and are left
out of what is found. A shard has no write-ahead log, which would admit one process at a time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.errors import InputError, first_line
from core.files import read_json, sync
from core.text import counted
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend, require
from retrieval.index.backends._conditions import conditions_of
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection, Value

GRAPH_FROM = 2000  # items of a shard from which on it has a graph; fewer are all compared
GROWTH = 4  # a new shard takes over the last ones up to so many times its own length
BUILT_WITH = 100  # candidates for the links of an item: Qdrant's own default
POINTS, BLOCK = 2000, 64 * 2**20  # points handed over at a time; bytes of embeddings read at a time
QUERIES = 256  # searched for at a time
FIELDS = ("label", "category")  # of a point, by which it is selected
CONTENT = "segments"  # what of a shard's folder is Qdrant's data


@BACKENDS.register("qdrant_edge", package="qdrant-edge-py")
class QdrantEdgeBackend(Backend):
    """A vector database in this process: fast, small, takes items and lets them go; needs qdrant-edge-py.

    Options:
        links: links of an item in the graph
        probes: items that a query follows in the graph: more find more, and take longer
    """

    def __init__(self, links: int = 16, probes: int = 128):
        for name, value, least in (("links", links, 2), ("probes", probes, 1)):
            if value < least:
                raise InputError(f"{name} is {value}; qdrant_edge needs {least} or more")
        self.edge = require("qdrant_edge", "qdrant-edge-py", "qdrant_edge")
        self.links = links
        self.probes = probes

    @staticmethod
    def keeps(options: dict) -> dict[str, object]:
        """files: the shards, in the order of their items; lasts, stored: the last id in each, and how many items."""
        return {"files": list[str], "lasts": list[int], "stored": list[int]}

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        if not len(rows):
            return None
        shards = []
        if state is not None and sum(state["stored"]) <= 2 * len(rows):
            shards = _shards(folder, state)
            if shards and shards[-1][1] >= rows.ids[-1]:
                return state  # nothing new, and what was deleted the search leaves out
        # From the last shard backwards, those that are not much longer than what is new go into its shard.
        while shards and shards[-1][2] <= GROWTH * _items_after(rows, _last(shards)):
            shards.pop()
        after = _last(shards)
        file = f"qdrant_edge-{generation:06d}"
        self._write(folder / file, rows, after)
        built = state["built"] if shards else generation
        shards.append((file, int(rows.ids[-1]), _items_after(rows, after)))
        files, lasts, stored = map(list, zip(*shards, strict=True))
        return {"built": built, "approximate": True, "files": files, "lasts": lasts, "stored": stored}

    def _write(self, path: Path, rows: Rows, after: int) -> None:
        """Write a shard of the items above the id `after`."""
        path.mkdir()
        with _failing_as(OSError):
            shard = self.edge.EdgeShard.create(str(path), self._config(rows.width))
            with contextlib.closing(shard):
                for field in _fields_with_values(rows, after):
                    shard.update(
                        self.edge.UpdateOperation.create_field_index(field, self.edge.PayloadSchemaType.Keyword)
                    )
                for ids, embeddings in rows.normalized_blocks(BLOCK, after=after):
                    for start in range(0, len(ids), POINTS):
                        part = slice(start, start + POINTS)
                        points = self._points(rows, ids[part], embeddings[part])
                        shard.update(self.edge.UpdateOperation.upsert_points(points))
                shard.optimize()
                shard.flush()  # which is when it is on the disk
        sync(path)

    def _points(self, rows: Rows, ids: np.ndarray, embeddings: np.ndarray) -> list:
        points = []
        columns = zip(
            ids.tolist(), embeddings.tolist(), rows.labels(ids).tolist(), rows.categories(ids).tolist(), strict=True
        )
        for id_, vector, *values in columns:
            payload = {field: _key(value) for field, value in zip(FIELDS, values, strict=True) if value is not None}
            points.append(self.edge.Point(id_, vector, payload))
        return points

    def _config(self, width: int):
        """Vectors at half precision, since exact ones are in the index's segments; codes of a byte a number."""
        edge = self.edge
        kilobytes = max(1, GRAPH_FROM * width * 2 // 1024)
        return edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=width, distance=edge.Distance.Dot, datatype=edge.VectorStorageDatatype.Float16
            ),
            # Any size is worth the graph: the threshold for it is the optimiser's.
            hnsw_config=edge.HnswIndexConfig(
                m=self.links,
                ef_construct=BUILT_WITH,
                full_scan_threshold=1,
                payload_m=0,  # no graph of its own for each label: of few items exact search does as well
            ),
            quantization_config=edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, always_ram=True),
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=2**40, indexing_threshold=kilobytes
            ),
            wal_enabled=False,
        )

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        self.shards = []
        self.rooms = []
        for file, _, stored in _shards(folder, state):
            path = folder / file
            try:
                shard = self._load(path, rows.width)
                count = shard.info().points_count
                if count != stored:
                    raise InputError(f"{str(path)!r} is damaged: it holds {counted(count, 'item')}, not {stored}")
            except InputError:
                # Another process may be removing it, since it has changed the index.
                if not path.exists() or not _is_current(folder, state):
                    raise FileNotFoundError(2, "replaced meanwhile", str(path)) from None
                raise
            self.shards.append(shard)
        # As many of those that live are found as without any deleted ones among them.
        self.more = sum(state["stored"]) / len(rows)

    def _load(self, path: Path, width: int):
        """A shard, ready for search, of whose folder nothing is written, nor outside of it whatever is in it."""
        for part in [path, *path.rglob("*")]:
            if part.is_symlink():
                raise InputError(f"{str(path)!r} is damaged: {str(part)!r} is a link")
        # Qdrant writes its settings when it loads a shard: into a folder of our own, from our card, into which the
        # shard's data is linked. So many processes can load one, and no settings of a stranger count.
        room = tempfile.TemporaryDirectory(prefix="qdrant_edge-")
        self.rooms.append(room)
        (Path(room.name) / CONTENT).symlink_to((path / CONTENT).resolve())
        if not (path / CONTENT).is_dir():
            raise InputError(f"{str(path)!r} is damaged: there is no {CONTENT!r} in it")
        with _failing_as(InputError, f"{str(path)!r} is damaged: "):
            return self.edge.EdgeShard.load(room.name, self._config(width))

    def candidates(self, queries: np.ndarray, k: int, selection: Selection | None = None) -> np.ndarray:
        edge = self.edge
        limit = int(np.ceil(k * self.more))
        query_filter = acorn = None
        if selection is not None:
            query_filter = conditions_of(edge, selection, _key)
            # Follows links across items that are not wanted (arXiv 2403.04871), without which most are missed.
            acorn = edge.AcornSearchParams(enable=True)
        parameters = edge.SearchParams(
            hnsw_ef=max(self.probes, limit), acorn=acorn, quantization=edge.QuantizationSearchParams(rescore=False)
        )
        candidates = np.full((len(queries), limit * len(self.shards)), -1)
        for start in range(0, len(queries), QUERIES):
            requests = []
            for query in queries[start : start + QUERIES].tolist():
                nearest = edge.Query.Nearest(query)
                requests.append(edge.QueryRequest(limit=limit, query=nearest, filter=query_filter, params=parameters))
            batch = edge.QueryBatchRequest(requests)
            for number, shard in enumerate(self.shards):
                with _failing_as(InputError, "Qdrant Edge: "):
                    answers = shard.query_batch(batch)
                for row, points in enumerate(answers, start):
                    ids = [point.id for point in points]
                    candidates[row, number * limit : number * limit + len(ids)] = ids
        return candidates


def _shards(folder: Path, state: dict) -> list[tuple[str, int, int]]:
    """(name, last id, items stored) of each shard. Raises InputError where the card's columns do not fit together."""
    files, lasts, stored = state["files"], state["lasts"], state["stored"]
    if not files or not len(files) == len(lasts) == len(stored) or sorted(set(lasts)) != lasts:
        raise InputError(f"{str(folder)!r} is damaged: shards {files}, last ids {lasts}, items {stored}")
    return list(zip(files, lasts, stored, strict=True))


def _last(shards: list[tuple[str, int, int]]) -> int:
    """The last id in some shards, -1 where there are none."""
    return shards[-1][1] if shards else -1


def _items_after(rows: Rows, last: int) -> int:
    return len(rows) - int(np.searchsorted(rows.ids, last, side="right"))


def _fields_with_values(rows: Rows, after: int) -> list[str]:
    """Those of FIELDS that a shard of the items above the id `after` keeps lists of: none where few are compared."""
    start = len(rows) - _items_after(rows, after)
    if len(rows) - start < GRAPH_FROM:
        return []
    columns = (rows.label_column, rows.category_column)
    return [field for field, column in zip(FIELDS, columns, strict=True) if (column.codes[start:] >= 0).any()]


def _key(value: Value) -> str:
    """What stands for a label in a payload: 7 and "7" are two, and UTF-8 has to hold it."""
    return f"{type(value).__name__} {value}".encode(errors="replace").decode()


def _is_current(folder: Path, state: dict) -> bool:
    """Whether the card of the index still names this state."""
    return read_json(folder / "index.json").get("state") == state


@contextlib.contextmanager
def _failing_as(kind: type[Exception], start: str = "") -> Iterator[None]:
    """Whatever Qdrant Edge raises, panics of its own included, in one sentence."""
    try:
        yield
    except Exception as error:
        raise kind(f"{start}{first_line(error)}") from None
    except BaseException as error:
        # A panic is no Exception, lest it be caught by chance.
        if type(error).__name__ != "PanicException":
            raise
        raise kind(f"{start}{first_line(error)}") from None
