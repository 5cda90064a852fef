"""FAISS (arXiv 2401.08281): inverted lists, short codes or a graph, in one file a generation."""

import math
from pathlib import Path

import numpy as np

from core.errors import InputError, near_match
from core.files import sync
from core.text import counted, plural
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend, require
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection

KINDS = ("auto", "flat", "ivf", "ivfpq", "hnsw", "hnsw_sq8")
LINKS = {"hnsw": 32, "hnsw_sq8": 16}  # where they are left open
FLAT_UP_TO, IVF_UP_TO = 10_000, 1_000_000  # items up to which `auto` is flat, then ivf, then ivfpq
FEWEST, MOST = 39, 64  # items a list to train on: FAISS's least, and enough
MOST_BYTES = 64  # of a code by default: each one more costs as much training
REFINED = 8  # times as many candidates where the codes are coarse
TRAINED_SQ8 = 50_000  # items that tell the range of each number, of which a byte is made
GROWTH = 4  # made anew when the items are so many times as many
BLOCK = 64 * 2**20  # bytes of embeddings added at a time


@BACKENDS.register("faiss", package="faiss-cpu")
class FaissBackend(Backend):
    """Faster than comparing everything, for some misses; needs faiss-cpu.

    Options:
        faiss_kind: flat (compares all), ivf (lists), ivfpq (lists of short codes), hnsw (a graph), hnsw_sq8 (a graph of
            codes of a byte a number: small and fast, for what does not change), or auto: by size
        lists: how many lists of ivf and ivfpq (0: by size)
        probes: lists that a query looks through, or items that it follows in hnsw (0: by size)
        code_bytes: bytes of an item's code in ivfpq, which have to divide the width (0: one for four numbers, to 64)
        links: links of an item in hnsw (0: 32) and hnsw_sq8 (0: 16)
    """

    def __init__(self, faiss_kind: str = "auto", lists: int = 0, probes: int = 0, code_bytes: int = 0, links: int = 0):
        if faiss_kind not in KINDS:
            raise InputError(f"faiss_kind {faiss_kind!r} is none of {', '.join(KINDS)}.{near_match(faiss_kind, KINDS)}")
        for name, value in {"lists": lists, "probes": probes, "code_bytes": code_bytes}.items():
            if value < 0:
                raise InputError(f"{name} is {value}; it is 0, which chooses by size, or more")
        if links < 2 and links != 0:
            raise InputError(f"links is {links}; hnsw needs 2 or more, or 0, which chooses")
        self.faiss = require("faiss", "faiss-cpu", "faiss")
        self.kind = faiss_kind
        self.lists = lists
        self.probes = probes
        self.code_bytes = code_bytes
        self.links = links

    @staticmethod
    def keeps(options: dict) -> dict[str, object]:
        numbers = ("built_of", "probes", "refined", "last", "stored")
        return {"factory": str, "file": str, **{name: int for name in numbers}}

    def check(self, items: int, width: int) -> None:
        if self.lists > items:
            raise InputError(
                f"lists is {self.lists}, but there {plural(items, 'is', 'are')} only {counted(items, 'item')}"
            )
        if self.code_bytes and width % self.code_bytes:
            raise InputError(f"code_bytes is {self.code_bytes}, which does not divide the width {width}")

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        if not len(rows):
            return None
        # Lists and codes fit the items that they were trained on, and deleted items take space until the next training.
        if state is None or len(rows) > GROWTH * state["built_of"] or state["stored"] > 2 * len(rows):
            design = self._design(len(rows), rows.width)
            index = self._trained(rows, design)
            state = {"built": generation, "built_of": len(rows), **design, "last": -1}
        elif state["last"] >= rows.ids[-1]:
            return state  # nothing new, and what was deleted the search leaves out
        else:
            index = self._read(folder / state["file"])
        for ids, embeddings in rows.normalized_blocks(BLOCK, after=state["last"]):
            index.add_with_ids(embeddings, ids)
        file = f"faiss-{generation:06d}.index"
        self._write(index, folder / file)
        return {**state, "file": file, "last": int(rows.ids[-1]), "stored": index.ntotal}

    def _design(self, items: int, width: int) -> dict:
        """What the options and the number of items come to; `factory` is FAISS's own word for it."""
        kind = self.kind
        if kind == "auto":
            kind = _kind_for(items)
        if kind == "flat":
            return {"factory": "IDMap,Flat", "approximate": False, "probes": 0, "refined": 1}
        if kind in LINKS:
            links = self.links or LINKS[kind]
            factory = f"IDMap,HNSW{links},Flat"
            if kind == "hnsw_sq8":
                factory = f"IDMap,HNSW{links}_SQ8"
            return {"factory": factory, "approximate": True, "probes": self.probes or 128, "refined": 1}
        lists = self.lists or max(1, min(round(4 * math.sqrt(items)), items // FEWEST))
        lists = min(lists, items)
        probes = min(self.probes or max(16, lists // 16), lists)
        if kind == "ivf":
            return {"factory": f"IVF{lists},Flat", "approximate": True, "probes": probes, "refined": 1}
        code_bytes = self.code_bytes or _code_bytes_for(width)
        bits = max(1, min(8, int(math.log2(max(2, items / FEWEST)))))
        # np: without polysemous training, which nothing here uses and which takes most of the time
        factory = f"IVF{lists},PQ{code_bytes}x{bits}np"
        return {"factory": factory, "approximate": True, "probes": probes, "refined": REFINED}

    def _trained(self, rows: Rows, design: dict):
        """A FAISS index of that design, without items, trained on a sample of them."""
        index = self.faiss.index_factory(rows.width, design["factory"], self.faiss.METRIC_INNER_PRODUCT)
        if index.is_trained:
            return index
        if "SQ8" in design["factory"]:
            # Mirrored, since a few items alone may all lie on one side of those that come later.
            sample = rows.normalized(_sample(rows, TRAINED_SQ8))
            index.train(np.concatenate([sample, -sample]))
            return index
        index.cp.min_points_per_centroid = 1  # few items are no reason to write to stderr
        if hasattr(index, "pq"):
            index.pq.cp.min_points_per_centroid = 1
        count = min(len(rows), MOST * max(index.nlist, 256))
        # Codes take two to train on, so a single item comes twice.
        index.train(rows.normalized(np.resize(_sample(rows, count), max(2, count))))
        return index

    def _write(self, index, path: Path) -> None:
        try:
            self.faiss.write_index(index, str(path))
        except RuntimeError as error:
            raise OSError(str(error)) from None
        sync(path)

    def _read(self, path: Path):
        path.stat()  # FAISS has no error of its own for a file that is not there
        try:
            return self.faiss.read_index(str(path))
        except RuntimeError as error:
            raise InputError(f"{str(path)!r} is damaged: {str(error).splitlines()[0]}") from None

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        self.state = state
        self.index = self._read(folder / state["file"])
        self.selector = None
        # Deleted items still stand in FAISS's file; a bit for each id tells it which live.
        if state["stored"] > len(rows):
            self.selector = self._selector(rows.ids)
        self.items = len(rows)

    def _selector(self, ids: np.ndarray):
        """What tells FAISS to find only these ids (n,)."""
        is_wanted = np.zeros(self.state["last"] + 1, dtype=bool)
        is_wanted[ids] = True
        return self.faiss.IDSelectorBitmap(np.packbits(is_wanted, bitorder="little"))

    def candidates(self, queries: np.ndarray, k: int, selection: Selection | None = None) -> np.ndarray:
        wanted = k * self.state["refined"]
        probes = self.state["probes"]
        selector = self.selector
        if selection is not None:
            selector = self._selector(selection.ids)
            # As many of those that are wanted are met on the way as without a selection.
            probes = probes * self.items // len(selection.ids)
        if "IVF" in self.state["factory"]:
            probes = min(probes, self.index.nlist)
            parameters = self.faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        elif "HNSW" in self.state["factory"]:
            parameters = self.faiss.SearchParametersHNSW(efSearch=max(probes, wanted), sel=selector)
        else:
            parameters = self.faiss.SearchParameters(sel=selector)
        return self.index.search(queries, wanted, params=parameters)[1]


def _sample(rows: Rows, count: int) -> np.ndarray:
    """Ids (n,) of some items drawn at random, rising; all, if there are no more than `count`."""
    return np.sort(np.random.default_rng(0).choice(rows.ids, min(count, len(rows)), replace=False))


def _kind_for(items: int) -> str:
    """What `auto` is for so many items: exact while that is fast, then lists, then short codes that fit into memory."""
    if items <= FLAT_UP_TO:
        return "flat"
    if items <= IVF_UP_TO:
        return "ivf"
    return "ivfpq"


def _code_bytes_for(width: int) -> int:
    """The most bytes of a code, one for four numbers at most, that divide the width."""
    most = min(max(1, width // 4), MOST_BYTES)
    return max(size for size in range(1, most + 1) if width % size == 0)
