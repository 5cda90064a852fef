"""The triplet loss and miners beside those of Open Metric Learning and pytorch-metric-learning: value, slope, logs."""

import pytest
import torch
from tolerances import assert_within, gamma

from engine.mining import build_miner
from engine.objective import Objective
from losses import TripletMarginLoss

BATCHES = {
    "K=2": [4, 4, 1, 1, 0, 0, 9, 9],
    "K=4, any order": [2, 9, 2, 9, 9, 2, 2, 9, 5, 5, 5, 5],
    "two labels": [3, 3, 3, 3, 8, 8, 8, 8],
}
# Of OML: ours, theirs, and the options of both.
OML_MINERS = {
    "none": ("AllTripletsMiner", {}, {}),
    "all": ("AllTripletsMiner", {}, {}),
    "hard": ("HardTripletsMiner", {}, {}),
    "nhard": ("NHardTripletsMiner", {"n_positive": (1, 2), "n_negative": 3}, {"n_positive": (1, 2), "n_negative": 3}),
    "hard_cluster": ("HardClusterMiner", {}, {}),
}
# torch.cdist of up to 25 rows takes differences, ours the squares of unit size; rows are 0.5 from each other at least.
ERROR = 8 * (gamma(100) * 400 / 0.5**2)


def rows_of(labels, scale=1.0):
    generator = torch.Generator().manual_seed(len(labels))
    return (scale * torch.randn(len(labels), 6, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture(scope="module")
def oml():
    pytest.importorskip("oml", reason="parity with Open Metric Learning needs requirements/peers.txt")
    from oml import miners
    from oml.losses import TripletLossWithMiner

    return lambda margin, miner, **options: TripletLossWithMiner(
        margin, getattr(miners, miner)(**options), need_logs=True
    )


@pytest.fixture(scope="module")
def pml():
    pytest.importorskip("pytorch_metric_learning", reason="parity with PML needs requirements/peers.txt")
    from pytorch_metric_learning import distances, losses, miners, reducers

    return {"distances": distances, "losses": losses, "miners": miners, "reducers": reducers}


def ours(rows, labels, loss, miner="none", options=None):
    """(value, gradient, logs) of our loss behind our miner."""
    mining = build_miner(options or {}, "triplet_margin", {}, miner=miner)
    value = Objective(torch.nn.Identity(), loss, miner=mining).compare(rows, labels)
    return value, torch.autograd.grad(value, rows)[0], loss.logs


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("margin", [0.1, 1.0, None])
@pytest.mark.parametrize("miner", OML_MINERS)
def test_the_triplet_loss_equals_omls(oml, miner, margin, name):
    labels = torch.tensor(BATCHES[name])
    rows = rows_of(labels)
    peer, options, theirs = OML_MINERS[miner]
    criterion = oml(margin, peer, **theirs)
    expected = criterion(rows, labels)
    (slope,) = torch.autograd.grad(expected, rows)
    value, gradient, logs = ours(rows, labels, TripletMarginLoss(margin), miner, options)
    # What torch's softplus leaves out of the soft margin.
    tail = 2.1e-9 if margin is None else 0
    assert_within(value, expected, ERROR + tail)
    assert_within(gradient, slope, ERROR + tail)
    for figure in ("active_tri", "pos_dist", "neg_dist"):
        assert_within(logs[figure], criterion.last_logs[figure], ERROR + gamma(10, torch.float32))


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    "options, distance",
    [
        ({"distance": "euclidean", "normalise": True}, ("LpDistance", {})),
        ({"distance": "euclidean"}, ("LpDistance", {"normalize_embeddings": False})),
        ({"distance": "squared", "normalise": True}, ("LpDistance", {"power": 2})),
        ({"distance": "cosine"}, ("CosineSimilarity", {})),
    ],
)
@pytest.mark.parametrize("miner", ["none", "hard", "semihard", "easy_positive", "multi_similarity"])
def test_the_triplet_loss_equals_pmls(pml, miner, options, distance, name):
    labels = torch.tensor(BATCHES[name])
    rows = rows_of(labels)
    kind, settings = distance
    measure = getattr(pml["distances"], kind)(**settings)
    criterion = pml["losses"].TripletMarginLoss(0.3, distance=measure, reducer=pml["reducers"].MeanReducer())
    peers = {
        "none": lambda: None,
        "hard": lambda: pml["miners"].BatchHardMiner()(rows, labels),
        "semihard": lambda: pml["miners"].TripletMarginMiner(0.2, "semihard")(rows, labels),
        "easy_positive": lambda: pml["miners"].BatchEasyHardMiner()(rows, labels),
        "multi_similarity": lambda: pml["miners"].MultiSimilarityMiner()(rows, labels),
    }
    expected = criterion(rows, labels, peers[miner]())
    (slope,) = torch.autograd.grad(expected, rows)
    by = {"miner_normalise": True} if miner == "hard" else {}
    value, gradient, _ = ours(rows, labels, TripletMarginLoss(0.3, **options), miner, by)
    assert_within(value, expected, ERROR)
    assert_within(gradient, slope, ERROR)
