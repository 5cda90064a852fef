"""The losses that rank beside those of pytorch-metric-learning and Open Metric Learning: values and gradients."""

import pytest
import torch
from oracles_ranking import BOUNDS
from tolerances import assert_within, gamma

from losses import FastApLoss, RoadmapLoss, SmoothApLoss, SurrogatePrecisionLoss

SINGLE = gamma(1, torch.float32)
BATCHES = {
    "four of a label": torch.arange(24) // 4,
    "uneven": torch.tensor([3, 1, 3, 0, 0, 2, 3, 1, 9, 0, 3, 3]),
    "many": torch.arange(60) % 7,
}


@pytest.fixture(scope="module")
def pml():
    return pytest.importorskip("pytorch_metric_learning.losses", reason="parity needs requirements/peers.txt")


@pytest.fixture(scope="module")
def oml():
    reason = "parity needs requirements/peers.txt"
    return pytest.importorskip("oml.losses.surrogate_precision", reason=reason).SurrogatePrecision


def rows_of(labels, spread, width=6):
    """Rows around a centre for each label: 1.5 mixes labels, 0.7 has them nearly apart."""
    generator = torch.Generator().manual_seed(len(labels))
    centres = torch.randn(10, width, generator=generator, dtype=torch.float64)
    return centres[labels] + spread * torch.randn(len(labels), width, generator=generator, dtype=torch.float64)


def assert_same(name, ours, theirs, rows, labels, stored=0.0):
    """Both are within the bound of the exact value and slopes; stored: what else the peer's value and slopes lose."""
    found = []
    for loss in (ours, theirs):
        leaf = rows.clone().requires_grad_()
        value = loss(leaf, labels)
        found.append((value, *torch.autograd.grad(value, leaf)))
    value_error, [slope_error] = BOUNDS[name](ours, [rows], labels, torch.float64, 0)
    assert_within(found[0][0], found[1][0], 2 * value_error + stored)
    slopes = found[1][1].abs().max().item()
    assert slopes > 0
    assert_within(found[0][1], found[1][1], 2 * slope_error + 10 * stored * slopes)


@pytest.mark.parametrize("spread", [0.7, 1.5])
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("num_bins", [10, 25])
def test_fast_ap_equals_pmls(pml, labels, spread, num_bins):
    rows = rows_of(labels, spread)
    assert_same("fast_ap", FastApLoss(num_bins), pml.FastAPLoss(num_bins), rows, labels)


@pytest.mark.parametrize("spread", [0.7, 1.5])
@pytest.mark.parametrize("images", [2, 3, 5])
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_smooth_ap_equals_pmls_where_there_are_as_many_labels_as_images_of_each(pml, images, spread, temperature):
    """PML 2.9 cuts a batch of C labels with K images into K groups of C rows, which are labels where C = K alone.

    It keeps precisions in float32, whatever the embeddings are.
    """
    labels = torch.arange(images**2) // images
    rows = rows_of(labels, spread)
    theirs = pml.SmoothAPLoss(temperature)
    assert_same("smooth_ap", SmoothApLoss(temperature), theirs, rows, labels, stored=2 * SINGLE)


@pytest.mark.parametrize("spread", [0.7, 1.5])
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("options", [(5, 1.0, 0.01), (1, 0.5, 0.2), (30, 2.0, 0.05)])
def test_surrogate_precision_equals_omls(oml, labels, spread, options):
    rows = rows_of(labels, spread)
    # From 26 rows on torch.cdist multiplies: a row's distance from itself is not 0, but a root of rounding.
    lengths = rows.norm(dim=1)
    itself = (gamma(rows.shape[1] + 8) * 4 * lengths.max().item() ** 2) ** 0.5 if len(rows) > 25 else 0.0
    ours = SurrogatePrecisionLoss(*options)
    assert_same("surrogate_precision", ours, oml(*options), rows, labels, stored=len(rows) * itself / options[2])


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
def test_roadmaps_calibration_is_pmls_contrastive_loss(pml, labels):
    from pytorch_metric_learning.distances import CosineSimilarity

    contrastive = pml.ContrastiveLoss(pos_margin=0.9, neg_margin=0.6, distance=CosineSimilarity())
    precision = RoadmapLoss(calibration_weight=0)

    def theirs(rows, labels):
        return precision(rows, labels) + 0.7 * contrastive(rows, labels)

    assert_same("roadmap", RoadmapLoss(calibration_weight=0.7), theirs, rows_of(labels, 0.6), labels)
