"""Every loss at the edges of its formula: finite, with finite gradients, whatever the network sends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import LOSSES

WIDTH, CLASSES = 4, 3
LABELS = torch.tensor([0, 0, 1, 2, 2, 0])  # pairs and triplets alike
KINDS = ("random", "identical", "zero", "parallel", "opposite", "far", "tiny", "one zero row", "one far row")


def embeddings_of(kind, scale, seed):
    """(6, WIDTH) of a kind, its longest rows around `scale`."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(LABELS), WIDTH, generator=generator)
    direction, signs = rows[:1], torch.tensor([1.0, -1] * 3)[:, None]
    made = {
        "identical": direction.expand_as(rows),
        "zero": torch.zeros_like(rows),
        "parallel": direction * (1 + rows[:, :1].abs()),
        "opposite": direction * signs,
        "tiny": rows * 1e-20,
        "one zero row": rows * (torch.arange(len(rows)) > 0)[:, None],
        "one far row": rows * torch.where(torch.arange(len(rows)) > 0, 1, 1e3)[:, None],
    }.get(kind, rows)
    return made * (1e4 if kind == "far" else scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES.names())
@settings(max_examples=8, deadline=None, derandomize=True)
@given(scale=st.floats(1e-3, 100), seed=st.integers(0, 2**31), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_finite_with_finite_gradients(name, kind, scale, seed, dtype):
    torch.manual_seed(seed)
    facts = {"embedding_size": WIDTH, "num_classes": CLASSES}
    loss = LOSSES[name](**{fact: facts[fact] for fact in LOSSES.requirements(name)})
    embeddings = embeddings_of(kind, scale, seed).to(getattr(torch, dtype)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        value = loss(embeddings, LABELS)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite(), value
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("name", LOSSES.names(stage="elem"))
def test_class_weights_along_and_against_the_embeddings(name):
    """arcmargin's root at cosine 1 and -1, and log-sum-exps with one class far ahead."""
    loss = LOSSES[name](embedding_size=WIDTH, num_classes=CLASSES)
    rows = torch.eye(WIDTH)[:CLASSES] * 1e3
    for sign in (1, -1):
        with torch.no_grad():
            if loss.weight.ndim == 3:  # several centres of each class
                loss.weight.copy_(sign * rows[:, None])
            else:
                loss.weight.copy_(sign * rows)
        embeddings = rows.clone().requires_grad_()
        value = loss(embeddings, torch.arange(CLASSES))
        value.backward()
        assert value.isfinite() and embeddings.grad.isfinite().all() and loss.weight.grad.isfinite().all()
