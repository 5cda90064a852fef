"""Which images stand in which batch; a sampler is a file in this folder with one `@SAMPLERS.register(...)` line."""

import numpy as np

from data.samplers._batches import SAMPLERS, BatchSampler, Sample
from data.samplers.each_once import EachOnce
from data.samplers.in_order import InOrder
from data.samplers.pk import PKSampler
from data.samplers.rank_batches import RankBatch, RankBatches
from data.samplers.shuffled import ShuffledSampler
from data.samplers.triplet import TripletSampler
from data.vocabulary import Vocabulary
from core.types import Positive

__all__ = [
    "SAMPLERS",
    "BatchSampler",
    "EachOnce",
    "InOrder",
    "PKSampler",
    "RankBatch",
    "RankBatches",
    "Sample",
    "ShuffledSampler",
    "TripletSampler",
    "build_sampler",
]


def build_sampler(
    kind: str,
    labels: Vocabulary | np.ndarray,
    start_step: int,
    seed: int,
    *,
    train_batch_size: Positive,
    samples_each_class: int = 2,
) -> BatchSampler:
    """The batches of a training, from `start_step` on.

    Options:
        train_batch_size: images in a training batch
        samples_each_class: images of each label in a batch (not triplet)

    kind: a name of SAMPLERS. labels: the train list's vocabulary, or labels (N,) of its images. Raises InputError for a
    batch that cannot be filled.
    """
    options = {"seed": seed, "start_step": start_step}
    # Only a sampler that balances labels has so many images of each.
    if "samples_each_class" in [option.name for option in SAMPLERS.options(kind)]:
        options["samples_each_class"] = samples_each_class
    return SAMPLERS[kind](labels, train_batch_size, **options)
