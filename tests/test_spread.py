"""How far embeddings spread, beside the mean over all pairs, and when an evaluation says that they are nearly one."""

import math
from decimal import Decimal

import cv2
import numpy as np
import pytest
import torch
from runs import as_line, read_json, run
from test_protocol import data_of
from tolerances import assert_within, gamma

from retrieval.metrics.spread import COLLAPSED, collapse_notes, spread_of


def mean_cosine(rows):
    """Of all pairs of rows, each with itself, in decimals."""
    units = []
    for row in rows.double().tolist():
        exact = [Decimal(number) for number in row]
        length = sum(number * number for number in exact).sqrt()
        units.append([number / length for number in exact])
    total = sum(sum(a * b for a, b in zip(one, other)) for one in units for other in units)
    return float(total / len(units) ** 2)


def rows_of_cosine(cosine, count=200, width=8):
    """Rows (N, D) float32 of lengths from 1 to 100, any two of which have about this cosine."""
    generator = torch.Generator().manual_seed(0)
    apart = torch.nn.functional.normalize(torch.randn(count, width - 1, generator=generator), dim=1)
    rows = torch.cat([torch.full((count, 1), math.sqrt(cosine)), math.sqrt(1 - cosine) * apart], 1)
    return rows * torch.linspace(1, 100, count)[:, None]


@pytest.mark.parametrize("cosine", [0.0, 0.6, 0.999999])
def test_spread_is_that_of_all_pairs(cosine):
    rows = rows_of_cosine(cosine, count=30)
    # In float64: directions, their mean of N rows, and its square over D numbers, of at most 1.
    assert_within(spread_of(rows), 1 - mean_cosine(rows), 4 * gamma(len(rows) + 3 * rows.shape[1], torch.float64))


def test_spread_by_hand():
    assert spread_of(torch.tensor([[2.0, 0.0], [0.0, 3.0]])) == pytest.approx(0.5, abs=1e-15)
    assert spread_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 1.0
    assert spread_of(torch.ones(3, 2)) == pytest.approx(0.0, abs=1e-15)
    assert spread_of(torch.zeros(3, 2)) == 0.0


@pytest.mark.parametrize("cosine, is_said", [(0.0, False), (0.6, False), (0.99, False), (0.9995, True), (1.0, True)])
def test_embeddings_that_are_nearly_one_are_said(cosine, is_said):
    """Features that are never negative have cosines above 0.5, as those of ImageNet networks, and find well."""
    assert bool(collapse_notes(rows_of_cosine(cosine))) == is_said


def test_one_row_alone_is_no_collapse():
    assert collapse_notes(torch.ones(1, 4)) == []
    assert spread_of(torch.ones(1, 4)) < COLLAPSED


@pytest.mark.parametrize("cosine, distance", [(0.9999, "cosine"), (0.9999, "squared_euclidean"), (0.6, "cosine")])
def test_an_evaluation_says_it_beside_the_figures_and_in_the_report(tmp_path, cosine, distance):
    rows, labels = rows_of_cosine(cosine, 40).numpy(), np.repeat(np.arange(10), 4)
    paths = [str(tmp_path / f"{row}.png") for row in range(len(rows))]
    for path in paths:
        cv2.imwrite(path, np.zeros((8, 8, 3), np.uint8))
    np.savez(tmp_path / "mine.npz", embeddings=rows, labels=labels, paths=paths)
    flags = {"embeddings": tmp_path / "mine.npz", "output_dir": tmp_path, "distance": distance}
    page = tmp_path / "page.html"
    printed = run("eval", as_line({**flags, "report": page}))
    is_said = cosine > 1 - COLLAPSED and distance == "cosine"
    assert printed.count("note: the embeddings are nearly one vector, their mean cosine is 0.9999") == is_said
    notes = read_json(tmp_path / "result.json")["notes"]
    assert len(notes) == is_said and [f"note: {note}" for note in notes] == data_of(page)["notices"]
