"""Flags out of signatures: read from the sources as they are, typed, explained, frozen; replayed from json and yaml."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.commands import COMMANDS
from config.parse import parse
from config.signatures import flags_of
from core import sources
from core.errors import InputError
from core.recipe import read_recipe
from core.sources import MISSING, keywords_of, registered
from core.types import plain
from data.samplers import SAMPLERS
from engine.loggers import LOGGERS
from losses import LOSSES
from miners import MINERS
from models.backbones import BACKBONES
from models.heads import HEADS
from models.pair_scorer import PAIR_SCORERS
from retrieval.index.backends import BACKENDS
from retrieval.rerank import POSTPROCESSORS
from solvers import SOLVERS

ROOT = Path(__file__).resolve().parents[1]
REGISTRIES = {
    "losses": LOSSES,
    "miners": MINERS,
    "data/samplers": SAMPLERS,
    "engine/loggers": LOGGERS,
    "solvers": SOLVERS,
    "models/backbones": BACKBONES,
    "models/pair_scorer": PAIR_SCORERS,
    "retrieval/rerank": POSTPROCESSORS,
    "retrieval/index/backends": BACKENDS,
}
HOMES = sorted({home for command in COMMANDS.values() for section in command.sections for home in section.homes})
HOMES += [entry.home for folder in REGISTRIES for entry in registered(folder).values()]
FROZEN = json.loads((ROOT / "tests" / "data" / "flags.json").read_text())
# Each stood in infer.py as a mode or a flag of one, and is search.py's now.
MOVED_TO_SEARCH = {
    "build_index",
    "add_to",
    "delete_from",
    "search",
    "k",
    "search_memory_mb",
    "overwrite",
    "backend",
}
# None meant "that of the --pretrained_model run, else" this, as the help said; now the signature says it.
WAS_OPEN = {
    "model": "ResNet50",
    "image_shape": [3, 224, 224],
    "resize_short_size": 0,
    "embedding_size": 0,
    "pooling": "avg",
    "train_list": "Ebay_train.txt",
    "test_list": "Ebay_test.txt",
}
ELEM = ", ".join(name for name, entry in registered("losses").items() if entry.facts["stage"] == "elem")
FIRST = {"train_elem": "softmax", "train_pair": "triplet"}


def definition(home):
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("home", HOMES)
def test_sources_say_what_signatures_say(home):
    """The keywords read from the source are those that the running function has, with the same defaults."""
    parameters = inspect.signature(definition(home)).parameters
    if inspect.isclass(definition(home)):
        options = {name: own for name, own in parameters.items() if own.default is not own.empty}
        required = {name for name, own in parameters.items() if own.default is own.empty}
    else:
        options = {name: own for name, own in parameters.items() if own.kind is own.KEYWORD_ONLY}
        required = set()
    read = {keyword.name: keyword.default for keyword in keywords_of(home)}
    expected = {name.rstrip("_"): own.default for name, own in options.items()}
    for name, default in read.items():
        if default is MISSING:
            assert name in required or expected[name] is inspect.Parameter.empty
        else:
            assert expected[name] == default and type(expected[name]) is type(default)
    assert expected.keys() <= read.keys() <= expected.keys() | required


@pytest.mark.parametrize("folder, registry", [*REGISTRIES.items(), ("models/heads", HEADS)])
def test_decorators_are_read_as_they_run(folder, registry):
    assert sorted(registered(folder)) == sorted(registry.names())


@pytest.mark.parametrize("home", HOMES)
def test_every_flag_is_typed_and_explained(home):
    for keyword, flag in zip(keywords_of(home), flags_of(home), strict=True):
        assert keyword.annotation, f"{home}: {flag.name} has no type"
        assert len(flag.help) > 2, f"{home}: {flag.name} has no line behind `Options:`"


@pytest.mark.parametrize("home", HOMES)
def test_every_default_survives_a_replay(home):
    """config.json is replayed by typing its values: each default has to come back as it was."""
    for flag in flags_of(home):
        if flag.default not in (None, MISSING) and flag.words is None:
            value = flag.read(plain(flag.default))
            assert value == flag.default and type(value) is type(flag.default), flag.name


def as_json(values):
    return json.loads(json.dumps(values))


@pytest.mark.parametrize("script", FROZEN)
def test_flags_and_defaults_are_frozen(script):
    """A flag that a recipe may use keeps its name and its default."""
    frozen = dict(FROZEN[script]["flags"])
    if script == "infer":
        frozen = {name: value for name, value in frozen.items() if name not in MOVED_TO_SEARCH}
    values = as_json(parse([], COMMANDS[script], "").values)
    for name, default in frozen.items():
        assert name in values, f"{script} lost --{name}"
        expected = WAS_OPEN.get(name, default) if default is None else default
        assert values[name] == expected, f"{script} --{name}"
    more = values.keys() - frozen.keys() - {"loss_name"}
    assert more <= FROZEN[script].get("loss_name", {}).get(FIRST.get(script), {}).keys(), "new: add it to flags.json"


@pytest.mark.parametrize(
    "script, flag, name",
    [
        (script, flag, name)
        for script, own in FROZEN.items()
        for flag in sorted(own.keys() - {"flags"})
        for name in own[flag]
        if script != "infer"
    ],
)
def test_options_are_frozen(script, flag, name):
    values = as_json(parse([f"--{flag}={name}"], COMMANDS[script], "").values)
    for option, default in FROZEN[script][flag][name].items():
        assert values[option] == default, option


@pytest.mark.parametrize("name", FROZEN["infer"]["backend"])
def test_backend_options_are_frozen(name):
    values = as_json(parse([f"--backend={name}"], COMMANDS["search build"], "").values)
    for option, default in FROZEN["infer"]["backend"][name].items():
        assert values[option] == default, option


def test_help_loads_no_torch():
    """Importing it takes seconds; what draws a help text, or refuses a mistyped flag, needs none of it."""
    code = """
import importlib, sys
from config.commands import COMMANDS
for command in COMMANDS:
    script, *words = command.split()
    for line in (["--help"], ["--no_such_flag=1"]):
        try:
            importlib.import_module(script).main([*words, *line])
        except (SystemExit, ValueError):
            pass
    loaded = {"torch", "numpy", "cv2", "PIL", "yaml"} & set(sys.modules)
    assert not loaded, (command, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lists_are_looked_at_without_torch():
    """No command of reader.py needs it, so none waits for it."""
    code = "import sys, reader; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_shows_the_chosen_losses_flags(capsys):
    with pytest.raises(SystemExit):
        parse(["--loss_name=arcmargin", "--help"], COMMANDS["train_elem"], "The docstring.")
    printed = " ".join(capsys.readouterr().out.split())
    assert "The docstring." in printed and "loss: arcmargin" in printed
    assert f"one of {ELEM}; its own flags" in printed
    assert "--arc_scale" in printed and "(default: 80.0)" in printed and "--feature_scale" not in printed


@pytest.mark.parametrize(
    "script, line, sentence",
    [
        ("train_elem", "--total_iter_nun=5", "unknown flag '--total_iter_nun=5'. Did you mean '--total_iter_num'?"),
        ("train_elem", "--feature_scale=1", "unknown flag '--feature_scale=1'. It is an option of eml, npairs"),
        ("train_elem", "--loss_name=eml", f"eml is a loss of train_pair.py; train_elem.py has {ELEM}"),
        ("train_elem", "--loss_name=arcmagrin", "unknown loss 'arcmagrin'"),
        ("train_elem", "--lr=0", "argument --lr: '0' is not a number above 0"),
        ("train_elem", "--train_batch_size=0", "argument --train_batch_size: '0' is not an integer above 0"),
        ("train_elem", "--image_shape=224", "argument --image_shape: '224' is not 3,height,width"),
        ("train_elem", "--optimiser=adem", "argument --optimiser: 'adem' is not one of momentum, adam, adamw, sgd,"),
        ("train_elem", "--precision=fp23", "Did you mean 'fp32'?"),
        ("eval", "--postprocess=k_reciprocl", "Did you mean 'k_reciprocal'?"),
        ("search build", "--backend=fais", "Did you mean 'faiss'?"),
        ("infer", "--build_index=x", "unknown flag '--build_index=x'. That is python search.py build INDEX now."),
        ("infer", "stray", "'stray' stands behind no flag that takes it"),
    ],
)
def test_sentences(script, line, sentence):
    with pytest.raises(InputError) as caught:
        parse([line], COMMANDS[script], "")
    assert sentence in str(caught.value)


def test_two_keywords_of_one_name_are_the_programs_error(monkeypatch):
    from config.commands import Command, Section

    twice = Command((Section("a", "a", ("core.device:open_device",)), Section("b", "b", ("core.device:open_device",))))
    with pytest.raises(RuntimeError, match="--use_gpu is a keyword of core.device:open_device and of"):
        parse([], twice, "")


def test_yaml_json_and_line_are_the_same(tmp_path):
    (tmp_path / "flat.yaml").write_text("lr: 0.5\nimage_shape: [3, 64, 64]\nfreeze_bn: true\naugment: none\n")
    (tmp_path / "sections.yaml").write_text(
        "optimisation:\n  lr: 0.5\nmodel:\n  image_shape: 3,64,64\n  freeze_bn: True\naugment: []\n"
    )
    flags = {"lr": 0.5, "image_shape": [3, 64, 64], "freeze_bn": True, "augment": []}
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    typed = ["--lr=0.5", "--image_shape=3,64,64", "--freeze_bn=True", "--augment=none"]
    expected = parse(typed, COMMANDS["train_elem"], "").values
    assert expected["lr"] == 0.5 and expected["image_shape"] == (3, 64, 64) and expected["augment"] == ()
    for name in ("flat.yaml", "sections.yaml", "config.json"):
        found = parse([f"--config={tmp_path / name}"], COMMANDS["train_elem"], "").values
        assert {**found, "config": None} == expected
    wins = parse([f"--config={tmp_path / 'flat.yaml'}", "--lr=0.25"], COMMANDS["train_elem"], "")
    assert wins["lr"] == 0.25 and wins["freeze_bn"] is True


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("lr: 1\nlr: 2\n", ":2: lr is given twice, first in line 1"),
        ("a:\n  lr: 1\nb:\n  lr: 2\n", ":4: lr is given twice, first in line 2"),
        ("a:\n  b:\n    lr: 1\n", ":2: b is a section within a section"),
        ("- lr\n", "flags are `name: value` lines"),
        ("a: [1\n", "no yaml"),
        ("a: \x07\n", "no yaml: the character U+0007"),
        ("a: " + "[" * 3000 + "\n", "lists within lists"),
        ("tags: [a, [b]]\n", ":1: tags: a list has texts and numbers, not ['b']"),
        ("tags: [a,]\nlr: !!bool x\n", ":2: lr: 'x' is no bool"),
        ("lr: !!timestamp x\n", ":1: lr: 'x' is no timestamp"),
        ("a: &a\n  lr: 1\nb: *a\n", ":3: the section b is an alias of a"),
        ("a: &a\n  lr: 1\nb:\n  <<: *a\n", ":4: << merges nothing here"),
        ("lr: 010\n", ":1: lr: yaml takes 010 for 8"),
        ("lr: 1:30\n", ":1: lr: yaml takes 1:30 for 90"),
        ("lr: 1\nsampler:\n  name: balance\n  args:\n    n_labels: 2\n", ":2: sampler has a name and args"),
    ],
)
def test_faulty_yaml(tmp_path, text, sentence):
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value) and sentence in str(caught.value)


def test_yaml_needs_its_package(tmp_path, monkeypatch):
    (tmp_path / "flags.yaml").write_text("lr: 1\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match="pip install pyyaml"):
        read_recipe(tmp_path / "flags.yaml")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("lr:\n", ":1: lr has no value; its default is 0.01"),
        ("optimisation:\n  seed: 3\n  lr: ~\n", ":3: lr has no value"),
        ("lrr:\n", ":1: unknown flag '--lrr'"),
        ("names: !!set {lr, lrr}\n", "lr has no value"),
    ],
)
def test_a_line_without_a_value_is_no_default(text, sentence, tmp_path):
    (tmp_path / "flags.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        parse([f"--config={tmp_path / 'flags.yaml'}"], COMMANDS["train_elem"], "")
    assert sentence in str(caught.value)


def test_a_flag_that_is_open_by_default_may_be_left_open_in_a_file(tmp_path):
    (tmp_path / "flags.yaml").write_text("pretrained_model:\nbest: ~\n")
    parsed = parse([f"--config={tmp_path / 'flags.yaml'}"], COMMANDS["train_elem"], "")
    assert parsed["pretrained_model"] is None and parsed["best"] is None


def test_a_section_is_no_flag(tmp_path):
    """One all of whose lines are comments says nothing, one that is given a value is refused."""
    file = tmp_path / "flags.yaml"
    file.write_text("loss:\n  # loss_name: arcmargin\noptimisation:\n  lr: 0.5\n")
    assert parse([f"--config={file}"], COMMANDS["train_elem"], "")["lr"] == 0.5
    file.write_text("lr: 0.5\noptimisation: adamw\n")
    with pytest.raises(InputError, match="flags.yaml:2: optimisation is a section.*Did you mean '--optimiser'"):
        parse([f"--config={file}"], COMMANDS["train_elem"], "")


def test_an_option_is_named_where_a_script_only_reads_over_it(tmp_path):
    (tmp_path / "flags.yaml").write_text("loss:\n  loss_name: arcmargin\n  arc_scael: 30\n")
    with pytest.raises(InputError, match="flags.yaml:3: unknown flag '--arc_scael'. Did you mean '--arc_scale'"):
        parse([f"--config={tmp_path / 'flags.yaml'}"], COMMANDS["eval"], "")


def test_an_unknown_flag_in_a_file_is_named(tmp_path):
    (tmp_path / "flags.yaml").write_text("total_iter_nun: 3\n")
    with pytest.raises(InputError, match="Did you mean '--total_iter_num'"):
        parse([f"--config={tmp_path / 'flags.yaml'}"], COMMANDS["train_elem"], "")


RECIPES = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_open_with_the_command_that_runs_them(file, monkeypatch):
    # The run of stage 1 that a recipe starts from need not be there.
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})
    command = next(line for line in file.read_text().splitlines() if line.startswith("#   python "))
    script, *line = command.removeprefix("#   python ").split()
    assert line == [f"--config=configs/{file.name}"]
    args = parse([f"--config={file}"], COMMANDS[script.removesuffix(".py")], "")
    assert args.typed > {"loss_name", "model_save_dir"}
    # A closed form has no batches.
    assert "train_batch_size" in args.typed or args["loss_name"] in SOLVERS
    assert args["model_save_dir"].startswith(f"output/{file.stem.split('_')[0]}/")


def test_a_default_that_is_no_literal_is_named(tmp_path, monkeypatch):
    file = tmp_path / "home.py"
    file.write_text("ROOM = 3\n\n\ndef build(*, room: int = ROOM):\n    pass\n")
    monkeypatch.setattr(sources, "_file_of", lambda module: file)
    with pytest.raises(ValueError, match=r"home.py:4: the default ROOM is no literal"):
        keywords_of("home:build")


@pytest.mark.parametrize("script", ["train_elem", "train_pair", "train_reranker", "eval"])
def test_list_names_all_that_can_be_chosen(script, capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--list"], COMMANDS[script], "")
    assert not end.value.code
    printed = capsys.readouterr().out
    for choice in COMMANDS[script].choices:
        assert f"{len(choice.names())} values of --{choice.flag}, each a {choice.kind}:" in printed
        for name in choice.names():
            lines = [line for line in printed.splitlines() if line.startswith(f"  {name} ")]
            assert lines and all(len(line.split(maxsplit=1)[1]) > 20 for line in lines), (
                f"{name} says nothing of itself"
            )


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config=nixt.yaml", r"--config: there is no file 'nixt\.yaml'\. Did you mean 'nine\.yaml'\?"),
        ("--config=a/b.yaml", r"--config: there is no file 'a/b\.yaml'\. There is no folder 'a'\."),
        ("--checkpoint=outptu", r"--checkpoint: there is no run 'outptu'\. Did you mean 'output'\?"),
        ("--checkpoint=qq", r"--checkpoint: there is no run 'qq'\.$"),
    ],
)
def test_what_is_replayed_is_there(tmp_path, monkeypatch, flag, sentence):
    (tmp_path / "nine.yaml").touch()
    (tmp_path / "output").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        parse([flag], COMMANDS["train_pair"], "")
