"""What each sampler promises of a batch, and that a step's batch follows from the seed and the step alone."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from sampling import make_sampler
from tolerances import share_error

from core.errors import InputError
from data import loader
from data.image.augmentations import AUGMENTATIONS
from data.image.modality import ImageModality
from data.image.transforms import TrainTransform
from data.records import Records
from data.samplers import (
    SAMPLERS,
    PKSampler,
    ShuffledSampler,
    SiamesePairsSampler,
    TripletSampler,
    build_sampler,
)
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
def test_pk_holds_exactly_k_adjacent_images_of_each_label(batch_size, samples, record_property):
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
    record_property("epochs", number + 1)


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


def test_siamese_pairs_are_of_one_label_half_of_the_time_and_else_of_two():
    """A "different" pair is never of one label, and no image is its own partner."""
    sampler = SiamesePairsSampler(LABELS, 14)
    assert len(sampler) == 4
    epochs = 400
    pairs = np.concatenate([sampler.epoch(number).reshape(-1, 2) for number in range(epochs)])
    first, second = pairs.T
    assert (np.sort(first.reshape(epochs, -1)) == np.arange(28)).all() and (first != second).all()
    same = LABELS[first] == LABELS[second]
    alone = LABELS[first] == 7
    assert not same[alone].any()
    assert abs(same[~alone].mean() - 0.5) <= share_error(0.5, (~alone).sum())
    # Partners of two images: others of their label alike, and other labels alike, however many images these have.
    of_twelve = first == np.flatnonzero(LABELS == 12)[2]
    times = Counter(second[of_twelve & same].tolist())
    assert set(times) == set(np.flatnonzero(LABELS == 12)) - {np.flatnonzero(LABELS == 12)[2]}
    for label in set(COUNTS) - {12}:
        chance = 1 / 12
        share = (LABELS[second[of_twelve]] == label).mean()
        assert abs(share - chance) <= share_error(chance, of_twelve.sum())


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("shuffled", {"batch_size": 29}, "train_batch_size is 29, .* only 28 images"),
        ("pk", {"batch_size": 9}, "train_batch_size 9 is not divisible by samples_each_class 2"),
        ("pk", {"batch_size": 8, "samples_each_class": 1}, "samples_each_class is 1, .* at least 2"),
        ("pk", {"batch_size": 2}, "holds one label only"),
        ("pk", {"batch_size": 16}, "needs 8 labels, but the train list has 7"),
        ("siamese_pairs", {"batch_size": 7}, "train_batch_size 7 is not divisible by 2"),
        ("siamese_pairs", {"batch_size": 58}, "needs 29 images, but the list has 28"),
        ("siamese_pairs", {"labels": [4, 4], "batch_size": 2}, "at least 2 labels, but the list has 1"),
        ("siamese_pairs", {"labels": [4, 5], "batch_size": 2}, "a label with at least 2 images, but the list has none"),
        ("triplet", {"batch_size": 8}, "train_batch_size 8 is not divisible by 3"),
        ("triplet", {"batch_size": 84}, "needs 28 anchors, but only 27 images"),
        ("triplet", {"labels": [4, 4, 4], "batch_size": 3}, "at least 2 labels, but the train list has 1"),
    ],
)
def test_impossible_batches_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        make_sampler(name, **{"labels": LABELS, **options})


@pytest.mark.parametrize("batch_size", [1, 7, 8, 11])
@pytest.mark.parametrize("labels", [[1] * 8 + [2, 3, 4], list(range(7)) * 2, [1] * 4 + [2] * 7])
def test_shuffled_knows_whether_a_batch_may_lack_pairs(labels, batch_size):
    sampler = ShuffledSampler(np.array(labels), batch_size)
    counts = Counter(labels).values()
    may_be_all_different = len(counts) >= batch_size
    may_be_all_alike = max(counts) >= batch_size
    assert sampler.has_pairs == (not may_be_all_different and not may_be_all_alike)


CATEGORIES = np.array([0, 1, 1, 0, 2, 1, 0])  # of the labels in order: 3 of one, 3 of another, 1 of a third


@pytest.mark.parametrize(
    "batch_size, n_categories, shares",
    [
        (8, 2, {(0, 1): {(2, 2)}, (0, 2): {(2, 1, "0"), (3, 1)}, (1, 2): {(3, 1)}}),
        (12, 2, {(0, 1): {(3, 3)}, (0, 2): {(3, 1)}, (1, 2): {(3, 1)}}),
        (4, 1, {(0,): {(2,)}, (1,): {(2,)}, (2,): {(1,)}}),
        (12, 3, {(0, 1, 2): {(3, 2, 1), (2, 3, 1)}}),
    ],
)
def test_category_pk_fills_the_places_of_short_categories(batch_size, n_categories, shares):
    """Of each combination as many batches; from the batch's own categories first, as far as these have labels."""
    sampler = made(
        "category_pk", batch_size=batch_size, n_categories=n_categories, batches_each=4, categories=CATEGORIES
    )
    assert len(sampler) == 4 * len(shares)
    for number in range(5):
        seen = Counter()
        order = sampler._generator(number).permutation(len(sampler))
        for position, batch in enumerate(sampler.epoch(number)):
            codes = sampler.vocabulary.codes[batch].reshape(-1, 2)
            assert (codes[:, 0] == codes[:, 1]).all() and len(set(codes[:, 0])) == batch_size // 2
            combination = tuple(sampler.combinations[order[position] // 4].tolist())
            of_each = Counter(CATEGORIES[codes[:, 0]].tolist())
            assert tuple(of_each[category] for category in combination) in shares[combination]
            seen[combination] += 1
        assert seen == dict.fromkeys(shares, 4)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("balance", {"batch_size": 6}, "1 of 7 train labels has a single image .label 7"),
        ("balance", {"batch_size": 16}, "needs 8 labels, but the train list has 7"),
        ("category_balance", {"n_categories": 3}, "n_categories is 3; with 2 categories it can be 1 to that many"),
        (
            "category_balance",
            {"n_categories": 2, "batch_size": 10},
            "holds 5 labels, .* not divisible by n_categories 2",
        ),
        ("category_balance", {"n_categories": 2, "batch_size": 4}, "one label of each category only"),
        ("category_balance", {"n_categories": 1, "batch_size": 12}, "single image"),
        ("distinct_category_balance", {"n_categories": 2, "batch_size": 8}, "single image"),
        ("category_pk", {"n_categories": 2, "batch_size": 16}, "needs 8 labels, but the train list has 7"),
        ("neighbours", {"nearest": 1}, "nearest is 1, but a group needs a second label"),
        ("neighbours", {"nearest": 4}, "holds 6 labels, which is not divisible by nearest 4"),
        ("neighbours", {"batch_size": 16}, "needs 8 labels, but the train list has 7"),
    ],
)
def test_batches_of_categories_and_neighbours_that_cannot_be(name, options, message):
    with pytest.raises(InputError, match=message):
        make_sampler(name, **{"labels": LABELS, "batch_size": 12, **options})


@pytest.mark.parametrize(
    "name, advice", [("category_balance", "--resample_labels=True"), ("distinct_category_balance", "")]
)
def test_a_category_of_too_few_labels(name, advice):
    words = {"labels": WITHOUT_SINGLETONS, "batch_size": 12, "categories": [0, 0, 0, 1, 1, 0]}
    sentence = "takes 3 labels of a category, but 1 of 2 categories have fewer .1 has 2, for one.; " + advice
    with pytest.raises(InputError, match=sentence):
        make_sampler(name, **words)
    sampler = make_sampler("category_balance", **words, resample_labels=True)
    assert all(len(set(sampler.vocabulary.codes[batch])) == 5 for batch in sampler.epoch(0))


def test_too_many_combinations_of_categories():
    labels = np.repeat(np.arange(200), 2)
    with pytest.raises(
        InputError, match="3 of 200 categories can be combined in 1,313,400 ways, more than the 1,000,000"
    ):
        make_sampler("category_pk", labels, 60, categories=np.arange(200), n_categories=3)


def listed(labels, categories):
    everyone = np.ones(len(labels), bool)
    paths = np.array([f"{row}.jpg" for row in range(len(labels))])
    lines = np.arange(len(labels)) + 2
    columns = {"categories": None if categories is None else np.array(categories), "lines": lines}
    return Records("a.csv", paths, np.array(labels), everyone, everyone, **columns)


@pytest.mark.parametrize("name", [None, *SAMPLERS.names()])
def test_a_sampler_is_built_by_name(name):
    """As of the labels themselves, whatever they are called; without a name it is the usual one."""
    labels = np.char.add("label ", WITHOUT_SINGLETONS.astype(str))
    vocabulary = Vocabulary.of(labels)
    records = listed(labels, np.array(["a", "b"])[vocabulary.codes % 2])
    options = {"nearest": 2} if name == "neighbours" else {}
    sampler = build_sampler(records, "pk", options, sampler=name, train_batch_size=12, samples_each_class=3)
    other = made(name or "pk", labels, samples_each_class=3)
    assert type(sampler) is type(other) and sampler.vocabulary is records.vocabulary
    if name == "neighbours":
        sampler.neighbours = other.neighbours
    assert (sampler.epoch(2) == other.epoch(2)).all()


@pytest.mark.parametrize(
    "categories, sentence",
    [
        (None, "--sampler=category_pk goes by categories, but a.csv has no column category"),
        (["x", "x", "y", " "], "a.csv:5: the category is empty, but --sampler=category_pk goes by categories"),
        (
            ["x", "y", "y", "y"],
            "a.csv:3: the label 1 has the category 'y' here and 'x' in a.csv:2, but --sampler=category_pk needs one",
        ),
    ],
)
def test_categories_that_a_list_does_not_have(categories, sentence):
    with pytest.raises(InputError) as caught:
        build_sampler(listed([1, 1, 2, 2], categories), "pk", {}, sampler="category_pk", train_batch_size=4)
    assert sentence in str(caught.value)
    build_sampler(listed([1, 1, 2, 2], categories), "pk", {}, train_batch_size=4)


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
