"""Few queries against a gallery that is wider than memory: its table, mapped from the disk, is read once, from front to
back, and each block of rows is searched where it then stands in memory.

Within a block rows are read in any order, as candidates and sorting by label have it; out of the mapped table each of
them would be a read of its own. What blocks find is merged by exact scores, equal ones by the row, as
retrieval/sharded.py merges what ranks find, so that the result is that of a search of all at once.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from core.slices import MEMORY, slices_within
from retrieval.candidates import NOWHERE, pack, unpack
from retrieval.query_gallery import QueryGallery
from retrieval.rows import Frame, row_lengths
from retrieval.scores import Scores
from retrieval.topk import search_in_parts

WIDE = 4  # times the memory of a search that a table takes at least, to be read in blocks
SYMMETRIC = 2  # from one query in so many rows on, what a symmetric matrix saves is worth more


def is_wide(query_gallery: QueryGallery, memory: int) -> bool:
    """Whether a gallery is better read in blocks: it is on the CPU, much larger than `memory`, and few rows ask."""
    table = query_gallery.gallery_table
    is_large = table.device.type == "cpu" and table.nbytes > WIDE * memory
    return is_large and SYMMETRIC * len(query_gallery.query_rows) <= len(query_gallery.gallery_rows)


@torch.no_grad()
def search_wide_in_parts(
    query_gallery: QueryGallery, k: int, distance: str = "cosine", memory: int = MEMORY
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """topk.search_in_parts, the gallery's table being read once for each part; scores are exact."""
    k = min(k, len(query_gallery.gallery_rows))
    table = query_gallery.gallery_table
    lengths = row_lengths(table)
    frame = None
    if distance == "squared_euclidean":
        frame = Frame.of_all(table, lambda numbers: numbers)
    # A query brings its embedding, and two keys of 8 bytes for each item, which are sorted.
    query_bytes = table.itemsize * table.shape[1] + 40 * k
    for part in slices_within(len(query_gallery.query_rows), query_bytes, memory // 4):
        asking = query_gallery.query_slice(part)
        # A list's queries may be rows of the table on the disk, and are wanted for each block.
        asking = replace(
            asking,
            query_table=asking.query_table[asking.query_rows],
            query_rows=torch.arange(len(asking.query_rows)),
        )
        nothing = torch.full((len(asking.query_rows), k), NOWHERE)
        keys = pack(torch.full(nothing.shape, -torch.inf), nothing)
        for rows in slices_within(len(table), table.itemsize * table.shape[1], memory // 4):
            block = _block(asking, rows)
            if len(block.gallery_rows):
                found = _block_keys(block, rows.start, keys, distance, memory // 4, lengths[rows], frame)
                keys = torch.cat([keys, found], dim=1).sort(dim=1).values[:, :k]
        yield part, *unpack(keys)


def _block(asking: QueryGallery, rows: slice) -> QueryGallery:
    """Queries against the gallery's items among some rows of its table, which are copied into memory."""
    places = torch.searchsorted(asking.gallery_rows, torch.tensor([rows.start, rows.stop])).tolist()
    items = slice(*places)
    is_here = (asking.self_rows >= rows.start) & (asking.self_rows < rows.stop)
    return replace(
        asking,
        gallery_table=asking.gallery_table[rows].clone(),
        gallery_rows=asking.gallery_rows[items] - rows.start,
        self_rows=torch.where(is_here, asking.self_rows - rows.start, NOWHERE),
        gallery_labels=None if asking.gallery_labels is None else asking.gallery_labels[items],
        gallery_sequences=None if asking.gallery_sequences is None else asking.gallery_sequences[items],
    )


def _block_keys(
    block: QueryGallery,
    first_row: int,
    keys: torch.Tensor,
    distance: str,
    memory: int,
    lengths: torch.Tensor,
    frame: Frame | None,
) -> torch.Tensor:
    """(Q, c) int64: what a block holds that may be among the nearest, with exact scores, as `pack` makes them.

    keys: (Q, k), those that are known from the blocks before.
    """
    scores = Scores(block, distance, lengths, frame)
    parts = list(search_in_parts(block, keys.shape[1], distance, memory, gallery_lengths=lengths, frame=frame))
    rows = torch.cat([part_rows for _, part_rows, _ in parts])
    likely = torch.cat([part_scores for _, _, part_scores in parts])
    # An item that is farther than k others by more than rounding takes a score needs no exact one.
    floor = unpack(keys)[1][:, -1:] - scores.largest_fast_error()
    query, column = ((rows != NOWHERE) & (likely >= floor)).nonzero(as_tuple=True)
    row = rows[query, column]
    positions = torch.searchsorted(block.gallery_rows, row)
    exact = torch.full(rows.shape, -torch.inf)
    exact[query, column] = scores.exact_pairs(query, positions)
    return pack(exact, rows + first_row)
