"""Search, inference and the memory of pair losses on a GPU, beside the CPU; skipped, with the reason, where none is."""

import numpy as np
import pytest
import torch
from runs import tiny_backbone
from tolerances import assert_within, cosine_error

from losses import LOSSES
from models import Embedder, fast_model
from retrieval.best_positive import positive_ranks
from retrieval.query_gallery import QueryGallery
from retrieval.topk import search

DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")


def made_up(rows, width=32):
    """Unit rows (N, D), labels (N,) of five images each; no two scores of a query are closer than rounding."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(table), torch.arange(rows) // 5


def test_ranks_are_those_of_the_cpu():
    table, labels = made_up(600)
    expected = positive_ranks(QueryGallery.of(table, labels), (1, 10))
    found = positive_ranks(QueryGallery.of(table.to(DEVICE), labels), (1, 10))
    # A rank that is beyond the largest k may be any that is.
    for k in (1, 10):
        assert torch.equal(found.cpu() < k, expected < k)


def test_neighbours_are_those_of_the_cpu():
    table, labels = made_up(600)
    rows, scores = search(QueryGallery.of(table, labels), 7)
    found_rows, found_scores = search(QueryGallery.of(table.to(DEVICE), labels), 7)
    assert torch.equal(found_rows.cpu(), rows)
    assert_within(found_scores.cpu(), scores, 2 * cosine_error(table.shape[1]))


@pytest.mark.parametrize("precision, least", [("fp32", 0.99999), ("bf16", 0.99)])
def test_images_are_embedded_as_on_the_cpu(precision, least):
    torch.manual_seed(0)
    with tiny_backbone():
        model = Embedder("Tiny").eval()
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(images)
        fast = fast_model(model.to(DEVICE), precision, "torch", (3, 32, 32)).eval()
        found = fast(images.to(DEVICE)).cpu()
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(found, expected).min() > least


@pytest.mark.parametrize("name", ["multi_similarity", "contrastive", "supcon", "triplet_margin", "fast_ap"])
def test_a_pair_loss_takes_memory_of_its_pairs(name):
    """Twice the batch takes at most about four times the bytes: nothing lists triplets. The value is the CPU's."""
    loss = LOSSES[name]()
    peaks = []
    for images in (64, 512, 1024):  # the first makes what the libraries keep for themselves
        table, _ = made_up(images)
        labels = torch.arange(images) // 4
        rows = table.to(DEVICE).requires_grad_()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value = loss(rows, labels.to(DEVICE))
        value.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        assert np.isclose(value.item(), loss(table, labels).item(), rtol=1e-3, atol=1e-5)
    assert peaks[2] <= 4.5 * peaks[1] + 2**20
