"""Rows that show the same: equal files, and pictures that only saving, size, light or a narrow border tell apart.

Embeddings propose pairs, small pictures decide: two emoji that differ by a lock's bow are as close to a network as a
picture is to its own copy.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from tqdm import tqdm

from care.looks import SIDE, Look
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

NEAREST = 5  # rows that an embedding proposes
LEAST_COSINE = 0.5  # of centred embeddings, from which on a pair is looked at
LEAST_ALONE = 0.99  # the same, where there are no pictures that could decide
# Of 120 copies of emoji (JPEG 50, 70 % of the size, darker, a border of 2 or 4 of 96 pixels cut off) all are within
# these, of 2,328 pairs of emoji whose embeddings are close 4 are, all of which people would call the same.
LARGEST_DIFFERENCE = 30.0  # grey levels at any pixel of any channel, the light brought to the same
LEAST_CORRELATION = 0.99
LIGHT = (0.7, 1.4)  # contrast of one picture as a share of the other's
SCALES = (1.0, 0.92, 0.96, 1.04, 1.08)  # by which one is enlarged about its middle
BORDER = 4  # pixels that enlarging may fill in, and that are not compared


@dataclass(frozen=True)
class Pairs:
    """P pairs of rows that show the same; certainty (P,): 1 where files are equal, else 0.9.

    left, right: (P,) rows, of one list, left < right, or of two.
    """

    left: np.ndarray
    right: np.ndarray
    certainty: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def duplicates_within(embeddings: np.ndarray, looks: list[Look]) -> Pairs:
    """Pairs of rows of one list; embeddings (N, D) centred, of length 1."""
    pairs = _equal_files(looks, looks, is_one=True)
    if len(embeddings) > 1:
        found, cosines = search(QueryGallery.of(torch.from_numpy(embeddings)), NEAREST)
        pairs = _add_near(pairs, found.numpy(), cosines.numpy(), looks, looks, is_one=True)
    return _as_pairs(pairs)


def duplicates_across(embeddings: np.ndarray, looks: list[Look], others: np.ndarray, other_looks: list[Look]) -> Pairs:
    """Pairs of a row of one list and one of another; others (M, D), centred as the embeddings are."""
    pairs = _equal_files(looks, other_looks, is_one=False)
    table = QueryGallery.apart(torch.from_numpy(embeddings), torch.from_numpy(others))
    found, cosines = search(table, NEAREST)
    pairs = _add_near(pairs, found.numpy(), cosines.numpy(), looks, other_looks, is_one=False)
    return _as_pairs(pairs)


def _equal_files(looks: list[Look], others: list[Look], is_one: bool) -> dict[tuple[int, int], float]:
    """{(left, right): 1} of rows with equal files; within one list each with the first of its kind."""
    first: dict[bytes, int] = {}
    for row, look in enumerate(others):
        first.setdefault(look.digest, row)
    pairs = {}
    for row, look in enumerate(looks):
        other = first.get(look.digest)
        if other is not None and not (is_one and other == row):
            pairs[(other, row) if is_one else (row, other)] = 1.0
    return pairs


def _add_near(
    pairs: dict[tuple[int, int], float],
    found: np.ndarray,
    cosines: np.ndarray,
    looks: list[Look],
    others: list[Look],
    is_one: bool,
) -> dict[tuple[int, int], float]:
    """The pairs with those that embeddings propose, found and cosines (N, k), and pictures affirm."""
    rows, ranks = np.nonzero((cosines >= LEAST_COSINE) & (found >= 0))
    candidates = list(zip(rows.tolist(), found[rows, ranks].tolist(), cosines[rows, ranks].tolist()))
    for row, other, cosine in tqdm(candidates, desc="comparing", unit="pair", leave=False, disable=None):
        pair = (min(row, other), max(row, other)) if is_one else (row, other)
        if pair in pairs:
            continue
        left, right = looks[row].picture, others[other].picture
        if left is None or right is None:
            is_same = left is right and cosine >= LEAST_ALONE
        else:
            is_same = show_the_same(left, right)
        if is_same:
            pairs[pair] = 0.9
    return pairs


def _as_pairs(pairs: dict[tuple[int, int], float]) -> Pairs:
    ordered = sorted(pairs)
    left = np.array([pair[0] for pair in ordered], np.int64)
    right = np.array([pair[1] for pair in ordered], np.int64)
    return Pairs(left, right, np.array([pairs[pair] for pair in ordered]))


def show_the_same(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two small pictures (SIDE, SIDE, 3) uint8 differ by no more than a copy does, whichever is cut."""
    left, right = left.astype(np.float32), right.astype(np.float32)
    middle = (SIDE - 1) / 2
    for scale in SCALES:
        move = np.float32([[scale, 0, (1 - scale) * middle], [0, scale, (1 - scale) * middle]])
        enlarged = right
        if scale != 1:
            enlarged = cv2.warpAffine(right, move, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        if _is_close(left[BORDER:-BORDER, BORDER:-BORDER], enlarged[BORDER:-BORDER, BORDER:-BORDER]):
            return True
    return False


def _is_close(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two pictures are the same but for their light."""
    left, right = left - left.mean(), right - right.mean()
    product = float((left * right).sum())
    left_power, right_power = float((left * left).sum()), float((right * right).sum())
    # Pictures of one colour have nothing to be told by.
    if min(left_power, right_power) < 1e-6 * left.size:
        return max(left_power, right_power) < left.size
    if product / np.sqrt(left_power * right_power) < LEAST_CORRELATION:
        return False
    gain = np.clip(product / right_power, *LIGHT)
    return float(np.abs(left - gain * right).max()) <= LARGEST_DIFFERENCE
