"""Any sampler, by name, of labels alone: what else it asks for is made up."""

import numpy as np

from data.samplers import SAMPLERS, nearest_labels
from data.vocabulary import Vocabulary


def make_sampler(name, labels, batch_size, seed=0, start_step=0, samples_each_class=2, categories=None, **options):
    """A sampler of labels (N,), or of a vocabulary; labels are of two categories in turn, and lie anywhere."""
    if not isinstance(labels, Vocabulary):
        labels = Vocabulary.of(labels)
    if categories is None:
        categories = np.arange(len(labels)) % 2
    facts = {
        "labels": labels,
        "batch_size": batch_size,
        "samples_each_class": samples_each_class,
        "categories": categories,
    }
    if name == "neighbours":
        options = {"nearest": 2, **options}
    sampler = SAMPLERS[name](**{fact: facts[fact] for fact in SAMPLERS.requirements(name)}, **options)
    if name == "neighbours":
        points = np.random.default_rng(5).normal(size=(len(labels), 3)).astype(np.float32)
        sampler.neighbours = nearest_labels(points, sampler.neighbours_shape[1], sampler.lookalike)
    return sampler.starting(seed, start_step)
