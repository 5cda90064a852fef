"""--recompute: the same gradient and statistics, with fewer activations kept."""

import copy

import pytest
import torch

from engine.averaging import Averaging
from engine.objective import Objective
from models import Embedder, fast_model
from models.recompute import Recomputed, recompute_stages

IMAGES = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def twins():
    """ResNet18 as it is, and recomputed but for its first two stages, which are frozen."""
    torch.manual_seed(0)
    plain = Embedder("ResNet18", 16, freeze_stages=2)
    other = copy.deepcopy(plain)
    recompute_stages(other)
    return plain, other


def gradients(model):
    model.train().zero_grad()
    model(IMAGES).square().sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def kept_bytes(model):
    """Of what a forward pass keeps for the backward pass, weights left out."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(IMAGES)
    return sum(kept.values())


def test_gradient_and_statistics_are_the_same_to_the_bit(twins):
    plain, other = (copy.deepcopy(model) for model in twins)
    expected = gradients(plain)
    found = gradients(other)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    for name, value in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_less_is_kept(twins):
    plain, other = twins
    names = [name for name, module in other.backbone.named_children() if isinstance(module, Recomputed)]
    assert names == ["layer2", "layer3", "layer4"]
    assert kept_bytes(copy.deepcopy(other)) < 0.4 * kept_bytes(copy.deepcopy(plain))


def test_copies_run_themselves(twins):
    """Those of an average, and those that are made to be fast."""
    model = copy.deepcopy(twins[1]).eval()
    for other in (Averaging(Objective(model, torch.nn.Module()), ema=0.5).network(True).eval(), copy.deepcopy(model)):
        with torch.no_grad():
            before = model(IMAGES)
            for weight in other.parameters():
                weight.zero_()
            assert torch.equal(model(IMAGES), before)
            assert not other(IMAGES).any()
    fast = fast_model(model, "fp32", "torch", (3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(fast(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_transformer_has_the_same_gradient():
    """Blocks of tokens, and tokens that belong to no block, as the class token."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = Embedder("timm:test_vit", 8, "cls")
    other = copy.deepcopy(plain)
    recompute_stages(other)
    assert sum(isinstance(module, Recomputed) for module in other.backbone.modules()) > 1
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    for model in (plain, other):
        model(images).square().sum().backward()
    for name, weight in plain.named_parameters():
        assert torch.equal(other.get_parameter(name).grad, weight.grad), name
