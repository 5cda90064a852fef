"""What a score is: the cosine or the squared Euclidean distance of two rows, exact.

The exact score of two rows does not depend on block sizes, threads or devices. Rows are scaled (cosine: to length one;
squared Euclidean: moved to the middle of their box and divided by a power of two, so that the longest is at most one),
rounded to a grid of 2^-26 (2^-25), and then multiplied in float64, where sums of such numbers are exact in any order.
The result is rounded to float32 once. The grid moves a row by less than float32 rounding moves its numbers.
"""

import math
from typing import Literal

import torch

from core.errors import InputError, near_match
from core.slices import numbers_at_once, slices_within
from retrieval.plain import COSINE_BITS
from retrieval.query_gallery import QueryGallery
from retrieval.rows import Frame, box_centre, euclidean_lengths, power_of_two, row_lengths

DISTANCES = ("cosine", "squared_euclidean")
GRID_BITS = {"cosine": COSINE_BITS, "squared_euclidean": 25}  # a scaled row's numbers are multiples of 2^-bits

Side = Literal["query", "gallery"]


class ExactScores:
    """Exact scores of queries against a gallery, larger being closer: the cosine, or minus the squared distance.

    gallery_lengths: (N,) float64 as row_lengths gives them for the gallery's table, where they are known from before.
    frame: the Frame of all embeddings, where the two tables are a part of them and scores have to be those of all.
    Raises InputError for an unknown distance and for NaN or infinite embeddings, naming the rows.

    tables, rows, lengths, divisors: by side, `query` or `gallery`. longest: the greatest length of a row. at_once: how
    many numbers of rows are prepared at a time.
    """

    def __init__(
        self,
        query_gallery: QueryGallery,
        distance: str = "cosine",
        gallery_lengths: torch.Tensor | None = None,
        frame: Frame | None = None,
    ):
        if distance not in DISTANCES:
            near = near_match(distance, DISTANCES)
            raise InputError(f"unknown distance {distance!r}; there are: {', '.join(DISTANCES)}.{near}")
        self.euclidean = distance == "squared_euclidean"
        self.grid_bits = GRID_BITS[distance]
        self.tables = {"query": query_gallery.query_table, "gallery": query_gallery.gallery_table}
        self.rows = {"query": query_gallery.query_rows, "gallery": query_gallery.gallery_rows}
        self.width = query_gallery.gallery_table.shape[1]
        self.at_once = numbers_at_once(query_gallery.device.type)
        self.symmetric = query_gallery.one_against_rest

        # Lengths of the rows as they are: they show what is not finite, and the cosine divides by them.
        if gallery_lengths is None:
            gallery_lengths = row_lengths(query_gallery.gallery_table)
        if query_gallery.one_table:
            query_lengths = gallery_lengths
        else:
            query_lengths = row_lengths(query_gallery.query_table, "query embeddings")
        # Squared distances keep more digits around the middle of the rows, which changes no distance.
        self.centre = None
        if self.euclidean:
            self.centre = frame.centre if frame else box_centre([*self.tables.values()])
            gallery_lengths = euclidean_lengths(query_gallery.gallery_table, self.centre)
            if query_gallery.one_table:
                query_lengths = gallery_lengths
            else:
                query_lengths = euclidean_lengths(query_gallery.query_table, self.centre)
        self.lengths = {"query": query_lengths, "gallery": gallery_lengths}
        self.longest = max(lengths.max().item() for lengths in self.lengths.values() if len(lengths))
        self.scale = frame.scale if frame else power_of_two(self.longest)
        # A row of zeros is divided by infinity: it stays zero, and its cosine with everything is 0.
        self.divisors = {side: torch.where(length > 0, length, math.inf) for side, length in self.lengths.items()}

    def grid_rows(self, side: Side, positions: slice | torch.Tensor) -> torch.Tensor:
        """Scaled rows (n, D) of a side, float64, as whole multiples of the grid."""
        rows = self.rows[side][positions]
        numbers = self.tables[side].index_select(0, rows).double()  # twice as fast as indexing
        if self.euclidean:
            return numbers.sub_(self.centre).mul_(2.0**self.grid_bits / self.scale).round_()
        return numbers.mul_(2.0**self.grid_bits / self.divisors[side][rows, None]).round_()

    def from_grid(self, sums: torch.Tensor) -> torch.Tensor:
        """Exact scores, float32, from exact sums of products on the grid, float64: rounded here and nowhere else.

        The sums are cosines, or minus half the squared distances, in units of the squared grid.
        """
        if self.euclidean:
            return (sums * (2.0 ** (1 - 2 * self.grid_bits) * self.scale**2)).float()
        return (sums * 2.0 ** (-2 * self.grid_bits)).float()

    def exact_pairs(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Exact scores (n,) float32 of the pairs of positions queries (n,) and gallery (n,)."""
        scores = torch.empty(len(queries), device=self.tables["gallery"].device)
        # A pair has two rows.
        for pairs in slices_within(len(queries), self.width, self.at_once // 2):
            # Pairs often come ordered by query, whose row is then put on the grid once.
            distinct, number = queries[pairs].unique_consecutive(return_inverse=True)
            left = self.grid_rows("query", distinct)[number]
            right = self.grid_rows("gallery", gallery[pairs])
            if self.euclidean:
                terms = left.sub_(right).square_().mul_(-0.5)
            else:
                terms = left.mul_(right)
            scores[pairs] = self.from_grid(terms.sum(1))
        return scores
