"""A table of embeddings: a list, the numbers of each of its images, and the model that made them."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.arrays import RowFile, write_array, write_npz
from core.device import search_device
from core.files import replacing
from core.packages import needed
from core.slices import slices_within
from data.records import Records
from embeddings.npz import COLUMNS
from embeddings.queries import Queries
from embeddings.rows import OrderedRows
from retrieval.index.items import item_name
from retrieval.query_gallery import QueryGallery
from retrieval.sharded import GalleryShard

FORMAT = 2  # of our .npz; before it an unknown label was -1
SUFFIXES = (".npz", ".npy", ".json", ".parquet")  # of the files that a table is saved to
JSON_BLOCK = 2**18  # bytes of embeddings that are turned into text at a time
PARQUET_BLOCK = 2**26  # bytes of embeddings in a group of rows


@dataclass(frozen=True)
class EmbeddingTable:
    """The embeddings of N records.

    matrix: (N, D) float32 as a tensor on the CPU; or a rank's GalleryShard; or rows on the disk (rows.py).
    fingerprint: plain JSON that tells models apart (embeddings/fingerprint.py), None where the model is not known.
    """

    records: Records
    matrix: torch.Tensor | GalleryShard | RowFile | OrderedRows
    fingerprint: dict | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        if isinstance(self.matrix, RowFile | OrderedRows):
            return self.matrix.width
        if isinstance(self.matrix, GalleryShard):
            return self.matrix.embeddings.shape[1]
        return self.matrix.shape[1]

    def head(self, count: int) -> torch.Tensor:
        """The first embeddings, (n, D) in memory with n up to `count`."""
        if isinstance(self.matrix, RowFile | OrderedRows):
            return torch.from_numpy(self.matrix.head(count))
        return self.matrix[:count]

    def as_queries(self) -> Queries:
        """What asks an index with all of it: in memory, since each block of items is compared with every query."""
        return Queries(self.records, self.head(len(self)).numpy(), self.fingerprint)

    def mapped(self) -> np.ndarray:
        """All embeddings, (N, D); those that stand on the disk in this order take no memory of their own."""
        if isinstance(self.matrix, RowFile | OrderedRows):
            return self.matrix.mapped()
        return self.matrix.numpy()

    def query_gallery(self, device: torch.device) -> QueryGallery:
        """The list's queries against its gallery; an image without a sequence is one of its own.

        device: the one in use; the search runs there if it can (core/device.py). Of a shard the result only tells who
        asks and who can be found.
        """
        if isinstance(self.matrix, GalleryShard):
            embeddings = self.matrix.placeholder()
        else:
            matrix = self.head(len(self))
            embeddings = matrix.to(search_device(device, matrix))
        sequences = self.records.sequences
        if sequences is not None:
            # Words in front keep the names that are made up here apart from those of the list.
            made_up = np.array([f"image {row}" for row in range(len(self))])
            given = np.char.add("sequence ", sequences.astype(str))
            sequences = np.where(sequences == "", made_up, given)
        return QueryGallery.of(
            embeddings,
            self.records.vocabulary.codes,
            is_query=self.records.is_query,
            is_gallery=self.records.is_gallery,
            sequences=sequences,
            categories=self.records.category_texts,
        )

    def save(self, path: str | Path) -> None:
        """Write it as the path ends: all of it as .npz, the embeddings alone as .npy, {path: embedding} as .json, a
        row an image as .parquet.

        Raises InputError where that cannot be. Rows on the disk are copied block by block.
        """
        writers = {
            ".npz": self._save_npz,
            ".npy": self._save_npy,
            ".json": self._save_json,
            ".parquet": self._save_parquet,
        }
        writers[Path(path).suffix](path)

    def _save_npz(self, path: str | Path) -> None:
        """The list's columns (no labels where nobody knows them), the embeddings, names and the fingerprint."""
        arrays = {}
        for name in COLUMNS:
            column = getattr(self.records, name)
            if column is not None:
                arrays[name] = column
        names = {"label": self.records.names.label, "category": self.records.names.category}
        if any(names.values()):
            arrays["names"] = np.array(json.dumps(names))
        if isinstance(self.matrix, torch.Tensor):
            arrays["embeddings"] = self.matrix.numpy()
        else:
            arrays["embeddings"] = self.matrix
        arrays["model"] = np.array(json.dumps(self.fingerprint))
        arrays["format"] = np.array(FORMAT)
        write_npz(path, arrays)

    def _save_npy(self, path: str | Path) -> None:
        """The embeddings (N, D) alone."""
        with replacing(path) as file:
            write_array(file, self.matrix.numpy() if isinstance(self.matrix, torch.Tensor) else self.matrix)

    def _save_parquet(self, path: str | Path) -> None:
        """Columns path, label (left out where nobody knows them) and embedding, as lists of fixed size."""
        pyarrow = needed("pyarrow", f"--output={path}", "shards")
        parquet = needed("pyarrow.parquet", f"--output={path}", "shards")
        # A file's name may be no UTF-8, which all texts of a parquet file are; it has \xNN for such bytes.
        paths = [os.fsencode(path).decode(errors="backslashreplace") for path in self.records.paths.tolist()]
        columns = {"path": pyarrow.array(paths, pyarrow.string())}
        if self.records.labels is not None:
            columns["label"] = pyarrow.array(self.records.labels.tolist())
        embedding = pyarrow.list_(pyarrow.float32(), self.width)
        fields = {name: column.type for name, column in columns.items()}
        schema = pyarrow.schema({**fields, "embedding": embedding})
        first = 0
        # Numbers hardly repeat, nor do paths: a dictionary of them would only be large.
        with replacing(path) as file, parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
            for block in self._blocks(PARQUET_BLOCK):
                arrays = [column.slice(first, len(block)) for column in columns.values()]
                numbers = pyarrow.array(block.reshape(-1), pyarrow.float32())
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(numbers, type=embedding))
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                first += len(block)

    def _save_json(self, path: str | Path) -> None:
        """{item_name: embedding}; an image that comes twice stands once."""
        records = self.records
        # Names need remembering only where two are the same, which equal hashes of their paths show for less memory.
        hashes = np.fromiter((hash(path) for path in records.paths), np.int64, len(records))
        may_repeat = len(np.unique(hashes)) < len(records)
        written = set()
        row = 0
        with replacing(path) as file:
            separator = b"{"
            for block in self._blocks(JSON_BLOCK):
                for numbers in block.tolist():
                    name = item_name(records.paths[row], records.box_of(row))
                    row += 1
                    if name in written:
                        continue
                    if may_repeat:
                        written.add(name)
                    file.write(separator + f"{json.dumps(name)}: {json.dumps(numbers)}".encode())
                    separator = b", "
            file.write(b"}")

    def _blocks(self, memory: int) -> Iterator[np.ndarray]:
        """Yield all embeddings in arrays (n, D) of `memory` bytes or less."""
        if isinstance(self.matrix, RowFile | OrderedRows):
            yield from self.matrix.blocks(memory=memory)
        else:
            for block in slices_within(len(self), 4 * self.width, memory):
                yield self.matrix[block].numpy()
