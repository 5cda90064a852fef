"""--lora: a transformer whose matrices stay, and what learns beside them."""

import pytest
import torch
from runs import read_json, run, train_flags
from torch import nn

from core.errors import InputError
from models import Embedder, fast_model
from models.low_rank import add_low_rank, merged

IMAGES = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_begins_as_the_matrix_and_is_its_formula():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.MultiheadAttention(5, 1)).double()
    rows = torch.randn(4, 6, dtype=torch.float64)
    before = net[0](rows)
    matrix = net[0].weight.detach().clone()
    add_low_rank(net, 2, "net")
    assert torch.equal(net[0](rows), before)
    change = net[0].parametrizations.weight[0]
    with torch.no_grad():
        change.up.normal_()
    expected = rows @ (matrix + change.up @ change.down).T + net[0].bias
    torch.testing.assert_close(net[0](rows), expected, rtol=1e-12, atol=1e-12)
    learns = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert learns and all(name.endswith((".up", ".down")) for name in learns)
    assert any("in_proj_weight" in name for name in learns)
    merged(net)
    assert set(net.state_dict()) == set(nn.Sequential(nn.Linear(6, 5), nn.MultiheadAttention(5, 1)).state_dict())
    torch.testing.assert_close(net[0](rows), expected, rtol=1e-12, atol=1e-12)


def test_a_fast_copy_is_the_same():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = Embedder("timm:test_vit", 8, "cls", lora=2).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".up"):
                weight.normal_(std=0.1)
        fast = fast_model(model, "fp32", "torch", (3, 160, 160))
        torch.testing.assert_close(fast(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    assert not any(name.endswith(".up") for name, _ in fast.named_parameters())


def test_a_run_with_it_goes_on_and_embeds(sop_tree, tmp_path):
    pytest.importorskip("timm")
    vit = {"model": "timm:test_vit", "image_shape": "3,32,32", "pooling": "cls", "lr": 0.01}
    run("train_elem", train_flags(sop_tree, tmp_path / "plain", **vit, total_iter_num=1))
    given = {"model": None, "image_shape": None, "pretrained_model": tmp_path / "plain", "lora": 2, "lr": 0.1}
    run("train_elem", train_flags(sop_tree, tmp_path / "whole", **given))
    run("train_elem", train_flags(sop_tree, tmp_path / "parts", **given, total_iter_num=2))
    run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=3", "--allow_changed=total_iter_num"])
    states = {name: torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("plain", "whole", "parts")}
    whole = states["whole"]["model"]
    assert any(name.endswith(".up") and value.any() for name, value in whole.items())
    for name, value in whole.items():
        assert torch.equal(value, states["parts"]["model"][name]), name
        if name.endswith(".original") or name in states["plain"]["model"]:
            first = name.replace("parametrizations.", "").removesuffix(".original")
            assert torch.equal(value, states["plain"]["model"][first]), name
    assert read_json(tmp_path / "whole/model.json")["model"]["lora"] == 2
    run("eval", [f"--pretrained_model={tmp_path / 'whole'}", "--num_workers=0", "--use_gpu=False"])
    with pytest.raises(InputError, match="lora is 3, but .*whole was trained with 2"):
        run("eval", [f"--pretrained_model={tmp_path / 'whole'}", "--num_workers=0", "--use_gpu=False", "--lora=3"])


def test_ranks_that_cannot_be_are_sentences(tiny):
    with pytest.raises(InputError, match="--lora=2: Tiny has no matrices, but convolutions"):
        Embedder("Tiny", lora=2)
    with pytest.raises(InputError, match="--lora=5 is no low rank for net, which has a matrix of rank 5"):
        add_low_rank(nn.Linear(6, 5), 5, "net")
