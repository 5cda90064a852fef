"""Rows whose label may be wrong, by the other rows of the label.

A row is scored by its mean cosine with the other rows of its label, each held out of its own label's mean, so that no
score is of a model that has seen it (as confident learning demands: Northcutt, Jiang and Chuang, 2021, JAIR 70, arXiv
1911.00068). What a wrong label scores needs no guess: each row is put into the place of random rows of other labels.
Both together give the probability that a label is wrong (care/chances.py). Labels of a few rows each, such as those of
retrieval, have not enough rows for the k nearest to vote as in Zhu, Dong and Liu (ICML 2022, arXiv 2110.06283): on the
embedded set with a tenth of its labels spoiled the share among 50 nearest ranks spoiled rows with an average precision
of 0.40, this mean with 0.85.
"""

from dataclasses import dataclass

import numpy as np

from care.chances import probability_right, probability_wrong
from core.slices import slices_of

FEWEST = 40  # rows that are judged, or nobody can say what is usual
FEWEST_LABELS = 3
ROUNDS = 2  # in the second, rows that are wrong by the first hardly count in their label's mean
LEAST_WEIGHT = 0.05
DRAWS = 2_000_000  # pairs of a row and a wrong label, at the most
DRAWS_A_ROW = 8
CHECKED = 3000  # right rows by which guesses of a label are judged
BLOCK = 2048  # rows that are held against labels at a time
LEAST_MASS = 1.5  # rows that a label has to have to be a guess
HALF = 0.5


@dataclass(frozen=True)
class LabelDoubts:
    """What each of N rows' label is thought of.

    probability (N,): that it is wrong, 0 where it cannot be judged. score (N,): its mean cosine with the others of its
    label, NaN where it has none. usual: the median score. share: of the labels that are wrong, at most about.
    guess (N,): the code of the label that the row is closest to beside its own, -1 where it was not looked for. trust
    (N,): how likely that one is right where the row's own is wrong.
    """

    probability: np.ndarray
    score: np.ndarray
    usual: float
    share: float
    guess: np.ndarray
    trust: np.ndarray


def label_doubts(embeddings: np.ndarray, codes: np.ndarray) -> LabelDoubts:
    """The doubts about labels with the codes (N,) 0..C-1 of centred rows (N, D) of length 1."""
    counts = np.bincount(codes)
    judged = counts[codes] > 1
    rng = np.random.default_rng(0)
    probability = np.zeros(len(codes))
    share = 0.0
    label_means = _LabelMeans(embeddings, codes, np.ones(len(codes)))
    scores = label_means.own_scores()
    enough = judged.sum() >= FEWEST and (counts > 1).sum() >= FEWEST_LABELS
    for _ in range(ROUNDS if enough else 0):
        wrong = label_means.wrong_scores(np.flatnonzero(judged), rng)
        probability[judged], share = probability_wrong(scores[judged], wrong)
        label_means = _LabelMeans(embeddings, codes, np.clip(1 - probability, LEAST_WEIGHT, 1))
        scores = label_means.own_scores()
    guess, trust = _guesses(label_means, scores, probability, judged, rng)
    usual = float(np.median(scores[judged])) if judged.any() else float("nan")
    scores[~judged] = np.nan
    return LabelDoubts(probability, scores, usual, share, guess, trust)


class _LabelMeans:
    """The weighted sums of labels' rows, against which rows are held."""

    def __init__(self, embeddings: np.ndarray, codes: np.ndarray, weights: np.ndarray):
        self.embeddings = embeddings
        self.codes = codes
        self.weights = weights
        self.mass = np.bincount(codes, weights)
        self.sums = np.zeros((len(self.mass), embeddings.shape[1]), np.float32)
        for block in slices_of(len(codes), BLOCK):
            np.add.at(self.sums, codes[block], embeddings[block] * weights[block, None].astype(np.float32))

    def own_scores(self) -> np.ndarray:
        """(N,): each row's mean cosine with the others of its label; 0 where there are none."""
        rows = np.arange(len(self.codes))
        return self.scores_in_place(rows, rows)

    def scores_in_place(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(M,): the mean cosine of `rows` (M,) with what is left of the labels of `places` (M,) when these leave."""
        scores = np.empty(len(rows))
        for block in slices_of(len(rows), BLOCK):
            row, place = self.embeddings[rows[block]], self.embeddings[places[block]]
            code, weight = self.codes[places[block]], self.weights[places[block]]
            others = np.einsum("nd,nd->n", self.sums[code], row) - weight * np.einsum("nd,nd->n", place, row)
            scores[block] = others / np.maximum(self.mass[code] - weight, LEAST_WEIGHT)
        return scores

    def wrong_scores(self, judged: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(M,): how the rows `judged` score in the place of random ones of other labels, as wrong labels do."""
        scores = []
        for _ in range(max(1, min(DRAWS_A_ROW, DRAWS // len(judged)))):
            places = rng.choice(judged, len(judged))
            differ = self.codes[places] != self.codes[judged]
            scores.append(self.scores_in_place(judged[differ], places[differ]))
        return np.concatenate(scores)


def _guesses(
    label_means: _LabelMeans,
    scores: np.ndarray,
    probability: np.ndarray,
    judged: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """(guess (N,), trust (N,)) as LabelDoubts has them, for rows that are rather wrong than right.

    A guess is judged by rows that are rather right: how often the closest of all labels is their own, by its margin.
    """
    guess = np.full(len(probability), -1)
    trust = np.zeros(len(probability))
    doubted = np.flatnonzero(probability > HALF)
    right = np.flatnonzero(judged & (probability <= HALF))
    if not len(doubted) or not len(right):
        return guess, trust
    right = rng.permutation(right)[:CHECKED]
    best, margins = _closest(label_means, right, scores[right])
    is_right = best == label_means.codes[right]
    # In the place of the own label stands nothing: it is not what the row is.
    guess[doubted], wanted = _closest(label_means, doubted, np.full(len(doubted), -np.inf))
    trust[doubted] = probability_right(margins, is_right, wanted)
    return guess, trust


def _closest(label_means: _LabelMeans, rows: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(code (n,) of the label that each of `rows` is closest to, by how much it is closer than the next one (n,)).

    own: (n,) the rows' scores with their own label. A label of hardly more than one row is no guess: what is like that
    row in style is as close to it as what is of its label.
    """
    is_small = label_means.mass < LEAST_MASS
    closest = np.empty(len(rows), np.int64)
    margins = np.empty(len(rows))
    for block in slices_of(len(rows), BLOCK):
        cosines = (
            label_means.embeddings[rows[block]]
            @ label_means.sums.T
            / np.maximum(label_means.mass, LEAST_WEIGHT).astype(np.float32)
        )
        cosines[:, is_small] = -np.inf
        cosines[np.arange(len(cosines)), label_means.codes[rows[block]]] = own[block]
        first_two = np.argpartition(-cosines, 1, axis=1)[:, :2]
        values = np.take_along_axis(cosines, first_two, 1)
        closest[block] = np.take_along_axis(first_two, values.argmax(1)[:, None], 1)[:, 0]
        # Where there is but one label, or none, nothing is closer than another: a margin is that of two cosines.
        margins[block] = np.clip(np.nan_to_num(values.max(1) - values.min(1), nan=0.0), 0, 2)
    return closest, margins
