"""Recipes (.yaml) on every script, and words of the line that win over them: section.flag=value."""

import subprocess
import sys
from pathlib import Path

import pytest

import reader
from config.commands import COMMANDS
from config.parse import parse
from core.assignments import split_line
from core.errors import InputError
from core.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_run(monkeypatch):
    """What is taken over from weights is none of this."""
    monkeypatch.setattr("config.replay.taken_over", lambda values, typed: {})


@pytest.fixture
def recipe(tmp_path):
    """Writes a .yaml; returns the word that asks for it."""

    def write(text):
        (tmp_path / "recipe.yaml").write_text(text)
        return f"--config={tmp_path / 'recipe.yaml'}"

    return write


@pytest.mark.parametrize("script", COMMANDS)
def test_every_script_takes_a_recipe(script, recipe):
    """data_dir is a flag of all that open a list, and stands in a section as in --help."""
    flag, value = ("host", "localhost") if script == "search serve" else ("data_dir", "photos")
    if flag not in parse([], COMMANDS[script], "").values:
        flag, value = "batch_size", 3
    args = parse([recipe(f"any section:\n  {flag}: {value}\n")], COMMANDS[script], "")
    assert args[flag] == value and flag in args.typed
    again = parse([recipe(f"{flag}: {value}\n"), f"{flag}=7"], COMMANDS[script], "")
    assert str(again[flag]) == "7"


TRAIN = COMMANDS["train_elem"]


@pytest.mark.parametrize("word", ["lr=0.25", "optimisation.lr=0.25", "--lr=0.25", "Optimisation.lr=0.25"])
def test_the_line_wins_however_it_is_typed(word, recipe):
    args = parse([recipe("optimisation:\n  lr: 0.5\n  lr_steps: [3, 4]\n"), word], TRAIN, "")
    assert args["lr"] == 0.25 and args["lr_steps"] == (3, 4) and args.optimiser["lr"] == 0.25


def test_the_last_word_wins():
    assert parse(["lr=1", "--lr=2", "optimisation.lr=3"], TRAIN, "")["lr"] == 3


def test_options_of_what_is_chosen_stand_in_its_section(recipe):
    words = ["loss.loss_name=arcmargin", "loss.arc_scale=30", "batches.sampler=balance"]
    args = parse(words, TRAIN, "")
    assert args["arc_scale"] == 30 and args["sampler"] == "balance"


def test_a_files_own_section_is_one_of_the_lines(recipe):
    """test_batch_size stands in data in the recipes of this repository, and in run in --help."""
    file = recipe("data:\n  test_batch_size: 64\nmine:\n  lr: 1\n")
    args = parse([file, "data.test_batch_size=32", "run.test_batch_size=16", "mine.lr=2"], TRAIN, "")
    assert args["test_batch_size"] == 16 and args["lr"] == 2
    with pytest.raises(InputError, match="test_batch_size stands in run, not in data"):
        parse(["data.test_batch_size=32"], TRAIN, "")


@pytest.mark.parametrize(
    "title", ["what a batch is compared with.memory_size=6", "what_a_batch_is_compared_with.memory_size=6"]
)
def test_titles_of_several_words(title):
    assert parse([title], COMMANDS["train_pair"], "")["memory_size"] == 6


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("optimisaton.lr=1", "there is no section 'optimisaton'"),
        ("optimisaton.lr=1", "Did you mean 'optimisation'?"),
        ("model.lr=1", "'model.lr=1': lr stands in optimisation, not in model"),
        ("optimisation.lrr=1", "unknown flag 'optimisation.lrr=1'. Did you mean '--lr'?"),
        ("total_iter_nun=1", "unknown flag 'total_iter_nun=1'. Did you mean '--total_iter_num'?"),
        ("lr=high", "argument --lr: 'high' is not a number above 0"),
        ("feature_scale=1", "It is an option of eml, npairs"),
    ],
)
def test_sentences_of_the_line(word, sentence):
    with pytest.raises(InputError) as caught:
        parse([word], TRAIN, "")
    assert sentence in str(caught.value)


def test_values_of_a_flag_stay_its_values():
    """A file may be called lr=1.jpg, and a text be anything."""
    args = parse(["k=3", "--input", "a.jpg", "lr=1.jpg"], COMMANDS["search find"], "")
    assert args["input"] == ("a.jpg", "lr=1.jpg") and args["k"] == 3
    args = parse(["--text", "model=car", "--output", "a=b.json"], COMMANDS["infer"], "")
    assert args["text"] == ("model=car",) and args["output"] == ("a=b.json",)
    assert split_line(["--continue", "batch_size=3"], {})[0] == ["--continue", "batch_size=3"]
    assert parse(["--input", "a.jpg", "--continue", "batch_size=3"], COMMANDS["infer"], "")["batch_size"] == 3
    assert split_line(["photos/a=b", "./lr=1"], {})[0] == ["photos/a=b", "./lr=1"]


@pytest.mark.parametrize(
    "script, text, sentence",
    [
        ("train_elem", "lr: 1\nmodel:\n  pooling: max\nmodel:\n  head: mlp\n", ":4: the section model stands twice"),
        ("train_elem", "loss:\n  lr: 1\n  lr: 2\n", ":3: lr is given twice, first in line 2"),
        ("train_elem", "loss:\n  lr: 1\nmodel:\n  lr: 2\n", ":4: lr is given twice, first in line 2"),
        ("train_elem", "lr: 1\n\ntotal_iter_nun: 5\n", ":3: unknown flag '--total_iter_nun'. Did you mean"),
        ("eval", "\nfigures:\n  metriks: map@r\n", ":3: unknown flag '--metriks'. Did you mean '--metrics'?"),
        ("doctor", "data_dirr: x\n", ":1: unknown flag '--data_dirr'. Did you mean '--data_dir'?"),
        ("train_elem", "lr: fast\n", ":1: lr: 'fast' is not a number above 0"),
        ("train_elem", "optimisation:\n  lr: [1, 2]\n", ":2: lr: '1,2' is not a number above 0"),
        ("train_elem", "freeze_bn: 2\n", ":1: freeze_bn: '2' is not one of True, False, 1, 0"),
        ("train_elem", "data:\n  data_dir: [a, b]\n", ":2: data_dir takes one text, not a list"),
        ("train_elem", "data_dir: on\n", ":1: data_dir takes a text; put True in quotes if it is one"),
        ("train_elem", "image_shape: 224\n", ":1: image_shape: '224' is not 3,height,width"),
        ("train_elem", "loss:\n  loss_name: arcmagrin\n", ":2: unknown loss 'arcmagrin'"),
        ("train_elem", "loggers: [jsonl, wandbb]\n", ":1: argument --loggers: 'wandbb' is not one of"),
        ("train_elem", "? [a, b]\n: 1\n", ":1: a flag's name is a word"),
        ("train_elem", "lr: 2026-13-45\n", ":1: lr: "),
    ],
)
def test_sentences_of_a_recipe(script, text, sentence, recipe):
    file = recipe(text)
    with pytest.raises(InputError) as caught:
        parse([file], COMMANDS[script], "")
    assert file.removeprefix("--config=") + sentence in str(caught.value)


def test_a_recipe_of_training_goes_with_every_script(recipe):
    """As far as it has the flags; what is meant for this script alone is taken, too."""
    file = recipe("optimisation:\n  lr: 1\nmodel:\n  model: ResNet18\nrun:\n  report: true\nloss:\n  arc_scale: 3\n")
    args = parse([file], COMMANDS["eval"], "")
    assert args["model"] == "ResNet18" and args["report"] is None
    assert parse([recipe("results:\n  report: page.html\n")], COMMANDS["eval"], "")["report"] == "page.html"


def test_several_words_of_a_recipe(recipe):
    args = parse([recipe("input: [a b.jpg, c.jpg]\n")], COMMANDS["infer"], "")
    assert args["input"] == ("a b.jpg", "c.jpg")


def test_what_counts_on_the_line_alone_is_said(recipe, capsys):
    args = parse([recipe("overwrite: true\n")], TRAIN, "")
    assert args["overwrite"] is False
    assert "recipe.yaml:1: overwrite counts on the command line alone" in capsys.readouterr().out


def test_several_test_lists_in_a_recipe_are_one_elsewhere(recipe, capsys):
    file = recipe("test_list: [a.csv, b.csv]\n")
    assert parse([file], TRAIN, "")["test_list"] == "a.csv,b.csv"
    assert parse([file], COMMANDS["eval"], "")["test_list"] == "a.csv"
    assert "--test_list=a.csv, the first of a.csv,b.csv" in capsys.readouterr().out


def test_a_recipe_of_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_recipe(tmp_path / "empty.yaml").values == {}


@pytest.fixture
def photos(sop_tree, tmp_path):
    """A folder per label, of two labels."""
    for label in (1, 2):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        for sample in (0, 1):
            (source,) = sop_tree.glob(f"*_final/{label}_{sample}.jpg")
            (tmp_path / "photos" / str(label) / source.name).write_bytes(source.read_bytes())
    return tmp_path / "photos"


def test_reader_takes_recipes(photos, tmp_path, recipe, capsys):
    output = tmp_path / "list.csv"
    reader.main(["make", str(photos), recipe(f"output: {output}\nseed: 3\noverwrite: true\n")])
    assert len(output.read_text().splitlines()) == 5
    reader.main(["make", str(photos), recipe(f"output: {output}\n"), "--overwrite"])
    with pytest.raises(SystemExit):
        reader.main(["check", str(output), recipe(f"data_dir: {tmp_path / 'elsewhere'}\n")])
    assert "elsewhere" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("sed: 1\n", ":1: unknown flag 'sed'. Did you mean 'seed'?"),
        ("test_share: 2\n", ":1: test_share: '2' is not a share from 0 to below 1"),
        ("overwrite: 3\n", ":1: overwrite: 3 is not one of true, false"),
        ("seed: [1]\n", ":1: seed takes one text or number, not [1]"),
    ],
)
def test_sentences_of_readers_recipes(text, sentence, photos, recipe, capsys):
    with pytest.raises(SystemExit) as end:
        reader.main(["make", str(photos), "--output=x.csv", recipe(text)])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_reader_takes_words(photos, tmp_path, recipe, capsys):
    output = tmp_path / "list.csv"
    reader.main(
        ["make", str(photos), "seed=3", recipe(f"of lists:\n  test_share: 0.1\n  output: {output}\n"), "test_share=0.5"]
    )
    assert "validation" in output.read_text()
    reader.main(
        ["make", str(photos), recipe(f"lists:\n  output: {output}\n  seed: 3\n"), "lists.seed=1", "--overwrite"]
    )
    assert "validation" not in output.read_text()
    with pytest.raises(SystemExit):
        reader.main(["check", str(output), f"data_dir={photos.parent}"])
    assert "0 faults" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("sed=1", "unknown flag 'sed=1'. Did you mean 'seed'?"),
        ("seed=x", "argument --seed: invalid"),
        ("overwrite=true", "'overwrite=true': --overwrite takes no value"),
        ("lists.seed=1", "'lists.seed=1': seed stands in no section lists"),
    ],
)
def test_sentences_of_readers_words(word, sentence, photos, capsys):
    with pytest.raises(SystemExit) as end:
        reader.main(["make", str(photos), "--output=x.csv", word])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_a_users_line(tmp_path):
    """As a shell hands it on."""
    (tmp_path / "recipe.yaml").write_text("optimisation:\n  lr: 0.5\n  lrr: 1\n")
    command = [sys.executable, "train_elem.py", f"--config={tmp_path / 'recipe.yaml'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path / 'recipe.yaml'}:3: unknown flag '--lrr'" in done.stderr
