"""recall_at_k against a sort of all others, the published worked examples, ties, lone queries, blocks, bad input."""

import math

import numpy as np
import pytest
import torch
from oracles import recall
from tolerances import about

from core.errors import InputError
from retrieval import recall_at_k

KS = (1, 2, 5, 10, 100)


def on_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def assert_equals_oracle(embeddings, labels, **options):
    found = recall_at_k(embeddings, labels, KS, **options)
    assert found == about({k: recall(embeddings.tolist(), labels.tolist(), k) for k in KS}, 4)


@pytest.mark.parametrize("memory", [1, 2**14, 2**28])
@pytest.mark.parametrize("classes", [2, 9, 40])
def test_equals_a_sort_of_all_others_whatever_the_block(classes, memory):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(-classes, classes, (47,), generator=generator) * 2**55  # with 80 labels many are alone
    embeddings = torch.randn(47, 3, generator=generator) + 0.3 * labels[:, None] / 2**55
    assert_equals_oracle(embeddings, labels, memory=memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [3, 37, 64])
def test_equal_rows_tie_and_the_smaller_index_wins_whatever_the_block(width, dtype):
    generator = torch.Generator().manual_seed(width)
    originals = torch.randn(9, width, generator=generator, dtype=dtype)
    embeddings = originals[torch.randint(9, (67,), generator=generator)]
    labels = torch.randint(5, (67,), generator=generator)
    expected = {k: recall(embeddings.tolist(), labels.tolist(), k) for k in KS}
    assert expected[1] < expected[2] < 1  # the ties decide
    for memory in (1, 2**28):
        assert recall_at_k(embeddings, labels, KS, memory=memory) == about(expected, 4)


@pytest.mark.parametrize(
    "degrees, labels, expected",
    [
        ((0, 10, 30, 35, 90), (0, 0, 1, 1, 2), 0.8),  # the row at 90 is alone with its label: a miss
        ((0, 10, 12, 40, 50, 60.01), (0, 0, 0, 1, 1, 0), 5 / 6),  # 60.01, not 60: 40 and 60 are equally far from 50
        ((0, 20, 20, 20), (0, 0, 1, 1), 0.25),  # three equal rows
    ],
)
def test_worked_examples(degrees, labels, expected):
    for embeddings in (on_circle(*degrees), 7 * on_circle(*degrees).float()):
        assert recall_at_k(embeddings, torch.tensor(labels), (1,)) == about({1: expected}, 4)


def test_length_does_not_count_and_zero_has_cosine_zero():
    directions = on_circle(0, 1, 90, 91)
    labels = torch.tensor([0, 0, 1, 1])
    assert recall_at_k(directions * torch.tensor([[1.0], [1e6], [1e-6], [3.0]]), labels) == {1: 1.0, 10: 1.0}
    assert_equals_oracle(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.1], [0.5, 0.5]]), labels)


def test_a_row_finds_its_duplicate_but_never_itself():
    rows = torch.ones(3, 4)
    assert recall_at_k(rows, torch.tensor([5, 5, 6]), (1,)) == about({1: 2 / 3}, 4)
    assert recall_at_k(rows[:1], torch.tensor([5]), (1, 7)) == {1: 0.0, 7: 0.0}


def test_k_beyond_the_others_means_all_of_them():
    embeddings, labels = on_circle(0, 50, 100, 150), torch.tensor([0, 1, 0, 2])
    assert recall_at_k(embeddings, labels, (3, 4, 99)) == {3: 0.5, 4: 0.5, 99: 0.5}


def test_arrays_half_types_and_gradients_are_taken_as_they_come():
    embeddings, labels = on_circle(0, 10, 90, 100), np.array([3, 3, 4, 4], dtype=np.int32)
    for form in (embeddings.numpy(), embeddings.bfloat16(), embeddings.half().requires_grad_()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = recall_at_k(form, labels, (1,))
        assert found == {1: 1.0} and type(found[1]) is float


def test_autocast_does_not_blur_the_scores():
    embeddings, labels = on_circle(0, 0.2, 0.3).float(), torch.tensor([0, 1, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert recall_at_k(embeddings, labels, (1,)) == about({1: 2 / 3}, 4)


@pytest.mark.parametrize(
    "embeddings, labels, ks, sentence",
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), (1,), r"embeddings have shape \(0, 3\)"),
        (torch.zeros(3), torch.zeros(3).long(), (1,), r"embeddings have shape \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(2).long(), (1,), r"labels have shape \(2,\); 3 embeddings need \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3), (1,), "labels are torch.float32; retrieval takes integers or strings"),
        (torch.zeros(3, 2), torch.zeros(3).long(), (1, 0), r"ks=\(1, 0\) holds a k below 1"),
        (
            torch.tensor([[1.0, 0], [math.nan, 1], [2, 2], [0, -math.inf]]),
            torch.zeros(4).long(),
            (1,),
            r"2 of 4 embeddings are NaN or infinite, first in rows \[1, 3\]",
        ),
    ],
)
def test_bad_input_is_refused(embeddings, labels, ks, sentence):
    with pytest.raises(InputError, match=sentence):
        recall_at_k(embeddings, labels, ks)
