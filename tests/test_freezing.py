"""How a network is fine-tuned: rates by depth, and a backbone that is left as it is for the first steps."""

import pytest
import torch
from runs import run, tiny_backbone, train_flags

from core.errors import InputError
from engine.freezing import FirstSteps, build_first_steps
from engine.optimiser import build_optimiser, set_rate
from losses import LOSSES
from models import Embedder


def load(run_dir, file="last.pt"):
    return torch.load(run_dir / file, weights_only=True)


def test_rates_fall_with_depth():
    """ResNet18 has five stages: 0.5^5 at the stem, 0.5 at the last, 3 at the head and for the class weights 10."""
    with torch.device("meta"):
        model = Embedder("ResNet18", 16, freeze_stages=1)
    loss = LOSSES["softmax"](16, 3)
    optimiser = build_optimiser(model, loss, lr=0.1, class_lr=1.0, head_lr=0.3, layer_decay=0.5)
    set_rate(optimiser, 0.1)
    rates = {id(weight): group["lr"] for group in optimiser.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        if name.startswith(("backbone.conv1", "backbone.bn1")):
            assert id(weight) not in rates
        elif name.startswith("backbone."):
            stage = int(name[len("backbone.layer")])
            assert rates[id(weight)] == pytest.approx(0.1 * 0.5 ** (5 - stage))
        else:
            assert rates[id(weight)] == pytest.approx(0.3)
    assert rates[id(loss.weight)] == pytest.approx(1.0)
    trained = [weight for weight in (*model.parameters(), *loss.parameters()) if weight.requires_grad]
    assert len(rates) == len(trained)


def test_one_rate_for_all_makes_one_group(tiny):
    model = Embedder("Tiny", 4)
    groups = build_optimiser(model, torch.nn.Module(), lr=0.1).param_groups
    assert len(groups) == 1 and len(groups[0]["params"]) == len(list(model.parameters()))


def test_a_held_backbone_stays_to_the_bit_and_learns_later(tiny):
    model = Embedder("Tiny", 4)
    first_steps = FirstSteps(model, 2)
    optimiser = build_optimiser(model, torch.nn.Module(), optimiser="adamw", lr=0.1)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    for step in (1, 2, 3):
        first_steps.before(step)
        model.train()
        optimiser.zero_grad()
        model(images).square().sum().backward()
        optimiser.step()
        is_same = all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
        assert is_same == (step < 3)
    assert model.backbone.training


def test_frozen_stages_stay_frozen_behind_the_first_steps():
    with torch.device("meta"):
        model = Embedder("ResNet18", 4, freeze_stages=2)
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    first_steps = FirstSteps(model, 1)
    first_steps.before(1)
    assert not any(weight.requires_grad for weight in model.backbone.parameters())
    first_steps.before(2)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == frozen
    assert not model.backbone.layer1.training and model.backbone.layer2.training


@pytest.mark.parametrize("script, loss_name, head", [("train_elem", "arcmargin", 0), ("train_pair", "eml", 4)])
def test_three_and_three_steps_are_six(script, loss_name, head, tiny, sop_tree, tmp_path):
    """Also where the run stops while the backbone is held, with rates by depth, and in micro-batches."""
    flags = {"loss_name": loss_name, "embedding_size": head, "optimiser": "adamw", "lr": 0.01}
    flags |= {"freeze_steps": 4, "layer_decay": 0.7, "micro_batch": 2, "freeze_bn": True}
    if script == "train_pair":
        flags |= {"train_batch_size": 8, "samples_each_class": 2}
    run(script, train_flags(sop_tree, tmp_path / "whole", **flags, total_iter_num=6, save_iter_step=3))
    run(script, train_flags(sop_tree, tmp_path / "parts", **flags))
    longer = ["--total_iter_num=6", "--allow_changed=total_iter_num"]
    run(script, [f"--checkpoint={tmp_path / 'parts'}", *longer])
    whole, parts = load(tmp_path / "whole"), load(tmp_path / "parts")
    held = load(tmp_path / "parts", "step_3.pt")
    with tiny_backbone():
        torch.manual_seed(0)
        first = Embedder("Tiny", head).backbone.state_dict()
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name
        if name.startswith("backbone."):
            assert torch.equal(held["model"][name], first[name.removeprefix("backbone.")])
    assert not torch.equal(whole["model"]["backbone.conv1.weight"], first["conv1.weight"])


def test_nothing_to_learn_at_first_is_a_sentence(tiny, sop_tree, tmp_path):
    with pytest.raises(InputError, match="--freeze_steps=2 leaves nothing to learn: there is neither a head"):
        run("train_pair", train_flags(sop_tree, tmp_path / "x", loss_name="eml", train_batch_size=8, freeze_steps=2))
    assert not (tmp_path / "x").exists()
    assert build_first_steps(Embedder("Tiny"), torch.nn.Module()) is None
