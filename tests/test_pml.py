"""--loss_name=pml:NAME: the losses, miners and distances of pytorch-metric-learning, their keywords as flags."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import read_json, run, tiny_backbone, train_flags
from tolerances import assert_within, gamma

from config.commands import COMMANDS
from config.parse import parse
from core import pml
from core.errors import InputError
from engine.mining import build_miner
from engine.objective import Objective, build_loss
from losses import LOSSES

ROOT = Path(__file__).resolve().parents[1]
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(pml.PACKAGE) is None, reason="needs requirements/losses.txt"
)
LABELS = torch.tensor([2, 4, 2, 4, 4, 2, 2, 4, 5, 5, 5, 5])
NAMES = [pml.PREFIX + name for name in pml.classes("losses")]
# Losses that find their pairs in the order of rows, or in other numbers than ours.
OPTIONS = {"pml:HistogramLoss": {"n_bins": 20}}


def rows(width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), width, generator=generator).requires_grad_()


def made(name, **options):
    return build_loss({**OPTIONS.get(name, {}), **options}, 6, 7, "fp32", loss_name=name)


def values(script, *words):
    return parse(list(words), COMMANDS[script], "")


@pytest.mark.skipif(bool(NAMES), reason="the package is here")
@pytest.mark.parametrize("script", ["train_elem", "train_pair"])
def test_without_the_package_one_line_says_how_to_get_it(script):
    with pytest.raises(InputError, match="not installed: pip install -r requirements/losses.txt"):
        values(script, "--loss_name=pml:ArcFaceLoss")


def test_the_requirements_are_those_that_the_sentence_names():
    name = pml.INSTALL.split()[-1]
    assert "pytorch-metric-learning" in (ROOT / name).read_text()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name, of a few files, for what sources say."""
    files = {
        "losses/__init__.py": "from .tiny import BaseTiny, Tiny, Wide, Wrapper\n",
        "losses/tiny.py": """
class BaseTiny:
    def __init__(self, reducer=None, size=3, **kwargs): pass

class Tiny(BaseTiny):
    EASY = "easy"
    def __init__(self, margin=0.5, kind=EASY, momentum=0.1, made=object(), **kwargs):
        super().__init__(**kwargs)

class Wide(Tiny):
    def __init__(self, *args, scale=1, **kwargs):
        number = kwargs["num_classes"]
        super().__init__(*args, margin=2, **kwargs)

class Wrapper(BaseTiny):
    def __init__(self, loss, **kwargs): pass
""",
        "miners/__init__.py": "from .near import Near\n",
        "miners/near.py": "class Near:\n    def __init__(self, margin=1):\n        pass\n",
        "distances/__init__.py": "",
    }
    folder = tmp_path / pml.PACKAGE
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(pml, "_folder", lambda: folder)
    pml.classes.cache_clear()
    yield
    pml.classes.cache_clear()


def test_keywords_are_read_from_sources_through_bases(package):
    losses = pml.classes("losses")
    assert losses.keys() == {"Tiny", "Wide"}
    assert losses["Tiny"].options == {"margin": 0.5, "kind": "easy", "momentum": 0.1, "size": 3}
    assert losses["Wide"].options == {"scale": 1, "kind": "easy", "momentum": 0.1, "size": 3}
    assert losses["Wide"].needs == ("num_classes",) and losses["Wide"].over_classes


def test_keywords_are_flags(package):
    args = values("train_pair", "--loss_name=pml:Tiny", "--margin=2", "--kind=hard", "--pml_momentum=0.7")
    options = {"margin": 2, "kind": "hard", "momentum": 0.7, "size": 3, "pml_miner": "none", "pml_distance": "none"}
    assert args.options("loss_name") == options
    assert args["momentum"] == 0.9  # the optimiser's, of the same name
    args = values("train_pair", "--loss_name=pml:Tiny", "--pml_miner=Near", "--pml_miner_margin=0.25")
    assert args.options("loss_name")["pml_miner_margin"] == 0.25


@pytest.mark.parametrize(
    "script, line, sentence",
    [
        ("train_pair", "pml:Tyni", "unknown loss 'pml:Tyni'; there are: pml:Tiny, pml:Wide. Did you mean 'pml:Tiny'?"),
        ("train_pair", "pml:Wrapper", "unknown loss 'pml:Wrapper'"),
        ("train_elem", "pml:Tiny", "pml:Tiny is a loss of train_pair.py; train_elem.py has pml:Wide"),
        ("train_pair", "pml:Tiny --margn=1", "unknown flag '--margn=1'. Did you mean '--margin'?"),
        ("train_pair", "pml:Tiny --margin=wide", "argument --margin: 'wide' is no number, True, False or None"),
        ("train_pair", "pml:Tiny --pml_miner=Neer", "'Neer' is not one of Near, none. Did you mean 'Near'?"),
    ],
)
def test_sentences(package, script, line, sentence):
    with pytest.raises(InputError) as refusal:
        values(script, *f"--loss_name={line}".split())
    assert sentence in str(refusal.value)


def test_a_run_of_the_package_can_be_replayed_with_another_loss(package, tmp_path):
    import json

    flags = values("train_pair", "--loss_name=pml:Tiny", "--pml_momentum=0.7", "--kind=hard", "--lr=0.5").values
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    same = values("train_pair", f"--config={tmp_path}")
    assert same.options("loss_name")["momentum"] == 0.7 and same["lr"] == 0.5
    other = values("train_pair", f"--config={tmp_path}", "--loss_name=eml")
    assert other["lr"] == 0.5 and "kind" not in other.values


@needs_package
def test_reading_the_package_loads_no_torch():
    code = "import sys; from core import pml; assert len(pml.classes('losses')) > 25; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@needs_package
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_made_and_equals_itself(name):
    from pytorch_metric_learning import losses

    torch.manual_seed(0)
    loss = made(name)
    embeddings = rows()
    value = loss(embeddings, LABELS)
    (slope,) = torch.autograd.grad(value, embeddings, allow_unused=True)
    assert value.ndim == 0 and value.isfinite() and slope.isfinite().all() and value.dtype == torch.float32
    described = pml.loss_class(name)
    needs = {need: 7 if need == "num_classes" else 6 for need in described.needs}
    torch.manual_seed(0)
    theirs = getattr(losses, described.name)(**needs, **OPTIONS.get(name, {}))
    assert_within(value, theirs(rows(), LABELS), gamma(200, torch.float32) * (1 + abs(value.item())))
    assert loss.logs == {}


@needs_package
def test_miners_and_distances_of_the_package_reach_the_loss():
    from pytorch_metric_learning import distances, losses, miners

    options = {"margin": 0.3, "pml_miner": "TripletMarginMiner", "pml_miner_margin": 0.4, "pml_distance": "LpDistance"}
    value = made("pml:TripletMarginLoss", pml_distance_power=2, **options)(rows(), LABELS)
    distance = distances.LpDistance(power=2)
    chosen = miners.TripletMarginMiner(0.4, distance=distance)(rows(), LABELS)
    assert value == losses.TripletMarginLoss(0.3, distance=distance)(rows(), LABELS, chosen)


@needs_package
@pytest.mark.parametrize("miner", ["hard", "multi_similarity", "hard_cluster"])
def test_our_miners_serve_their_losses(miner):
    name, embeddings = "pml:TripletMarginLoss", rows()
    mining = build_miner({}, name, {}, miner=miner)
    value = Objective(torch.nn.Identity(), made(name), miner=mining).compare(embeddings, LABELS)
    (slope,) = torch.autograd.grad(value, embeddings)
    assert value > 0 and slope.isfinite().all()


@needs_package
def test_what_the_package_refuses_is_a_sentence():
    with pytest.raises(InputError, match="DistanceWeightedMiner of pytorch-metric-learning refuses"):
        made("pml:TripletMarginLoss", pml_miner="DistanceWeightedMiner", pml_distance="CosineSimilarity")
    with pytest.raises(InputError, match="--miner=hard and --pml_miner=HDCMiner both choose pairs"):
        build_miner({}, "pml:TripletMarginLoss", {"pml_miner": "HDCMiner"}, miner="hard")
    with pytest.raises(InputError, match="--shard_classes does not go with pml:ArcFaceLoss"):
        build_loss({}, 6, 7, "fp32", loss_name="pml:ArcFaceLoss", shard_classes=True)


@needs_package
def test_registry_knows_them():
    assert LOSSES.fact("pml:ArcFaceLoss", "stage") == "elem" and LOSSES.fact("pml:CircleLoss", "batch") == "pk"
    assert not [name for name in LOSSES.names() if name.startswith("pml:")]


@needs_package
@pytest.mark.parametrize(
    "script, flags",
    [
        ("train_elem", {"loss_name": "pml:SubCenterArcFaceLoss", "scale": 16, "sub_centers": 2}),
        ("train_pair", {"loss_name": "pml:ArcFaceLoss", "train_batch_size": 8}),
        ("train_pair", {"loss_name": "pml:MultiSimilarityLoss", "train_batch_size": 8, "beta": 40.5}),
        ("train_pair", {"loss_name": "pml:TripletMarginLoss", "train_batch_size": 8, "pml_miner": "BatchHardMiner"}),
    ],
)
def test_runs_go_on_as_if_they_had_not_stopped(sop_tree, tmp_path, script, flags):
    flags = {**flags, "total_iter_num": 4, "test_iter_step": 4, "save_iter_step": 2, "lr": 0.05}
    with tiny_backbone():
        run(script, train_flags(sop_tree, tmp_path / "whole", **flags))
        run(script, train_flags(sop_tree, tmp_path / "parts", **{**flags, "total_iter_num": 2}))
        parts = ["--checkpoint", tmp_path / "parts", "--total_iter_num=4", "--allow_changed=total_iter_num"]
        run(script, [str(word) for word in parts])
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for table in ("model", "loss"):
        assert whole[table].keys() == parts[table].keys()
        assert all(torch.equal(whole[table][name], parts[table][name]) for name in whole[table])
    assert read_json(tmp_path / "whole" / "config.json")["flags"]["loss_name"] == flags["loss_name"]
