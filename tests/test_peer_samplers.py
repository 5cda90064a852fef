"""Samplers beside those that they are named after: not the same draws, but the same batches can come, and as many.

Random lists and sizes; what one refuses the other refuses.
"""

import contextlib
import itertools
from collections import Counter

import numpy as np
import pytest
from sampling import make_sampler

from core.errors import InputError

SEEDS = range(40)
BY_CATEGORY = ("category_balance", "distinct_category_balance")


@pytest.fixture(scope="module")
def oml():
    return pytest.importorskip("oml.samplers", reason="parity with Open Metric Learning needs requirements/peers.txt")


@pytest.fixture(scope="module")
def pml():
    reason = "parity with pytorch-metric-learning needs requirements/peers.txt"
    return pytest.importorskip("pytorch_metric_learning.samplers", reason=reason)


def random_list(rng, fewest=1, most_categories=4):
    """Labels (N,) of at least `fewest` images each, and the category (C,) of each."""
    count = int(rng.integers(2, 14))
    labels = rng.permutation(np.repeat(np.arange(count), rng.integers(fewest, 6, count)))
    return labels, rng.integers(0, rng.integers(1, most_categories + 1), count)


def theirs_of(oml, name, labels, categories, n_labels, n_instances, **options):
    label2category = dict(enumerate(categories.tolist()))
    if name == "balance":
        return oml.BalanceSampler(labels.tolist(), n_labels, n_instances)
    kind = {"category_balance": oml.CategoryBalanceSampler}.get(name, oml.DistinctCategoryBalanceSampler)
    return kind(labels.tolist(), label2category, n_labels=n_labels, n_instances=n_instances, **options)


def ours_of(name, labels, categories, n_labels, n_instances, **options):
    batch_size = options.get("n_categories", 1) * n_labels * n_instances
    return make_sampler(name, labels, batch_size, samples_each_class=n_instances, categories=categories, **options)


def both(oml, name, *words, **options):
    """(ours, theirs); None for one that refuses."""
    ours = theirs = None
    with contextlib.suppress(InputError):
        ours = ours_of(name, *words, **options)
    with contextlib.suppress(AssertionError, ValueError):
        theirs = theirs_of(oml, name, *words, **options)
    return ours, theirs


def random_options(rng, name):
    if name == "balance":
        return {}
    options = {"n_categories": int(rng.integers(1, 4))}
    if name == "category_balance":
        return {**options, "resample_labels": bool(rng.integers(2)), "weight_categories": bool(rng.integers(2))}
    return {**options, "epoch_size": int(rng.integers(1, 12))}


@pytest.mark.parametrize("name", ["balance", *BY_CATEGORY])
def test_what_one_refuses_the_other_refuses(oml, name):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        labels, categories = random_list(rng, fewest=int(rng.integers(1, 4)))
        n_labels, n_instances = rng.integers(1, 5, 2).tolist()
        words = (labels, categories, n_labels, n_instances)
        options = random_options(rng, name)
        ours, theirs = both(oml, name, *words, **options)
        assert (ours is None) == (theirs is None), (words, options)
        if ours is None:
            refused += 1
        else:
            assert len(ours) == len(theirs) and ours.batch_size == theirs.batch_size
    assert 50 < refused < 550


def epochs(ours, theirs, count=3):
    """Of either sampler some epochs, each a list of batches of indices."""
    np.random.seed(3)
    yield from (ours.epoch(number) for number in range(count))
    yield from (np.array(list(theirs)) for _ in range(count))


def assert_images(labels, images, n_instances):
    """Images of one label: all of it before any comes again."""
    (code,) = set(labels[images].tolist())
    assert len(images) == n_instances
    assert len(set(images.tolist())) == min(n_instances, (labels == code).sum())


def sound_cases(oml, name):
    """(ours, theirs, labels, categories, labels of each category, images of each label, options) of random lists."""
    cases = 0
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        labels, categories = random_list(rng, fewest=2)
        n_labels, n_instances = rng.integers(2, 5, 2).tolist()
        options = random_options(rng, name)
        ours, theirs = both(oml, name, labels, categories, n_labels, n_instances, **options)
        if ours is not None:
            yield ours, theirs, labels, categories, n_labels, n_instances, options
            cases += 1
            if cases == len(SEEDS):
                return


def test_balance(oml):
    for ours, theirs, labels, _, n_labels, n_instances, _ in sound_cases(oml, "balance"):
        for epoch in epochs(ours, theirs):
            assert epoch.shape == (len(set(labels)) // n_labels, n_labels * n_instances)
            groups = epoch.reshape(-1, n_instances)
            for group in groups:
                assert_images(labels, group, n_instances)
            once = Counter(labels[groups[:, 0]].tolist())
            assert set(once.values()) == {1}


def test_category_balance(oml):
    repeated = 0
    for ours, theirs, labels, categories, n_labels, n_instances, options in sound_cases(oml, "category_balance"):
        sizes = np.bincount(categories)
        for epoch in epochs(ours, theirs):
            assert len(epoch) == -(-len(set(labels)) // n_labels)
            for batch in epoch:
                groups = batch.reshape(options["n_categories"], n_labels, n_instances)
                chosen = []
                for group in groups:
                    for images in group:
                        assert_images(labels, images, n_instances)
                    codes = labels[group[:, 0]]
                    (category,) = set(categories[codes].tolist())
                    chosen.append(category)
                    assert len(set(codes.tolist())) == min(n_labels, sizes[category])
                    repeated += sizes[category] < n_labels
                assert len(set(chosen)) == options["n_categories"]
    assert repeated


@pytest.mark.parametrize("weight_categories", [True, False])
def test_category_balance_draws_categories_as_often(oml, weight_categories):
    """Pairs of categories over many batches: two samples of one distribution."""
    labels = np.repeat(np.arange(14), 2)
    categories = np.repeat([0, 1, 2, 3], [2, 2, 4, 6])
    words = (labels, categories, 2, 2)
    options = {"n_categories": 2, "weight_categories": weight_categories, "resample_labels": False}
    ours, theirs = both(oml, "category_balance", *words, **options)
    counts = []
    drawn = epochs(ours, theirs, 600)
    for _ in range(2):
        batches = np.concatenate(list(itertools.islice(drawn, 600)))
        first_and_second = categories[labels[batches[:, [0, 4]]]]
        counts.append(Counter(map(tuple, first_and_second.tolist())))
    mine, others = counts
    assert mine.total() == others.total() == 600 * 7 and mine.keys() == others.keys() and len(mine) == 12
    # Of two counts of a mean m the difference has a variance of at most 2 m.
    assert max(abs(mine[key] - others[key]) / (mine[key] + others[key]) ** 0.5 for key in mine) < 5


def assert_distinct(batches, categories, n_categories, n_labels):
    """Batches of label codes (n_categories, n_labels) each, as DistinctCategoryBalanceSampler may draw them."""
    unused = {}
    filled_up = begun = 0
    for batch in batches:
        if len(unused) < n_categories:
            unused = {category: set(np.flatnonzero(categories == category)) for category in set(categories.tolist())}
            begun += 1
        left = dict(unused)
        for codes in batch:
            (category,) = set(categories[codes].tolist())
            assert len(set(codes.tolist())) == n_labels
            fresh = left.pop(category)  # a KeyError: it comes twice, or is used up
            assert len(fresh & set(codes)) == min(n_labels, len(fresh))
            filled_up += len(fresh) < n_labels
            unused[category] = fresh - set(codes)
            if not unused[category]:
                del unused[category]
    return filled_up, begun


def test_distinct_category_balance(oml):
    filled_up = begun = 0
    for ours, theirs, labels, categories, n_labels, n_instances, options in sound_cases(oml, BY_CATEGORY[1]):
        for epoch in epochs(ours, theirs):
            assert len(epoch) == options["epoch_size"]
            groups = epoch.reshape(len(epoch), options["n_categories"], n_labels, n_instances)
            for images in groups.reshape(-1, n_instances):
                assert_images(labels, images, n_instances)
            counted = assert_distinct(labels[groups[..., 0]], categories, options["n_categories"], n_labels)
            filled_up += counted[0]
            begun += counted[1] > 1
    assert filled_up and begun


@pytest.mark.parametrize("n_categories, batches_each", [(2, 10), (3, 2), (1, 3)])
def test_category_pk_is_the_hierarchical_sampler(pml, n_categories, batches_each):
    """Where every category has labels enough, and every label images enough, as that one needs it."""
    categories = np.repeat([0, 1, 2, 3], [2, 3, 4, 5])
    labels = np.repeat(np.arange(14), 3)
    batch_size = n_categories * 2 * 3
    theirs = pml.HierarchicalSampler(
        np.stack([labels, categories[labels]], axis=1), batch_size, 3, batches_each, n_categories
    )
    ours = make_sampler(
        "category_pk",
        labels,
        batch_size,
        samples_each_class=3,
        categories=categories,
        n_categories=n_categories,
        batches_each=batches_each,
    )
    described = []
    for batches in (ours.epoch(0), np.array(list(theirs))):
        combinations = Counter()
        for batch in batches:
            of_labels = Counter(labels[batch].tolist())
            assert set(of_labels.values()) == {3} and len(set(batch.tolist())) == batch_size
            of_categories = Counter(categories[list(of_labels)].tolist())
            assert set(of_categories.values()) == {2}
            combinations[tuple(sorted(of_categories))] += 1
        described.append(combinations)
    assert described[0] == described[1] and set(described[0].values()) == {batches_each}
    assert len(ours) == len(theirs)
