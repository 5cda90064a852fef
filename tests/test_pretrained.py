"""Hand-over of weights: from a run, a state dict or torchvision's names; gaps are named, the wrong one refused."""

import pickle

import pytest
import torch
import torchvision

from engine.checkpoint import save, training_state
from engine.objective import Objective
from engine.optim import build_optimiser
from errors import InputError
from losses import LOSSES
from models import Embedder, load_pretrained


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run's folder with the last.pt of a ResNet18 with 8 embeddings and a softmax of 5 classes."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(1)
    model, loss = Embedder("ResNet18", embedding_size=8), LOSSES["softmax"](embedding_size=8, num_classes=5)
    optimiser, scaler = build_optimiser("momentum", model, loss, lr=0.1), torch.amp.GradScaler("cpu", enabled=False)
    save(training_state(Objective(model, loss), optimiser, scaler, 3, None, torch.arange(5), config={}), folder / "last.pt")
    return folder


@pytest.fixture(scope="module")
def stored(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)["model"]


def fresh(model="ResNet18", embedding_size=8, **options):
    torch.manual_seed(2)
    return Embedder(model, embedding_size, **options)


def assert_equal(state, expected):
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("part", ["", "last.pt"])
def test_a_run_hands_its_model_over_and_keeps_its_loss(run_dir, stored, part):
    embedder = fresh()
    assert load_pretrained(embedder, str(run_dir / part)) == ["not used: loss.weight, loss.bias"]
    assert_equal(embedder.state_dict(), stored)


def test_another_embedding_size_starts_its_layer_afresh(run_dir, stored):
    embedder = fresh(embedding_size=4, pooling="gem")
    head = embedder.head.weight.clone()
    unused, afresh = load_pretrained(embedder, run_dir)
    assert unused == "not used: loss.weight, loss.bias, head.weight, head.bias"
    assert afresh == "starts afresh: pooling.p, head.weight, head.bias"
    assert torch.equal(embedder.head.weight, head)
    assert_equal(embedder.backbone.state_dict(), {k[9:]: v for k, v in stored.items() if k.startswith("backbone.")})


def test_the_pooled_feature_leaves_the_layer_behind(run_dir):
    notes = load_pretrained(fresh(embedding_size=0), run_dir)
    assert notes == ["not used: loss.weight, loss.bias, head.weight, head.bias"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_of_ours(tmp_path, stored, prefix):
    torch.save({prefix + name: value for name, value in stored.items()}, tmp_path / "ours.pth")
    embedder = fresh()
    assert load_pretrained(embedder, tmp_path / "ours.pth") == []
    assert_equal(embedder.state_dict(), stored)


@pytest.mark.parametrize("counted", [True, False], ids=["as saved now", "from before torch 0.4.1"])
def test_torchvision_weights(tmp_path, counted):
    """Files of before torch 0.4.1, torchvision's own among them, have no num_batches_tracked; nothing here needs it."""
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18().state_dict()
    if not counted:
        theirs = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(theirs, tmp_path / "resnet18.pth")
    embedder = fresh()
    unused, afresh = load_pretrained(embedder, tmp_path / "resnet18.pth")
    assert unused.startswith("not used: ") and unused.count("fc.") == 2 and unused.count(",") == 1
    assert afresh == "starts afresh: head.weight, head.bias"
    assert_equal(embedder.backbone.state_dict(), {k: v for k, v in theirs.items() if not k.startswith("fc.")})


def test_another_architecture_is_refused(run_dir, tmp_path, stored):
    embedder = fresh("ResNet34")
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    with pytest.raises(InputError, match="last.pt' holds a ResNet18, but the model is ResNet34: give --model=ResNet18"):
        load_pretrained(embedder, run_dir)
    torch.save(stored, tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"not hold a ResNet34: .* 'backbone.layer1.2.conv1.weight': .* got nothing"):
        load_pretrained(embedder, tmp_path / "plain.pth")
    with torch.device("meta"):
        other = Embedder("ResNet50")
    with pytest.raises(InputError, match=r"layer1.0.conv1.weight': expected \(64, 64, 1, 1\), got \(64, 64, 3, 3\)"):
        load_pretrained(other, tmp_path / "plain.pth")
    assert_equal(embedder.state_dict(), before)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the file ran code",))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04", pickle.dumps({"x": Trap()}, protocol=2), torch.ones(3), [1, 2], {"model": 1}, {}],
    ids=["empty", "text", "half a zip", "code", "tensor", "list", "number", "nothing"],
)
def test_what_holds_no_weights_is_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    refusal = "weights.pth' (is not a file of plain weights|does not hold a ResNet18)"
    with pytest.raises(InputError, match=refusal) as caught:
        load_pretrained(fresh(), file)
    assert "\n" not in str(caught.value)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="pretrained_model .*: no file '.*last.pt'"):
        load_pretrained(fresh(), tmp_path)
    with pytest.raises(InputError, match="no file 'imagnet'"):
        load_pretrained(fresh(), "imagnet")
