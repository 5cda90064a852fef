"""--test_scales: the mean of an image's features at several sizes, wherever a network embeds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import as_line, read_json, read_metrics, run, tiny_backbone, train_flags
from torch import nn

from core.errors import InputError
from core.types import scales
from data.image.files import read_image
from embeddings.image_embedder import ImageEmbedder
from models import BACKBONES, Embedder, ModelSettings, fast_model, open_model
from models.attention import AttentionMaps
from models.embedder import patch_side


def pixels(side=32, count=2):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def naive_multi_scale(model, images, shares):
    """ViTExtractor._multi_scale of open-metric-learning 4, of DINO's authors, around a whole network."""
    total = torch.zeros(len(images), model.embedding_size)
    normalised = (images.float() - model.mean) / model.std
    for share in shares:
        scaled = normalised.clone()
        if share != 1:
            scaled = F.interpolate(normalised, scale_factor=share, mode="bilinear", align_corners=False)
        total += model.pooling(model.backbone(scaled)).clone()
    return total / len(shares)


@pytest.fixture
def tiny_vit(monkeypatch):
    """ViT-B-16 as one of 16 numbers a token and patches of 8 pixels, for 32 x 32 pixels."""
    from torchvision.models import VisionTransformer

    def tiny(name):
        return VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)

    monkeypatch.setattr("torchvision.models.get_model", tiny)


@torch.no_grad()
def test_features_are_those_of_open_metric_learning(tiny_vit):
    torch.manual_seed(0)
    model = Embedder("ViT-B-16", pooling="cls", test_scales=(1, 0.75, 0.5)).eval()
    model.embedding_size = 16
    expected = naive_multi_scale(model, pixels(), (1, 0.75, 0.5))
    assert torch.allclose(model(pixels()), expected, atol=1e-6)
    assert not torch.allclose(model(pixels()), model.pooled(model.prepare(pixels())), atol=1e-2)
    model.train()
    assert torch.equal(model(pixels()), model.pooled(model.prepare(pixels())))


@torch.no_grad()
def test_maps_are_pooled_at_each_scale_before_the_head():
    with tiny_backbone():
        torch.manual_seed(0)
        shares = (1, 2**-0.5, 0.5)
        model = Embedder("Tiny", 5, "gem", "layer_norm,linear", test_scales=shares).eval()
        normalised = (pixels(64).float() - model.mean) / model.std
        pooled = [
            model.pooling(model.backbone(F.interpolate(normalised, (side, side), mode="bilinear", align_corners=False)))
            for side in (64, 45, 32)  # 64 / sqrt(2) = 45.25
        ]
        expected = model.behind(model.head(sum(pooled) / 3))
        assert torch.allclose(model(pixels(64)), expected, atol=1e-5)


def test_a_vit_s_sides_are_whole_patches(tiny_vit):
    model = Embedder("ViT-B-16", pooling="cls", test_scales=(1, 0.7071, 0.1))
    assert model.patch == 8
    assert model.sides_at(1, 32, 32) == (32, 32)
    assert model.sides_at(0.7071, 32, 48) == (24, 32) and model.sides_at(0.1, 32, 48) == (8, 8)
    with tiny_backbone():
        assert Embedder("Tiny").sides_at(0.7071, 224, 30) == (158, 21)
    assert patch_side(nn.Linear(2, 2), "vector") == 1


def test_one_scale_is_what_there_was():
    with tiny_backbone():
        torch.manual_seed(0)
        model = Embedder("Tiny").eval()
        assert "test_scales" not in model.facts
        features = model.pooling(model.backbone((pixels().float() - model.mean) / model.std))
        assert torch.equal(model(pixels()), features)
        assert Embedder("Tiny", test_scales=(1, 0.5)).facts["test_scales"] == [1, 0.5]


@pytest.mark.parametrize("text", ["", "0,1", "-1", "1,1", "nan", "inf", "5", "x", "1;2"])
def test_only_scales_are_scales(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="is not a list of different numbers above 0, up to 4"):
        scales(text)
    assert scales("1,0.7071, 0.5") == (1.0, 0.7071, 0.5)


def test_sizes_that_a_network_does_not_take_are_refused():
    pytest.importorskip("timm", reason="requirements/models.txt is not installed")
    settings = ModelSettings(model="ConvBackbone", image_shape=(3, 28, 28), test_scales=(1.0, 0.5))
    sentence = (
        "ConvBackbone cannot embed 1 at a time of 14x14 pixels, which --test_scales=0.5 makes of 28x28: it takes 28x28 "
        "pixels alone"
    )
    with pytest.raises(InputError, match=sentence):
        open_model(settings)
    with pytest.raises(InputError, match="test_scales are of images, and HashedNgrams takes texts"):
        Embedder("HashedNgrams", test_scales=(1, 0.5))
    # One whose positions are interpolated takes any.
    name = "timm:test_vit"
    model = open_model(ModelSettings(model=name, image_shape=(3, 64, 64), pooling="cls", test_scales=(1.0, 0.7071)))
    assert model.sides_at(0.7071, 64, 64) == (48, 48)
    assert BACKBONES[name](name).preprocess.size == 160


@torch.no_grad()
def test_faster_copies_look_at_all_scales(tiny_vit):
    torch.manual_seed(0)
    model = Embedder("ViT-B-16", pooling="avg", test_scales=(1, 0.5)).eval()
    expected = model(pixels())
    assert torch.allclose(fast_model(model, "fp32", "torch", (3, 32, 32)).eval()(pixels()), expected, atol=1e-5)
    half = fast_model(model, "bf16", "torch", (3, 32, 32)).eval()(pixels())
    assert F.cosine_similarity(half, expected).min() > 0.99
    # Where it looks is asked of the image as it is.
    assert AttentionMaps(model, (3, 32, 32)).of(pixels(), torch.zeros(2, 16)).shape == (2, 4, 4)
    assert model.test_scales == (1, 0.5)


@pytest.fixture(scope="module")
def scaled_run(tiny, sop_tree, tmp_path_factory):
    """A run that is tested at two scales. Read only."""
    folder = tmp_path_factory.mktemp("scales") / "run"
    run("train_elem", train_flags(sop_tree, folder, test_scales="1,0.5", total_iter_num=1, test_iter_step=1))
    return folder


def test_a_run_keeps_its_scales(scaled_run, sop_tree, tmp_path):
    assert read_json(scaled_run / "config.json")["flags"]["test_scales"] == [1.0, 0.5]
    assert read_json(scaled_run / "model.json")["model"]["test_scales"] == [1.0, 0.5]
    common = {"pretrained_model": scaled_run, "num_workers": 0, "use_gpu": False, "cache": False}
    run("eval", as_line({**common, "output_dir": tmp_path / "own"}))
    run("eval", as_line({**common, "output_dir": tmp_path / "one", "test_scales": 1}))
    own, one = read_json(tmp_path / "own/result.json"), read_json(tmp_path / "one/result.json")
    assert (own["model"]["test_scales"], one["model"]["test_scales"]) == ([1.0, 0.5], [1.0])
    # What the run was tested by while it was trained is that.
    assert own["metrics"]["recall@5"] == read_metrics(scaled_run)[-1]["recall@5"]


def test_programs_and_indexes_keep_them(scaled_run, sop_tree, tmp_path):
    image = sop_tree / "disc_final" / "4_0.jpg"
    line = {"pretrained_model": scaled_run, "use_gpu": False, "num_workers": 0}
    run("infer", as_line({**line, "input": image, "output": tmp_path / "x.json"}))
    [numbers] = read_json(tmp_path / "x.json").values()
    network = ImageEmbedder.from_pretrained(scaled_run, normalises=False)
    assert network.test_scales == (1.0, 0.5)
    assert np.allclose(network.embed_image(image), numbers, atol=1e-5)
    whole = network.transform(read_image(image)).permute(2, 0, 1)[None]
    assert np.allclose(naive_multi_scale(network.eval(), whole, (1, 0.5)).detach()[0], numbers, atol=1e-5)

    index = tmp_path / "photos.index"
    run("search", ["build", index, *as_line({**line, "input": sop_tree / "disc_final"})])
    find = ["find", index, *as_line({"input": image, "use_gpu": False, "num_workers": 0, "k": 2})]
    assert "4_0.jpg" in run("search", find)
    with pytest.raises(InputError, match=r"made by another model; what differs: test_scales: \[1.0, 0.5\] there, None"):
        run("search", [*find, "--test_scales=1"])


def test_an_export_looks_at_all_scales(scaled_run, sop_tree, tmp_path):
    """Inside of its graph: the proof at the export is against torch at the same scales."""
    pytest.importorskip("onnxruntime", reason="requirements/export.txt is not installed")
    pytest.importorskip("onnx", reason="requirements/export.txt is not installed")
    for kind in ("onnx", "torchscript", "safetensors"):
        line = {"pretrained_model": scaled_run, "export": kind, "output": tmp_path / kind, "num_workers": 0}
        run("infer", as_line({**line, "input": sop_tree / "disc_final"}))
        card = read_json(tmp_path / kind / "model.json")
        assert card["model"]["test_scales"] == [1.0, 0.5]
        assert card["exports"][kind]["least_cosine_crops"] > 0.9999
    line = {"pretrained_model": scaled_run, "use_gpu": False, "num_workers": 0, "input": sop_tree / "disc_final"}
    rows = []
    for number, runtime in enumerate(("torch", "onnx")):
        run("infer", as_line({**line, "runtime": runtime, "output": tmp_path / f"{number}.json"}))
        rows.append(np.array(list(read_json(tmp_path / f"{number}.json").values())))
    assert np.allclose(*rows, atol=1e-4)
