"""Flags: typed, explained, read somewhere, few; and the parsers of single values."""

import argparse
import ast
from pathlib import Path

import pytest
from runs import SCRIPTS

import session
from config import options
from core import types
from data.image.augmentations import AUGMENTATIONS, parse_augment
from losses import LOSSES
from retrieval.index.backends import BACKENDS
from retrieval.rerank._steps import POSTPROCESSORS

ROOT = Path(__file__).parents[1]
MOST_FLAGS = 58
CHOICES = [("eval", None), ("infer", None)]
CHOICES += [(f"train_{LOSSES.fact(name, 'stage')}", name) for name in LOSSES.names()]
# Read by engine/options.py itself, or accepted for the ancestor's recipes only.
UNREAD = {"config", "with_mem_opt", "allow_changed"}
FOR_SCRIPTS = ("session.py", "training.py", "evaluation.py", "reporting.py")


@pytest.fixture(params=CHOICES, ids=lambda choice: f"{choice[0]} {choice[1]}")
def built(request, monkeypatch):
    """(script, loss name or None, parser) for each script, the training scripts once for each of their losses."""
    script, loss = request.param
    monkeypatch.setattr(options, "parse", lambda parser, *rest, **more: parser)
    return script, loss, SCRIPTS[script].parse([f"--loss_name={loss}"] if loss else [])


def flags_of(parser):
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def test_flags_are_few_and_spelt_with_underscores(built):
    flags = flags_of(built[2])
    assert len(flags) <= MOST_FLAGS, f"{built[0]} has {len(flags)} flags"
    assert all(action.option_strings == [f"--{name}"] for name, action in flags.items())


def test_every_flag_is_explained_in_a_group(built):
    parser = built[2]
    for name, action in flags_of(parser).items():
        assert action.help and len(action.help) > 2, f"--{name} has no help"
    ungrouped = {action.dest for action in parser._optionals._group_actions}
    assert ungrouped == {"help", "config"}
    assert all(group.title for group in parser._action_groups)


def test_help_shows_every_default(built):
    parser = built[2]
    words = " ".join(parser.format_help().split())
    for name, action in flags_of(parser).items():
        if action.default is not None:
            assert f"(default: {types.plain(action.default)})" in words, name


def test_every_default_survives_a_replay(built):
    """config.json is replayed by typing its values: each default has to come back as it was."""
    for name, action in flags_of(built[2]).items():
        if action.default is not None and action.nargs is None:
            value = (action.type or str)(types.plain(action.default))
            assert value == action.default and type(value) is type(action.default), name


def test_every_flag_is_read(built):
    """`args.name` or getattr(args, "name") occurs in the script or in what it takes from FOR_SCRIPTS."""
    script, loss, parser = built
    own = {option.name for option in LOSSES.options(loss)} if loss else set()
    dead = flags_of(parser).keys() - own - UNREAD - flags_read(script)
    assert not dead


def test_every_flag_read_exists():
    """The other way round: FOR_SCRIPTS read no flag that their scripts lack."""
    parsers = {script: SCRIPTS[script].parse([]) for script in SCRIPTS}
    for script, args in parsers.items():
        optional = {"class_lr", "class_dim", "shard_classes", "samples_each_class"}  # one training script has it
        optional |= session.DATA_DEFAULTS.keys()  # of which each script has some
        assert flags_read(script) <= vars(args).keys() | optional


def flags_read(script):
    """Names of the flags that a script reads, itself or through the definitions of FOR_SCRIPTS."""
    tree = ast.parse((ROOT / f"{script}.py").read_text())
    parts = [part for name in FOR_SCRIPTS for part in ast.parse((ROOT / name).read_text()).body]
    definitions = {part.name: part for part in parts if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
    reached, pending = set(), [tree]
    names = set(session.MODEL_DEFAULTS) | set(session.DATA_DEFAULTS)
    while pending:
        for node in ast.walk(pending.pop()):
            if isinstance(node, ast.Attribute) and is_args(node.value):
                names.add(node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                if is_args(node.args[0]) and isinstance(node.args[1], ast.Constant):
                    names.add(node.args[1].value)
            name = node.id if isinstance(node, ast.Name) else None
            if name in definitions.keys() - reached:
                reached.add(name)
                pending.append(definitions[name])
    return names


def is_args(node):
    """`args`, `self.args` or `training.args`."""
    return isinstance(node, ast.Name) and node.id == "args" or isinstance(node, ast.Attribute) and node.attr == "args"


@pytest.mark.parametrize(
    "registry, name", [(registry, name) for registry in (LOSSES, POSTPROCESSORS, BACKENDS) for name in registry.names()]
)
def test_options_are_typed_and_documented(registry, name):
    for option in registry.options(name):
        assert isinstance(option.default, (bool, int, float, str)), f"{name}: {option.name} has no typed default"
        assert len(option.help) > 10, f"{name}: {option.name} has no line in the docstring"


@pytest.mark.parametrize("name", LOSSES.names())
def test_loss_options_become_flags(name):
    script = SCRIPTS[f"train_{LOSSES.fact(name, 'stage')}"]
    for option in LOSSES.options(name):
        kind = type(option.default)
        typed = not option.default if kind is bool else "7" if kind is str else kind(option.default + 1)
        args = script.parse([f"--loss_name={name}", f"--{option.name}={typed}"])
        assert getattr(args, option.name) == typed and type(getattr(args, option.name)) is type(option.default)
        assert getattr(script.parse([f"--loss_name={name}"]), option.name) == option.default


def test_ancestors_defaults():
    elem, pair = SCRIPTS["train_elem"].parse([]), SCRIPTS["train_pair"].parse([])
    arc = SCRIPTS["train_elem"].parse(["--loss_name=arcmargin"])
    npairs = SCRIPTS["train_pair"].parse(["--loss_name=npairs"])
    both = {"test_batch_size": 50, "display_iter_step": 10, "model_save_dir": "output"}
    both |= {"lr_strategy": "piecewise_decay", "with_mem_opt": True, "enable_ce": False}
    both |= {"checkpoint": None, "pretrained_model": None}
    expected = [
        (elem, {"loss_name": "softmax", "train_batch_size": 256, "lr": 0.01, "lr_steps": (15000, 25000), **both}),
        (elem, {"total_iter_num": 30000, "test_iter_step": 1000, "save_iter_step": 1000}),
        (pair, {"loss_name": "triplet", "train_batch_size": 120, "lr": 0.0001, "lr_steps": (100000,), **both}),
        (pair, {"total_iter_num": 100000, "test_iter_step": 5000, "save_iter_step": 5000, "samples_each_class": 2}),
        (pair, {"margin": 0.1}),
        (arc, {"arc_scale": 80.0, "arc_margin": 0.15, "arc_easy_margin": False}),
        (npairs, {"npairs_reg_lambda": 0.01}),
    ]
    for args, values in expected:
        assert {name: getattr(args, name) for name in values} == values
    defaults = {"model": "ResNet50", "image_shape": (3, 224, 224), "embedding_size": 0}
    assert {name: session.MODEL_DEFAULTS[name] for name in defaults} == defaults


def test_ancestors_command_line():
    line = "--model=ResNet50 --train_batch_size=160 --test_batch_size=50 --lr=0.0001 --total_iter_num=100000"
    line += " --use_gpu=True --loss_name=eml --samples_each_class=2 --pretrained_model=output/arc"
    line += " --model_save_dir=output/eml --image_shape=3,224,224 --lr_steps=50000,80000 --with_mem_opt=0 --enable_ce=1"
    args = SCRIPTS["train_pair"].parse(line.split())
    assert (args.use_gpu, args.with_mem_opt, args.enable_ce) == (True, False, True)
    assert (args.lr_steps, args.image_shape) == ((50000, 80000), (3, 224, 224))


GOOD = [
    (types.boolean, "True", True),
    (types.boolean, "true", True),
    (types.boolean, "1", True),
    (types.boolean, "False", False),
    (types.boolean, "0", False),
    (types.integers, "15000,25000", (15000, 25000)),
    (types.integers, "7", (7,)),
    (types.integers, "", ()),
    (types.image_shape, "3,224,192", (3, 224, 192)),
    (types.fractions, "0.08,1", (0.08, 1.0)),
    (types.positive, "12", 12),
    (types.workers, "auto", "auto"),
    (types.workers, "3", 3),
    (types.byte_size, "0", 0),
    (types.byte_size, "2GB", 2 * 10**9),
    (types.byte_size, "1.5mb", 1500000),
    (types.byte_size, "2000000000", 2 * 10**9),
    (types.one_of(("fp32", "bf16")), "bf16", "bf16"),
    (parse_augment, "none", ()),
    (parse_augment, "", ()),
    (parse_augment, "flip,crop", ("crop", "flip")),
    (parse_augment, ",".join(reversed(AUGMENTATIONS)), tuple(AUGMENTATIONS)),
]
BAD = [
    (types.boolean, ["", "2", "yes", "None"]),
    (types.integers, ["a", "1.5", "1 2"]),
    (types.image_shape, ["", "224", "1,224,224", "3,0,224", "3,-1,8", "3,2,2,2"]),
    (types.fractions, ["", "1", "0,1", "0.5,0.4", "0.5,1.1", "nan,1", "a,b", "0.1,0.2,0.3"]),
    (types.positive, ["0", "-1", "1.5", ""]),
    (types.workers, ["", "-1", "many", "1.5"]),
    (types.byte_size, ["", "GB", "-1", "2 GB", "2TB", "nan", "1e9"]),
    (types.one_of(("fp32", "bf16")), ["", "fp16", "BF16"]),
]


@pytest.mark.parametrize("kind, text, value", GOOD)
def test_value(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in BAD for text in texts])
def test_refused_value(kind, text):
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        kind(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("value", [(3, 224, 224), (0.08, 1.0), (), 7, 1e-4, True, "a,b"])
def test_plain_is_what_one_types(value):
    typed = {(): "", (3, 224, 224): "3,224,224", (0.08, 1.0): "0.08,1.0"}.get(value, str(value))
    assert types.plain(value) == typed
    assert types.plain(list(value) if isinstance(value, tuple) else value) == typed  # as JSON gives it back
