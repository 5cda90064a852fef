"""What a loss refuses: wrong shapes and types, batches without the pairs it needs, options out of range."""

import math

import pytest
import torch

from core.errors import InputError
from losses import LOSSES

FACTS = {"embedding_size": 4, "num_classes": 7}


def make(name, **options):
    return LOSSES[name](**{fact: FACTS[fact] for fact in LOSSES.requirements(name)}, **options)


@pytest.mark.parametrize(
    "embeddings, labels, sentence",
    [
        (torch.zeros(4, 2, 2), torch.zeros(4), r"shape \(4, 2, 2\); a loss takes \(B, D\)"),
        (torch.zeros(0, 4), torch.zeros(0).long(), r"shape \(0, 4\)"),
        (torch.zeros(6, 4).long(), torch.zeros(6).long(), "embeddings are torch.int64"),
        (torch.zeros(6, 4), torch.zeros(5).long(), r"labels have shape \(5,\); 6 rows of embeddings need \(6,\)"),
        (torch.zeros(6, 4), torch.zeros(6), "labels are torch.float32; a loss takes integers"),
        (torch.zeros(6, 4), torch.zeros(6).bool(), "labels are torch.bool"),
    ],
)
@pytest.mark.parametrize("name", LOSSES.names())
def test_wrong_shapes_and_types_are_refused(name, embeddings, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        make(name)(embeddings, labels)


@pytest.mark.parametrize(
    "name, labels, sentence",
    [
        ("triplet", [1, 1, 0, 2], "batch of 4 rows cannot be triplets: it has to be divisible by 3"),
        ("triplet", [1, 1, 0, 4, 1, 1], r"rows 3..5 have labels \[4, 1, 1\]"),
        ("triplet", [1, 1, 1], r"rows 0..2 have labels \[1, 1, 1\]"),
        *[(name, [0, 1, 2, 3], "no label occurs twice among the 4 rows") for name in LOSSES.names(batch="pk")],
        *[(name, [7], "no label occurs twice among the 1 row;") for name in LOSSES.names(batch="pk")],
        *[(name, [7, 7, 7], "all 3 rows have label 7") for name in LOSSES.names(batch="pk")],
        ("siamese", [7, 7, 3], "3 rows are no pairs"),
        ("npairs", [7, 7, 3], "only label 7 occurs twice"),
        ("softmax", [0, 6, 7], r"label 7 is outside 0..6, the 7 classes"),
        ("arcmargin", [0, -1, 5], r"label -1 is outside 0..6, the 7 classes"),
    ],
)
def test_batches_that_a_loss_cannot_use_are_refused(name, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        make(name)(torch.randn(len(labels), 4), torch.tensor(labels))


def test_embeddings_of_another_width_are_refused():
    for name in LOSSES.names(stage="elem"):
        with pytest.raises(InputError, match="embeddings have 5 columns; the class weights have 4"):
            make(name)(torch.zeros(2, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "name, options",
    [
        ("triplet", {"margin": -0.1}),
        ("quadruplet", {"margin": math.nan}),
        ("siamese", {"margin": -1.0}),
        ("arcmargin", {"arc_scale": math.inf}),
        ("arcmargin", {"arc_margin": 28.6}),
        ("npairs", {"npairs_reg_lambda": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    [(option, value)] = options.items()
    with pytest.raises(InputError, match=f"{option}={value} is outside"):
        make(name, **options)
