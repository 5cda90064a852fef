"""Where a network looks: rollout and Grad-CAM by their formulas, every family of networks, pictures, refusals."""

import contextlib
import math
import os
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reports import data_of, make_content
from runs import as_line, run, tiny_backbone
from torch import nn

from core.errors import InputError
from core.registry import Entry
from data.image.transforms import TestTransform
from embeddings.attention import Look
from models import BACKBONES, Embedder
from models.attention import GRAD_CAM, ROLLOUT, AttentionMaps, AttentionRecorder, attention_weights, grid_of, rollout
from models.backbones import IMAGENET, Backbone
from models.backbones.unicom import Unicom
from report.attention import LookedAt, attention_sheet, overlay, resized_look
from report.page.page import write_content


def pixels(side=32, count=2):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def embedder(name, pooling=None, **options):
    torch.manual_seed(0)
    return Embedder(name, pooling=pooling or BACKBONES[name](name).pooling, **options)


@contextlib.contextmanager
def made_of(net, width, output, pooling="avg"):
    """An Embedder of a network that a test makes."""
    row = Backbone(lambda weights: net, width, ((),), IMAGENET)
    entry = Entry(lambda name: row, {"modality": "image", "output": output, "weights": ()})
    with mock.patch.dict(BACKBONES._entries, Made=entry):
        yield Embedder("Made", pooling=pooling)


@pytest.fixture
def tiny_torchvision(monkeypatch):
    """torchvision's ViT-B-16 as one of two heads and twelve layers of 16 numbers a token, for 32 x 32 pixels."""
    from torchvision.models import VisionTransformer, get_model

    def tiny(name):
        if name != "vit_b_16":
            return get_model(name)
        return VisionTransformer(image_size=32, patch_size=8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32)

    monkeypatch.setattr("torchvision.models.get_model", tiny)


# Rollout.


def test_rollout_is_the_paper_s_product():
    """By loops over numbers: half a layer's attention and half what was there before."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 4, 4, generator=generator, dtype=torch.double).softmax(-1) for _ in range(3)]
    pooled = torch.rand(2, 1, 4, generator=generator, dtype=torch.double).softmax(-1)
    for image in range(2):
        product = [[float(i == j) for j in range(4)] for i in range(4)]
        for layer in layers:
            mixed = [[(float(layer[image, i, k]) + (i == k)) / 2 for k in range(4)] for i in range(4)]
            product = [[sum(mixed[i][k] * product[k][j] for k in range(4)) for j in range(4)] for i in range(4)]
        assert rollout(layers)[image].tolist() == [pytest.approx(row, abs=1e-15) for row in product]
        last = [sum(float(pooled[image, 0, k]) * product[k][j] for k in range(4)) for j in range(4)]
        assert rollout([*layers, pooled])[image, 0].tolist() == pytest.approx(last, abs=1e-15)
    assert torch.allclose(rollout(layers).sum(-1), torch.ones(2, 4, dtype=torch.double))


def known_attention(layer, tokens):
    """The mean over the heads of what a layer of torchvision's ViT looks at, (N, N), and its output, head by head."""
    own = layer.self_attention
    inputs = layer.ln_1(tokens)
    queries, keys, _ = (inputs @ own.in_proj_weight.T + own.in_proj_bias).split(own.embed_dim, dim=-1)
    weights = torch.zeros(len(tokens), len(tokens), dtype=tokens.dtype)
    size = own.head_dim
    for head in range(own.num_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(tokens)):
            scores = torch.stack([queries[i, part] @ keys[j, part] / math.sqrt(size) for j in range(len(tokens))])
            weights[i] += (scores - scores.max()).exp() / (scores - scores.max()).exp().sum() / own.num_heads
    return weights, layer(tokens.unsqueeze(0))[0]


@pytest.mark.parametrize("pooling", ["cls", "avg"])
def test_a_vit_looks_where_its_attention_does(tiny_torchvision, pooling):
    """The class token's rollout or the patches' mean one, in float64, against loops over heads and tokens."""
    model = embedder("ViT-B-16", pooling).double().eval()
    images = pixels()
    maps = AttentionMaps(model, (3, 32, 32))
    assert maps.method == ROLLOUT and maps.grid == (1, 4, 4)
    found = maps.of(images, torch.zeros(2, 16))
    assert found.dtype == torch.float32 and found.shape == (2, 4, 4)

    net = model.backbone.net
    product = torch.eye(17, dtype=torch.double)
    with torch.no_grad():
        patches = net.conv_proj(model.prepare(images[:1])).flatten(2)[0].T
        tokens = torch.cat([net.class_token[0], patches]) + net.encoder.pos_embedding[0]
        for layer in net.encoder.layers:
            attention, tokens = known_attention(layer, tokens)
            product = (attention + torch.eye(17, dtype=torch.double)) / 2 @ product
    expected = product[0, 1:] if pooling == "cls" else product[1:, 1:].mean(0)
    assert torch.allclose(found[0].double(), expected.view(4, 4), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"is_causal": True}, {"mask": "bool"}, {"mask": "float"}])
def test_weights_are_those_that_torch_multiplies_by(options):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 5, 4, generator=generator, dtype=torch.double)
    options = dict(options)
    mask = options.pop("mask", None)
    if mask == "bool":
        options["attn_mask"] = torch.rand(5, 5, generator=generator) > 0.4
        options["attn_mask"].fill_diagonal_(True)
    elif mask == "float":
        options["attn_mask"] = torch.randn(5, 5, generator=generator, dtype=torch.double)
    weights = attention_weights(query, key, value, **options)
    assert torch.allclose(weights @ value, F.scaled_dot_product_attention(query, key, value, **options))


def test_attention_that_is_looked_at_stays_what_it_is(tiny_torchvision):
    model = embedder("ViT-B-16").eval()
    with torch.no_grad():
        expected = model(pixels())
        with AttentionRecorder() as recorder:
            found = model(pixels())
    assert torch.allclose(found, expected, atol=1e-5)
    assert [tuple(layer.shape) for layer in recorder.layers(2)] == 12 * [(2, 17, 17)]
    assert all(torch.allclose(layer.sum(-1), torch.ones(2, 17)) for layer in recorder.layers(2))
    assert recorder.layers(1) == []


@pytest.mark.parametrize(
    "tokens, height, width, least, grid",
    [
        (196, 224, 224, 0, (0, 14, 14)),
        (197, 224, 224, 0, (1, 14, 14)),
        (201, 224, 224, 1, (5, 14, 14)),
        (33, 64, 32, 1, (1, 8, 4)),
        (1 + 4 * 9, 32, 72, 1, (1, 4, 9)),
        (11, 32, 32, 0, (2, 3, 3)),
        (7, 1000, 10, 3, None),
        (1, 32, 32, 0, None),
    ],
)
def test_a_grid_is_known_by_its_number(tokens, height, width, least, grid):
    assert grid_of(tokens, height, width, least) == grid


# Grad-CAM.


def test_grad_cam_of_one_linear_channel_is_the_channel():
    """f = mean(a), score = f t: its slope is t / (h w) at each place, so that the map is a t / (h w) where above 0."""
    net = nn.Conv2d(3, 1, 2, stride=2, bias=False)
    nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(0))
    with made_of(net, 1, "maps") as model:
        maps = AttentionMaps(model, (3, 8, 8))
        assert maps.method == GRAD_CAM and maps.layer is net
        images = pixels(8)
        with torch.no_grad():
            channel = net(model.prepare(images))[:, 0]
        for target in (2.0, -3.0):
            found = maps.of(images, torch.full((2, 1), target))
            assert torch.allclose(found, (target / 16 * channel).relu(), atol=1e-6)
        assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_places_share_the_similarity():
    """Of positive maps under a mean the map's sum is the dot product itself; a frozen network is no other."""
    with made_of(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(inplace=True)), 4, "maps") as model:
        model.requires_grad_(False)
        targets = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = (model.eval()(pixels(8)) * targets).sum(1)
        assert torch.allclose(AttentionMaps(model, (3, 8, 8)).of(pixels(8), targets).sum((1, 2)), expected, rtol=1e-5)


# Every family.

FAMILIES = [
    ("ResNet18", "avg", 64, GRAD_CAM, (2, 2)),
    ("ResNet18", "gem", 32, GRAD_CAM, (2, 2)),  # of the layer before the last, which has one place
    ("ConvBackbone", "avg", 28, GRAD_CAM, (4, 4)),
    ("MobileNetV2", "avg", 64, GRAD_CAM, (2, 2)),
    ("EfficientNetLite0", "max", 64, GRAD_CAM, (2, 2)),
    ("ViT-B-16", "cls", 32, ROLLOUT, (4, 4)),
    ("timm:test_vit", None, 160, ROLLOUT, (10, 10)),
    ("timm:test_vit3", "trained", 160, ROLLOUT, (10, 10)),  # a query of its own pools the patches
    ("timm:test_vit3", "gem", 160, ROLLOUT, (10, 10)),
    ("timm:test_convnext", "trained", 64, GRAD_CAM, (2, 2)),
    ("timm:test_mambaout", "avg", 64, GRAD_CAM, (2, 2)),  # maps with the channels behind
    ("timm:test_efficientnet", "attention", 64, GRAD_CAM, (2, 2)),
]


@pytest.mark.parametrize("name, pooling, side, method, grid", FAMILIES)
def test_every_family_can_be_looked_into(tiny_torchvision, name, pooling, side, method, grid):
    if name.startswith("timm:") or name == "EfficientNetLite0":
        pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    # The row of the tiny one is as wide as the network that it stands for.
    model = embedder(name, pooling, embedding_size=0 if name == "ViT-B-16" else 8)
    looks_as_it_should(model, side, method, grid)


def looks_as_it_should(model, side, method, grid):
    maps = AttentionMaps(model, (3, side, side))
    assert maps.method == method
    targets = torch.rand(3, len(model.eval()(pixels(side, 1))[0]), generator=torch.Generator().manual_seed(0))
    found = maps.of(pixels(side, 3), targets)
    assert found.shape == (3, *grid) and found.min() >= 0 and torch.isfinite(found).all()
    if method == ROLLOUT:
        assert found.max() > found.min() and (found.sum((1, 2)) <= 1 + 1e-5).all()
    # The same map for an image, whatever is beside it.
    alone = maps.of(pixels(side, 3)[:1], targets[:1])
    assert torch.allclose(alone[0], found[0], atol=1e-4 * float(found.max()) + 1e-7)


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("kind, method", [("vit", ROLLOUT), ("clip", ROLLOUT), ("siglip", ROLLOUT), ("swin", GRAD_CAM)])
def test_networks_of_transformers_can_be_looked_into(tmp_path, kind, method):
    transformers = pytest.importorskip("transformers", reason="requirements/models.txt is not installed")
    images = {**TINY, "image_size": 32, "patch_size": 8}
    configs = {
        "vit": lambda: transformers.ViTConfig(**images),
        "clip": lambda: transformers.CLIPConfig(
            text_config={**TINY, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2},
            vision_config=images,
            projection_dim=8,
        ),
        "siglip": lambda: transformers.SiglipVisionConfig(**images),
        "swin": lambda: transformers.SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2
        ),
    }
    transformers.AutoModel.from_config(configs[kind]()).save_pretrained(tmp_path)
    model = embedder(f"hf:{tmp_path}", "avg" if kind == "swin" else None)
    looks_as_it_should(model, 32, method, (4, 4))


def test_towers_of_open_clip_can_be_looked_into(monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    vision = {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-tower", config)
    looks_as_it_should(embedder("clip:tiny-tower"), 32, ROLLOUT, (4, 4))


def test_a_network_without_a_class_token_pools_its_patches():
    """UNICOM's, which projects all of them at once."""
    with made_of(Unicom(32, 8, 16, 2, 2, 8), 8, "vector") as model:
        looks_as_it_should(model, 32, ROLLOUT, (4, 4))


# Pictures.


@pytest.mark.parametrize("height, width", [(40, 40), (60, 100), (101, 37), (10, 800)])
@pytest.mark.parametrize("short_side", [0, 48])
def test_what_is_seen_of_an_image_is_its_crop(height, width, short_side):
    """Pixels that tell their own place, in the middle of the crop's edges."""
    transform = TestTransform(32, 32, short_side)
    left, top, right, bottom = transform.seen(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.round(np.linspace(0, 255, width))
    image[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
    crop = transform(image).numpy().astype(float) / 255
    column, row = (right - left) / 32, (bottom - top) / 32
    first, last = crop[16, 0, 0] * (width - 1) + 0.5, crop[16, -1, 0] * (width - 1) + 0.5
    assert first == pytest.approx(left + column / 2, abs=0.02 * width) and last == pytest.approx(
        right - column / 2, abs=0.02 * width
    )
    first, last = crop[0, 16, 1] * (height - 1) + 0.5, crop[-1, 16, 1] * (height - 1) + 0.5
    assert first == pytest.approx(top + row / 2, abs=0.02 * height + 0.5)
    assert last == pytest.approx(bottom - row / 2, abs=0.02 * height + 0.5)


def test_colours_lie_where_the_network_looked():
    look = Look(np.array([[0, 0], [0, 3]], np.float32), (10.0, 0.0, 30.0, 20.0))
    image = np.full((20, 40, 3), (200, 180, 160), np.uint8)
    heat = resized_look(look, 20, 40)
    assert heat.shape == (20, 40)
    assert np.isnan(heat[:, :10]).all() and np.isnan(heat[:, 30:]).all() and not np.isnan(heat[:, 10:30]).any()
    assert heat[19, 29] > 0.98 and heat[0, 10] < 0.02
    picture = overlay(image, look)
    assert picture.dtype == np.uint8 and picture.shape == image.shape
    red, _, blue = picture[19, 29].astype(int)
    assert red > blue + 60
    assert np.abs(picture[0, 10].astype(int) - image[0, 10]).max() < 30
    assert len(set(picture[5, 5].tolist())) == 1  # grey, since it was not seen
    # A map that is the same everywhere says nothing.
    assert (resized_look(Look(np.ones((3, 3), np.float32), (0, 0, 40, 20)), 20, 40) == 0).all()


def test_a_sheet_has_four_tiles_a_row(tmp_path):
    image = np.full((30, 20, 3), (120, 40, 160), np.uint8)
    rows = [LookedAt(image, image, image, image, True, 0.91), LookedAt(image, image, image, None, None, 0.5)]
    sheet = attention_sheet(rows, tmp_path / "map.png", "Grad-CAM", ["one", "a name far too long for its tile" * 9])
    assert (cv2.imread(str(tmp_path / "map.png"))[..., ::-1] == sheet).all()
    assert len(sheet) > len(attention_sheet(rows[:1], title="Grad-CAM"))
    filled = (sheet == (120, 40, 160)).all(2)
    upper = np.flatnonzero(np.diff(np.r_[0, filled[: len(sheet) // 2].any(0), 0].astype(int)) == 1)
    lower = np.flatnonzero(np.diff(np.r_[0, filled[len(sheet) // 2 :].any(0), 0].astype(int)) == 1)
    assert (len(upper), len(lower)) == (4, 3)
    with pytest.raises(InputError, match="at least one query"):
        attention_sheet([])


def test_a_page_has_a_look_beside_the_images_of_a_query(tmp_path):
    labels = np.repeat(np.arange(10, 20), 4)
    asked = []

    def look(pairs):
        asked.extend(pairs)
        seen = Look(np.array([[0, 1]], np.float32), (0.0, 0.0, 30.0, 30.0))
        return [(seen, None if row == pairs[0][0] else seen) for row, _ in pairs]

    content = make_content(labels, look=look, look_method="Grad-CAM")
    write_content(tmp_path / "a.html", content)
    data = data_of(tmp_path / "a.html")
    examples = [query for _, queries in data["queries"]["kinds"] for query in queries]
    assert len(asked) == len(examples)
    assert examples[0]["looks"][1] is None and data["look_method"] == "Grad-CAM"
    numbers = [number for query in examples for number in query["looks"] if number is not None]
    assert numbers == list(range(len(data["looks"])))
    assert all(uri.startswith("data:image/webp;base64,") for uri in data["looks"])
    for query, (row, hit) in zip(examples, asked):
        assert data["items"][query["item"]]["file"].endswith(f"/{row}.png")
        assert data["items"][query["found"][0][0]]["file"].endswith(f"/{hit}.png")
    write_content(tmp_path / "b.html", make_content(labels))
    assert data_of(tmp_path / "b.html")["looks"] == []
    assert all("looks" not in query for query in data_of(tmp_path / "b.html")["queries"]["kinds"][0][1])


def evaluate(sop_tree, folder, **flags):
    common = {"data_dir": sop_tree, "model": "Tiny", "image_shape": "3,32,32", "num_workers": 0, "use_gpu": False}
    return run("eval", as_line({**common, "output_dir": folder, "cache": False, **flags}))


def test_the_script_writes_where_it_looked(tiny, sop_tree, tmp_path):
    flags = {"attention": tmp_path / "map.png", "report": tmp_path / "a.html", "picture_queries": 3}
    assert str(tmp_path / "map.png") in evaluate(sop_tree, tmp_path, **flags)
    picture = cv2.imread(str(tmp_path / "map.png"))
    evaluate(sop_tree, tmp_path, attention=tmp_path / "five.png", picture_queries=5, distance="squared_euclidean")
    assert len(cv2.imread(str(tmp_path / "five.png"))) > len(picture) > 600
    assert data_of(tmp_path / "a.html")["looks"]


# Refusals, before any work.


def test_what_cannot_be_looked_into_is_refused(tiny, sop_tree, tmp_path):
    pytest.importorskip("onnxruntime", reason="requirements/export.txt is not installed")
    flags = {"attention": tmp_path / "map.png"}
    with pytest.raises(InputError, match="--attention looks into the network, which --runtime=onnx hides"):
        evaluate(sop_tree, tmp_path, runtime="onnx", **flags)
    evaluate(sop_tree, tmp_path, save_embeddings=tmp_path / "e.npz")
    with pytest.raises(InputError, match="--embeddings come without one"):
        run("eval", as_line({"embeddings": tmp_path / "e.npz", "output_dir": tmp_path, **flags}))
    with pytest.raises(InputError, match="map.txt"):
        evaluate(sop_tree, tmp_path, attention="map.txt")
    assert not (tmp_path / "map.png").exists()


def test_a_network_without_maps_is_refused():
    sentence = "cannot show where Made looks: it has no attention that can be had, and no feature maps"
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    with made_of(net, 4, "vector") as model, pytest.raises(InputError, match=sentence):
        AttentionMaps(model, (3, 8, 8))
    with pytest.raises(InputError, match="looks in images, and HashedNgrams takes texts"):
        AttentionMaps(Embedder("HashedNgrams"), (3, 8, 8))


def test_tiny_has_maps():
    with tiny_backbone():
        looks_as_it_should(Embedder("Tiny"), 32, GRAD_CAM, (7, 7))
