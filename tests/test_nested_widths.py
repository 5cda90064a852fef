"""--matryoshka: an embedding whose first numbers are an embedding, too."""

import numpy as np
import pytest
import torch
from runs import run, train_flags

from core.errors import InputError
from embeddings.classifier import open_class_loss
from engine.objective import build_loss
from losses import LOSSES
from losses._mined import Reference
from losses._nested_widths import NestedWidths
from models.heads import HEADS

BATCH = 12


def batch():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(BATCH) // 3
    return torch.randn(BATCH, 16, generator=generator), labels


def built(name, **flags):
    torch.manual_seed(0)
    return build_loss({}, 16, BATCH // 3, "fp32", loss_name=name, **flags)


@pytest.mark.parametrize("name", [name for name in LOSSES.names() if name not in ("triplet", "siamese")])
def test_it_is_the_mean_of_the_loss_of_each_width(name):
    """Value and gradient, with the class weights that each width has for its own."""
    embeddings, labels = batch()
    embeddings.requires_grad_()
    nested = built(name, matryoshka=(4, 8))
    torch.manual_seed(1)
    loss = nested(embeddings, labels)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    torch.manual_seed(1)
    parts = [part(embeddings[:, :width], labels) for width, part in zip((16, 4, 8), (nested.full, *nested.nested))]
    assert torch.equal(loss, torch.stack(parts).mean())
    (expected,) = torch.autograd.grad(torch.stack(parts).mean(), embeddings)
    assert torch.equal(gradient, expected)
    assert torch.equal(nested.logs["loss_4"], parts[1].detach()) and nested.full.logs.keys() < nested.logs.keys()
    # The whole begins as it would alone.
    for part, value in built(name).state_dict().items():
        assert torch.equal(value, nested.full.state_dict()[part])


def test_a_memory_is_cut_as_the_batch_is():
    embeddings, labels = batch()
    rows = torch.arange(BATCH)
    reference = Reference(embeddings + 1, labels, rows + 100, rows)
    loss = NestedWidths(lambda width: LOSSES["contrastive"](), 16, (5,))
    cut = reference._replace(embeddings=reference.embeddings[:, :5])
    parts = [loss.full(embeddings, labels, reference=reference), loss.full(embeddings[:, :5], labels, reference=cut)]
    assert torch.equal(loss(embeddings, labels, reference=reference), torch.stack(parts).mean())


def test_a_run_goes_on_and_hands_its_class_weights_on(tiny, sop_tree, tmp_path):
    flags = {"loss_name": "arcmargin", "matryoshka": "2,4", "lr": 0.01}
    run("train_elem", train_flags(sop_tree, tmp_path / "whole", **flags))
    run("train_elem", train_flags(sop_tree, tmp_path / "parts", **flags, save_iter_step=1, total_iter_num=2))
    run("train_elem", [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=3", "--allow_changed=total_iter_num"])
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert set(whole["loss"]) == {"full.weight", "nested.0.weight", "nested.1.weight"}
    for name, value in whole["loss"].items():
        assert torch.equal(value, parts["loss"][name]), name
    loss, _ = open_class_loss(str(tmp_path / "whole"), "--scores", 8)
    assert torch.equal(loss.weight, whole["loss"]["full.weight"])
    kept = {"pretrained_model": tmp_path / "whole", "keep_classes": 0.1, "matryoshka": 3, "loss_name": "eml"}
    flags = train_flags(sop_tree, tmp_path / "pairs", **kept, train_batch_size=8, model=None, image_shape=None)
    run("train_pair", flags)


@pytest.mark.parametrize("width, flags", [(8, {}), (6, {"head": "linear", "embedding_size": 6})])
def test_a_run_is_cut_by_a_head(width, flags, tiny, sop_tree, tmp_path):
    """Embeddings of the cut run are the first numbers of the whole run's."""
    line = train_flags(sop_tree, tmp_path / "run", loss_name="arcmargin", matryoshka=4, **flags)
    run("train_elem", line)
    head = "linear:6,first" if flags else "first"
    common = [f"--pretrained_model={tmp_path / 'run'}", "--num_workers=0", "--use_gpu=False"]
    run("infer", [*common, f"--output={tmp_path / 'whole.npz'}"])
    run("infer", [*common, f"--output={tmp_path / 'cut.npz'}", f"--head={head}", "--embedding_size=4"])
    whole, cut = (np.load(tmp_path / name)["embeddings"] for name in ("whole.npz", "cut.npz"))
    assert whole.shape[1] == width and np.array_equal(cut, whole[:, :4])


def test_widths_that_cannot_be_are_sentences():
    with pytest.raises(InputError, match="--matryoshka=4,16: the embedding has 16 numbers, and widths are below that"):
        built("softmax", matryoshka=(4, 16))
    with pytest.raises(InputError, match="--matryoshka does not go with --shard_classes"):
        built("softmax", matryoshka=(4,), shard_classes=True)
    with pytest.raises(InputError, match="a layer first of 9 numbers: its input has 8"):
        HEADS["first"](8, 9)
