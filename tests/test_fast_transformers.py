"""Faster copies, other runtimes and compiled networks of what is made of attention: a ViT of timm, a tower of CLIP."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import pytest
import torch
from torch.nn.functional import cosine_similarity

from models import BACKBONES, Embedder, fast_model
from models.export.network import ExportedNetwork
from models.export.torchscript import write_torchscript

WAYS = [("fp32", "torch"), ("bf16", "torch"), ("fp32", "onnx"), ("fp32", "openvino"), ("bf16", "openvino")]


def pixels(count, side):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("timm:vit_tiny_patch16_224", marks=pytest.mark.slow),
        "timm:test_vit3",
        "clip:tiny-fast",
        "ViT-B-16",
    ],
)
def network(request, tmp_path_factory):
    """(network, side of its images). A ViT with a class token and one that pools by attention; a tower; torchvision's."""
    name, side = request.param, 64
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        if name.startswith("clip:"):
            open_clip = pytest.importorskip("open_clip", reason="requirements/models.txt is not installed")
            vision = {"image_size": side, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
            text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
            config = tmp_path_factory.mktemp("clip") / "tiny-fast.json"
            config.write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
            open_clip.add_model_config(config)
        elif name.startswith("timm:"):
            pytest.importorskip("timm", reason="requirements/models.txt is not installed")
        else:
            from torchvision.models import VisionTransformer

            net = VisionTransformer(image_size=side, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
            patch.setattr("torchvision.models.get_model", lambda title: net)
        model = Embedder(name, pooling=BACKBONES[name](name).pooling).eval()
    if name == "ViT-B-16":
        model.embedding_size = 16
    return model, side


@pytest.mark.parametrize("precision, runtime", WAYS)
def test_faster_ways_embed_alike(network, precision, runtime):
    packages = {"onnx": "onnxruntime", "openvino": "openvino"}
    if runtime in packages:
        pytest.importorskip(packages[runtime], reason=f"requirements of {runtime} are not installed")
    model, side = network
    fast = fast_model(model, precision, runtime, (3, side, side)).eval()
    least = 0.99 if precision == "bf16" else 0.99999
    with torch.inference_mode():
        for count in (3, 1):
            found, expected = fast(pixels(count, side)), model(pixels(count, side))
            assert found.dtype == torch.float32 and found.shape == expected.shape
            assert cosine_similarity(found, expected).min() > least
    assert torch.backends.mha.get_fastpath_enabled()


def test_torchscript_embeds_alike(network, tmp_path):
    model, side = network
    script = write_torchscript(ExportedNetwork(model), (3, side, side), tmp_path / "x.torchscript")
    with torch.inference_mode():
        found, expected = script(pixels(3, side)), model(pixels(3, side))
    assert cosine_similarity(found, expected).min() > 0.99999


def test_a_compiled_network_learns_alike(network):
    """Followed as torch.compile follows it, without the minutes in which code is made of that."""
    model, side = network
    torch._dynamo.reset()
    expected = torch.autograd.grad(model(pixels(2, side)).square().sum(), list(model.parameters())[0])[0]
    compiled = torch.compile(model, backend="aot_eager")
    found = torch.autograd.grad(compiled(pixels(2, side)).square().sum(), list(model.parameters())[0])[0]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
