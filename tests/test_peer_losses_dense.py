"""Losses over all pairs beside pytorch-metric-learning's of the same name: value and gradient, with its miner's pairs,
with rows of a memory. Both sides compute in float64, each within the bounds that hold against the oracles."""

import math

import oracles_dense
import pytest
import torch
from tolerances import assert_within

from losses import LOSSES
from losses._mined import Pairs, Reference

PEERS = {
    "multi_similarity": ("MultiSimilarityLoss", {}),
    "circle": ("CircleLoss", {}),
    "supcon": ("SupConLoss", {}),
    "margin": ("MarginLoss", {}),
    "lifted_structure": ("LiftedStructureLoss", {}),
    "ranked_list": ("RankedListLoss", {"margin": 0.4, "Tn": 10.0}),
}
OPTIONS = {
    "multi_similarity": {"alpha": 1.0, "beta": 40.0, "base": 0.7},
    "circle": {"m": 0.25, "gamma": 64.0},
    "supcon": {"temperature": 0.3},
    "margin": {"margin": 0.5, "beta": 1.0},
    "lifted_structure": {"neg_margin": 1.5, "pos_margin": 0.25},
    "ranked_list": {"margin": 0.3, "Tn": 4.0, "imbalance": 0.3, "alpha": 1.1, "Tp": 2.0},
}
BATCHES = {
    "pairs": [0, 0, 1, 1, 2, 2, 3, 3],
    "uneven": [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 5, 7, 7, 7],
    "mixed": [3, 1, 3, 1, 2, 2, 3, 2, 1],
}


@pytest.fixture(scope="module")
def pml():
    return pytest.importorskip(
        "pytorch_metric_learning", reason="parity with pytorch-metric-learning needs requirements/peers.txt"
    )


def peer(name, options=None):
    from pytorch_metric_learning import losses

    kind, chosen = PEERS[name]
    return getattr(losses, kind)(**{**chosen, **(options or {})})


def rows_of(count, seed):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(name, loss, ours, theirs, rows, labels, everything=None, all_labels=None):
    """Both functions of rows have one value and one slope."""
    if everything is None:
        everything, all_labels = rows, labels
    error, [slope_error] = oracles_dense.BOUNDS[name](loss, [everything], all_labels, torch.float64, math.exp(-20))
    if name == "margin":  # the peer keeps its boundary in float32
        error += 2.0**-24 * loss.beta
    found, expected = (run(rows.clone().requires_grad_()) for run in (with_slope(ours), with_slope(theirs)))
    assert_within(found[0], expected[0], 2 * error)
    assert_within(found[1], expected[1], 2 * slope_error)
    assert expected[1].abs().max() > 1e-6


def with_slope(function):
    def run(rows):
        value = function(rows)
        return value.detach(), torch.autograd.grad(value, rows)[0]

    return run


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high")
@pytest.mark.parametrize("options", [False, True], ids=["", "options"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", PEERS)
def test_all_pairs(pml, name, batch, options):
    chosen = OPTIONS[name] if options else {}
    loss, other = LOSSES[name](**chosen), peer(name, chosen)
    labels = torch.tensor(BATCHES[batch])
    for seed in range(3):
        rows = rows_of(len(labels), seed)
        assert_equal(name, loss, lambda x: loss(x, labels), lambda x: other(x, labels), rows, labels)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", sorted(set(PEERS) - {"ranked_list"}))
def test_pairs_of_a_miner(pml, name, batch, epsilon):
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    loss, other, labels = LOSSES[name](), peer(name), torch.tensor(BATCHES[batch])
    rows = rows_of(len(labels), 4)
    indices = MultiSimilarityMiner(epsilon)(rows, labels)
    pairs = Pairs(*indices)
    assert_equal(name, loss, lambda x: loss(x, labels, mined=pairs), lambda x: other(x, labels, indices), rows, labels)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", sorted(set(PEERS) - {"ranked_list"}))
def test_rows_of_a_memory(pml, name, batch):
    """The peer takes all columns, and pairs without those of an image with itself; the memory has one of the batch."""
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

    loss, other, labels = LOSSES[name](), peer(name), torch.tensor(BATCHES[batch])
    batch_images = torch.arange(len(labels))
    others = torch.tensor([int(labels[0]), 1, 2, 9, 9, 1])
    images = torch.tensor([0, 101, 102, 103, 104, 105])
    column_labels, column_images = torch.cat([labels, others]), torch.cat([batch_images, images])
    anchors, positives, negative_anchors, negatives = get_all_pairs_indices(labels, column_labels)
    apart = batch_images[anchors] != column_images[positives]
    indices = anchors[apart], positives[apart], negative_anchors, negatives
    rows, memory = rows_of(len(labels), 5), rows_of(len(others), 15)
    reference = Reference(memory, others, images, batch_images)

    def ours(x):
        return loss(x, labels, reference=reference)

    def theirs(x):
        return other(x, labels, indices, torch.cat([x, memory]), column_labels)

    assert_equal(name, loss, ours, theirs, rows, labels, torch.cat([rows, memory]), column_labels)
