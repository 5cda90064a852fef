"""Layers behind the pooled feature that keep its width: LayerNorm and the batch normalisation neck."""

import argparse

import pytest
import torch
from runs import read_json, run, train_flags

from core.errors import InputError
from core.types import ChainOf
from models import Embedder
from models.heads import HEADS, build_head

CHAIN = ChainOf("models/heads")


def test_layer_norm_is_its_formula():
    rows = torch.randn(5, 7, dtype=torch.float64) * 3 + 2
    layer = HEADS["layer_norm"](7, 7).double()
    with torch.no_grad():
        layer.weight.copy_(torch.rand(7))
        layer.bias.copy_(torch.rand(7))
    spread = (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = (rows - rows.mean(1, keepdim=True)) / spread * layer.weight + layer.bias
    torch.testing.assert_close(layer(rows), expected, rtol=1e-12, atol=1e-12)


def test_bnneck_is_its_formula_and_never_shifts():
    rows = torch.randn(6, 4, dtype=torch.float64) * 3 + 2
    layer = HEADS["bnneck"](4, 4).double()
    spread = (rows.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(layer(rows), (rows - rows.mean(0)) / spread, rtol=1e-12, atol=1e-12)
    layer(rows).square().sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is None
    assert not layer.bias.any()


def test_layers_that_keep_their_width_need_none(tiny):
    layers = build_head(CHAIN("layer_norm,linear:5,bnneck"), 8, 0)
    assert [type(layer).__name__ for layer in layers] == ["LayerNorm", "Linear", "BnNeck"]
    assert layers[0].normalized_shape == (8,) and layers[2].num_features == 5
    with pytest.raises(argparse.ArgumentTypeError, match="'bnneck:4' in 'bnneck:4,linear': bnneck is as wide as its"):
        CHAIN("bnneck:4,linear")
    with pytest.raises(InputError, match="bnneck is as wide as its input, which has 8 numbers, not 4.*linear:4,bnneck"):
        Embedder("Tiny", 4, head="bnneck")


def test_a_run_with_them_is_trained_resumed_and_embeds(tiny, sop_tree, tmp_path):
    flags = {"loss_name": "arcmargin", "head": "layer_norm,linear:6,bnneck", "lr": 0.01}
    run("train_elem", train_flags(sop_tree, tmp_path / "whole", **flags))
    run("train_elem", train_flags(sop_tree, tmp_path / "parts", **flags, save_iter_step=1, total_iter_num=2))
    run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=3", "--allow_changed=total_iter_num"])
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")]
    assert states[0]["facts"]["head"] == flags["head"]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    assert not states[0]["model"]["behind.1.bias"].any()
    assert not torch.equal(states[0]["model"]["behind.1.weight"], torch.ones(6))
    run("eval", [f"--pretrained_model={tmp_path / 'whole'}", "--num_workers=0", "--use_gpu=False"])
    assert read_json(tmp_path / "whole/model.json")["model"]["head"] == flags["head"]
