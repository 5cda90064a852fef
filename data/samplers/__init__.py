"""Which images stand in which batch; a sampler is a file in this folder with one `@SAMPLERS.register(...)` line."""

from typing import Annotated

from core.types import OneOf, Positive
from data.categories import label_categories
from data.records import Records
from data.samplers._batches import SAMPLERS, BatchSampler, Sample
from data.samplers.balance import BalanceSampler
from data.samplers.category_balance import CategoryBalanceSampler
from data.samplers.category_pk import CategoryPKSampler
from data.samplers.distinct_category_balance import DistinctCategoryBalanceSampler
from data.samplers.each_once import EachOnce
from data.samplers.in_order import InOrder
from data.samplers.neighbours import NeighbourSampler, nearest_labels
from data.samplers.pk import PKSampler
from data.samplers.rank_batches import RankBatch, RankBatches
from data.samplers.shuffled import ShuffledSampler
from data.samplers.siamese_pairs import SiamesePairsSampler
from data.samplers.triplet import TripletSampler

__all__ = [
    "SAMPLERS",
    "BalanceSampler",
    "BatchSampler",
    "CategoryBalanceSampler",
    "CategoryPKSampler",
    "DistinctCategoryBalanceSampler",
    "EachOnce",
    "InOrder",
    "NeighbourSampler",
    "PKSampler",
    "RankBatch",
    "RankBatches",
    "Sample",
    "ShuffledSampler",
    "SiamesePairsSampler",
    "TripletSampler",
    "build_sampler",
    "nearest_labels",
]


def build_sampler(
    records: Records,
    usual: str,
    options: dict[str, object],
    *,
    sampler: Annotated[str, OneOf("data/samplers")] | None = None,
    train_batch_size: Positive,
    samples_each_class: int = 2,
) -> BatchSampler:
    """What the batches of a training are made by, from the first step on.

    Options:
        sampler: one of {data/samplers}; its own flags: --sampler=NAME --help (default: the loss's)
        train_batch_size: images in a training batch
        samples_each_class: images of each label in a batch (not shuffled, triplet, siamese_pairs)

    records: the train list. usual: the sampler where the flag leaves it open. options: those of the sampler's own
    keywords, {name: value}. Raises InputError for batches that cannot be filled, and for a list without the categories
    that a sampler goes by.
    """
    name = sampler or usual
    asked_for = SAMPLERS.requirements(name)
    facts = {
        "labels": records.vocabulary,
        "batch_size": train_batch_size,
        "samples_each_class": samples_each_class,
    }
    if "categories" in asked_for:
        facts["categories"] = label_categories(records, f"--sampler={name}")
    return SAMPLERS[name](**{fact: facts[fact] for fact in asked_for}, **options)
