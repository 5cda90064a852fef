"""What each sampler promises of a batch, and that a step's batch follows from the seed and the step alone."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from sampling import make_sampler

from core.errors import InputError
from data import loader
from data.image.augmentations import AUGMENTATIONS
from data.image.modality import ImageModality
from data.image.transforms import TrainTransform
from data.samplers import SAMPLERS, PKSampler, ShuffledSampler, TripletSampler
from data.vocabulary import Vocabulary
from reader import open_list

COUNTS = {7: 1, 40: 2, 3: 3, 900: 4, 12: 5, 55: 6, 21: 7}  # label: how many images it has
LABELS = np.random.default_rng(0).permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
WITHOUT_SINGLETONS = LABELS[LABELS != 7]
SWEEP = pytest.mark.parametrize("name", SAMPLERS.names())


def made(name, labels=None, batch_size=12, **options):
    if labels is None:
        labels = WITHOUT_SINGLETONS if "balance" in name else LABELS
    return make_sampler(name, labels, batch_size, **options)


def stream(name, steps, **options):
    return list(islice(made(name, **options), steps))


def indices(batches):
    return np.array([[draw.index for draw in batch] for batch in batches])


@SWEEP
def test_batches_are_full_and_the_stream_does_not_end(name):
    sampler = made(name)
    steps = len(sampler)
    table = indices(islice(sampler, 5 * steps))
    assert table.shape == (5 * steps, 12)
    assert table.min() >= 0 and table.max() < len(sampler.vocabulary.codes)
    assert (table == np.concatenate([sampler.epoch(number) for number in range(5)])).all()


@SWEEP
def test_a_run_that_starts_later_gets_the_tail(name):
    steps = len(made(name))
    whole = stream(name, 4 * steps, seed=5)
    for start in {1, steps - 1, steps, steps + 1, 3 * steps}:
        assert stream(name, 4 * steps - start, seed=5, start_step=start) == whole[start:]


@SWEEP
def test_the_seed_decides_alone(name):
    first = stream(name, 12, seed=1)
    torch.manual_seed(99)
    np.random.seed(99)
    assert stream(name, 12, seed=1) == first
    other = stream(name, 12, seed=2)
    assert (indices(first) != indices(other)).any(axis=1).all()
    assert not {d.seed for batch in first for d in batch} & {d.seed for batch in other for d in batch}


@SWEEP
def test_every_draw_has_its_own_augmentation_and_every_epoch_its_own_order(name):
    steps = len(made(name))
    batches = stream(name, 2 * steps)
    assert len({draw.seed for batch in batches for draw in batch}) == 2 * steps * 12
    assert (indices(batches[:steps]) != indices(batches[steps:])).any()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 27, 28])
def test_shuffled_gives_every_image_at_most_once_an_epoch(batch_size):
    sampler = ShuffledSampler(LABELS, batch_size)
    assert len(sampler) == 28 // batch_size
    for number in range(3):
        table = sampler.epoch(number)
        assert len(set(table.ravel())) == table.size == 28 - 28 % batch_size


@pytest.mark.parametrize("batch_size, samples", [(4, 2), (6, 3), (14, 2), (8, 4), (14, 7), (16, 8)])
def test_pk_holds_exactly_k_adjacent_images_of_each_label(batch_size, samples):
    sampler = PKSampler(LABELS, batch_size, samples_each_class=samples)
    assert len(sampler) == 7 // (batch_size // samples)
    for number in range(20):
        groups = sampler.epoch(number).reshape(-1, samples)
        labels = LABELS[groups]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == len(groups)  # a label once an epoch
        for label, group in zip(labels[:, 0], groups):
            times = Counter(group.tolist()).values()
            assert len(times) == min(samples, COUNTS[label]), "a short label gives all its images first"
            assert max(times) - min(times) <= 1


def test_pk_draws_every_image_of_a_label_equally_often():
    sampler = PKSampler(LABELS, 14, samples_each_class=2)  # all seven labels in every epoch
    drawn = Counter(int(index) for number in range(600) for index in sampler.epoch(number).ravel())
    for index, label in enumerate(LABELS):
        share = min(1, 2 / COUNTS[label]) if COUNTS[label] > 1 else 2
        assert abs(drawn[index] - 600 * share) <= 5 * (600 * share * abs(1 - share)) ** 0.5 * (share < 1)


def test_triplets_are_anchor_positive_negative():
    sampler = TripletSampler(LABELS, 9)  # 27 of the 28 images share their label with another
    assert len(sampler) == 9
    for number in range(20):
        anchors, positives, negatives = sampler.epoch(number).reshape(-1, 3).T
        assert sorted(anchors) == [index for index, label in enumerate(LABELS) if COUNTS[label] > 1]
        assert (LABELS[positives] == LABELS[anchors]).all() and (positives != anchors).all()
        assert (LABELS[negatives] != LABELS[anchors]).all()


def test_triplets_draw_positives_and_negatives_uniformly():
    sampler = TripletSampler(LABELS, 9)
    epochs = 500
    rows = np.concatenate([sampler.epoch(number).reshape(-1, 3) for number in range(epochs)])
    anchor = int(np.flatnonzero(LABELS == 12)[2])
    chosen = rows[rows[:, 0] == anchor]
    assert len(chosen) == epochs
    for column, allowed in ((1, set(np.flatnonzero(LABELS == 12)) - {anchor}), (2, set(np.flatnonzero(LABELS != 12)))):
        times = Counter(chosen[:, column].tolist())
        assert set(times) == allowed
        expected = epochs / len(allowed)
        assert max(abs(times[index] - expected) for index in allowed) <= 5 * expected**0.5


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("shuffled", {"batch_size": 29}, "train_batch_size is 29, .* only 28 images"),
        ("pk", {"batch_size": 9}, "train_batch_size 9 is not divisible by samples_each_class 2"),
        ("pk", {"batch_size": 8, "samples_each_class": 1}, "samples_each_class is 1, .* at least 2"),
        ("pk", {"batch_size": 2}, "holds one label only"),
        ("pk", {"batch_size": 16}, "needs 8 labels, but the train list has 7"),
        ("triplet", {"batch_size": 8}, "train_batch_size 8 is not divisible by 3"),
        ("triplet", {"batch_size": 84}, "needs 28 anchors, but only 27 images"),
        ("triplet", {"labels": [4, 4, 4], "batch_size": 3}, "at least 2 labels, but the train list has 1"),
    ],
)
def test_impossible_batches_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        make_sampler(name, **{"labels": LABELS, **options})


def test_rows_of_a_vocabulary_are_those_of_its_labels():
    vocabulary = Vocabulary.of(LABELS)
    for code, label in enumerate(vocabulary.labels):
        assert vocabulary.rows_of(code).tolist() == np.flatnonzero(LABELS == label).tolist()
    assert vocabulary.rows.tolist() == np.argsort(LABELS, kind="stable").tolist()


def load(sop_tree, num_workers, start_step=0):
    images = open_list("Ebay_train.txt", sop_tree, "train")
    sampler = PKSampler(images.vocabulary, 4, samples_each_class=2).starting(3, start_step)
    modality = ImageModality(TrainTransform(24, 32, 0, tuple(AUGMENTATIONS), (0.08, 1.0)))
    batches = loader.open_loader(images, modality, sampler, num_workers)
    return list(islice(batches, 7 - start_step))


def test_worker_count_and_interruption_leave_the_batches_alone(sop_tree):
    alone, helped, resumed = load(sop_tree, 0), load(sop_tree, 2), load(sop_tree, 0, start_step=4)
    for mine, theirs in zip([*alone, *alone[4:]], [*helped, *resumed], strict=True):
        assert mine[0].dtype == torch.uint8 and mine[0].shape == (4, 3, 24, 32)
        for column, other in zip(mine, theirs, strict=True):
            assert torch.equal(column, other)


def test_loading_leaves_the_global_random_numbers_alone(sop_tree):
    before = torch.get_rng_state()
    load(sop_tree, 0)
    assert torch.equal(torch.get_rng_state(), before)  # else a resumed run would see other ones
