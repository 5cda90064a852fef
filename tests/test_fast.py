"""Faster copies of the network: folding against the network itself, half types, OpenVINO; what each leaves alone."""

import copy
import sys

import pytest
import torch
from runs import tiny_backbone
from test_models import available, pictures
from tolerances import assert_within, gamma, least_cosine, likely_gamma, longest_sum, sensitivity
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import InputError
from models import Embedder, fast_model
from models.fast import folded
from models.pooling import OF_TOKENS, POOLINGS

SHAPE = (3, 64, 64)


# ConvBackbone has nothing to fold, and takes images of 28 pixels alone.
DEEP = tuple(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet101", "ResNet152"))
FOLDABLE = ("ResNet18", "ResNet34", "ResNet50", *DEEP, "EfficientNetLite0")


@pytest.fixture(scope="module", params=FOLDABLE)
def model(request):
    """Each of these rows in training mode, its weights and what BatchNorm has made random. Read only.

    BatchNorm's statistics are near those of some pictures, as after training.
    """
    torch.manual_seed(0)
    model = Embedder(available(request.param), embedding_size=16, pooling="avg+max")
    norms = norms_of(model)
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        model(pictures(8))
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn(norm.num_features) * norm.running_var.sqrt()
        norm.running_var *= torch.empty(norm.num_features).uniform_(0.8, 1.25)
    return model


@pytest.fixture(scope="module", params=FOLDABLE)
def fresh(request):
    """Each of these rows as it is built; random statistics would make a deep one enlarge every rounding. Read only."""
    torch.manual_seed(0)
    return Embedder(available(request.param))


def norms_of(net):
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


@torch.inference_mode()
def embed(model, images=None):
    """Embeddings in evaluation mode; the model is left in it only if it was."""
    training = model.training
    try:
        return model.eval()(pictures(3) if images is None else images)
    finally:
        model.train(training)


def moves(model):
    """How far the embeddings (3, D) of `model` move, for a relative change of 1 in every layer."""
    exact = copy.deepcopy(model).double()
    return sensitivity(exact, lambda: {"embeddings": embed(exact)}, draws=1)["embeddings"]  # of many numbers


@pytest.fixture(scope="module")
def fresh_moves(fresh):
    return moves(fresh)


def assert_same_way(found, expected, moves, error):
    """Embeddings whose layers are off by `error` point the way of those that are not."""
    least = least_cosine(expected, moves[: len(found)], error)
    assert_within(cosine_similarity(found.double(), expected.double()), 1, 1 - least)


def test_every_batchnorm_is_folded_and_nothing_changes(model):
    exact = copy.deepcopy(model).double()
    expected = embed(exact)
    exact.backbone = folded(exact.backbone)
    assert norms_of(model) and not norms_of(exact.backbone)
    assert_within(embed(exact), expected, gamma(longest_sum(model) + 16) * moves(model).max())


def test_fp32_differs_by_rounding_alone(fresh, fresh_moves):
    fast, expected = fast_model(fresh, "fp32", "torch", SHAPE), embed(fresh)
    assert norms_of(fresh) and not norms_of(fast)
    error = likely_gamma(longest_sum(fresh) + 16)  # thousands of terms: gamma would be 3e-4
    assert_within(embed(fast), expected, error * fresh_moves.max())


def test_bf16_points_the_same_way(fresh, fresh_moves):
    fast = fast_model(fresh, "bf16", "torch", SHAPE)
    assert {p.dtype for p in fast.backbone.parameters()} == {torch.bfloat16} and not norms_of(fast)
    found = embed(fast)
    assert found.dtype == torch.float32
    assert_same_way(found, embed(fresh), fresh_moves, gamma(1, torch.bfloat16))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_model_stays_as_it_is(model, precision):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    types = [type(module) for module in model.modules()]
    fast_model(model, precision, "torch", SHAPE)
    assert model.training and [type(module) for module in model.modules()] == types
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name


class Net(nn.Module):
    """Two convolutions and two BatchNorms, put together by a function of their names."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 1, groups=3)
        self.m, self.n = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.m, self.n):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
        self.way = way

    def forward(self, x):
        return self.way(self, x)


def read_twice(net, x):
    maps = net.a(x)
    return net.n(net.b(net.m(maps) + maps))


WAYS = {
    "one after the other": (lambda net, x: net.n(net.b(net.m(net.a(x)))), 0),
    "maps that others read": (read_twice, 1),
    "a convolution used twice": (lambda net, x: net.m(net.a(x)) + net.n(net.a(x)), 2),
    "a BatchNorm used twice": (lambda net, x: net.m(net.a(x)) + net.m(net.b(x)), 2),
    "a BatchNorm first": (lambda net, x: net.n(net.a(net.m(x))), 1),
    "something between": (lambda net, x: net.m(net.b(net.n(net.a(x).relu()))), 1),
    "Python that looks at numbers": (lambda net, x: net.n(net.b(net.m(net.a(x)))) if x.mean() < 9 else x, 2),
}


@pytest.mark.parametrize("way, left", WAYS.values(), ids=WAYS)
def test_only_what_can_be_folded_is(way, left):
    torch.manual_seed(0)
    net, x = Net(way).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.double)
    ours = folded(net)
    with torch.no_grad():
        error = gamma(longest_sum(net) + 16) * sensitivity(net, lambda: {"maps": net(x)})["maps"].max()
        assert_within(ours(x), net(x), error)
    assert (len(norms_of(ours)), len(norms_of(net))) == (left, 2)


def test_a_batchnorm_without_statistics_stays():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert len(norms_of(folded(net))) == 1


def test_pixels_are_scaled_before_they_are_rounded():
    """In bf16 the mean of red, 123.675, is 123.5: three thousandths of a deviation in every pixel."""
    with tiny_backbone():
        model = Embedder("Tiny").eval()
    seen = []
    fast = fast_model(model, "bf16", "torch", SHAPE)
    fast.backbone.net[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    embed(fast)
    assert torch.equal(seen[0], ((pictures(3) - model.mean) / model.std).bfloat16())


def test_openvino_embeds_alike(fresh, fresh_moves):
    pytest.importorskip("openvino", reason="requirements/openvino.txt is not installed")
    for precision, error in (("fp32", likely_gamma(longest_sum(fresh) + 16)), ("bf16", gamma(1, torch.bfloat16))):
        fast = fast_model(fresh, precision, "openvino", SHAPE)
        assert fast.embedding_size == fresh.embedding_size
        for count in (3, 1):
            images = pictures(count).contiguous(memory_format=torch.channels_last)
            found, expected = embed(fast, images), embed(fresh, images)
            assert found.dtype == torch.float32 and found.shape == expected.shape
            assert_same_way(found, expected, fresh_moves, error)


@pytest.mark.parametrize("pooling", sorted({*POOLINGS} - {*OF_TOKENS, "trained"}))
def test_openvino_pools_alike(pooling):
    pytest.importorskip("openvino", reason="requirements/openvino.txt is not installed")
    with tiny_backbone():
        model = Embedder("Tiny", pooling=pooling)
    found = embed(fast_model(model, "fp32", "openvino", SHAPE))
    assert_within(found, embed(model), gamma(longest_sum(model) + 15 * 15 + 16, torch.float32) * moves(model).max())


def test_openvino_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with tiny_backbone(), pytest.raises(InputError, match="package openvino: pip install -r requirements/openvino.txt"):
        fast_model(Embedder("Tiny"), "fp32", "openvino", SHAPE)
