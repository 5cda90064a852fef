"""How images of a label, and labels of a category, are drawn."""

import numpy as np

from data.vocabulary import Vocabulary

# What `draw_rounds` makes of a label with a single image, as BatchSampler.singletons says it.
ITS_OWN_POSITIVE = "it comes more than once in a batch and is its own positive"


def draw_rounds(rng: np.random.Generator, vocabulary: Vocabulary, code: int, count: int) -> np.ndarray:
    """`count` images of the label `code`, (count,) int64; one with fewer gives all before any comes again."""
    images = vocabulary.counts[code]
    # A label with fewer images than asked for is gone through again, in another order.
    rounds = -(-count // images)  # rounded up
    picks = np.concatenate([rng.permutation(images) for _ in range(rounds)])[:count]
    return vocabulary.rows_of(code)[picks]


def draw(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """`count` of distinct `values`: each at most once, or, where they are fewer, all of them and the rest by chance.

    So OML's samplers draw images of a label and labels of a category.
    """
    drawn = rng.permutation(values)[:count]
    missing = count - len(drawn)
    if not missing:
        return drawn
    return np.concatenate([drawn, rng.choice(values, missing)])


def draw_of_labels(rng: np.random.Generator, vocabulary: Vocabulary, codes: np.ndarray, count: int) -> np.ndarray:
    """`count` images of each of the labels `codes` (n,), as `draw`; those of a label side by side, (n count,) int64."""
    return np.concatenate([draw(rng, vocabulary.rows_of(code), count) for code in codes])
