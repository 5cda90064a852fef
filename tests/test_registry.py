"""The registry: names, facts, options from signatures, near matches, and that registered classes keep the rules."""

from pathlib import Path

import pytest

import losses
from core.errors import InputError, near_match
from core.registry import Option, Registry
from data.samplers import SAMPLERS
from losses import LOSSES


@pytest.fixture
def dishes():
    dishes = Registry("dish")

    @dishes.register("soup", course=1, hot=True)
    class Soup:
        """Something to begin with.

        Options:
            salt: grams a plate,
                more for those who ask: few do

        hot: no option, since it stands elsewhere.
        """

        def __init__(self, guests, salt=1.5, bread=True):
            pass

    @dishes.register("cake", course=2, hot=False)
    class Cake:
        pass

    return dishes


def test_names_by_facts(dishes):
    assert dishes.names() == ["soup", "cake"]
    assert dishes.names(course=2) == ["cake"]
    assert dishes.names(course=1, hot=True) == ["soup"]
    assert dishes.names(course=1, hot=False) == dishes.names(colour="red") == []
    assert dishes.fact("cake", "course") == 2
    assert dishes["soup"].__name__ == "Soup"


def test_the_signature_is_the_list_of_options(dishes):
    assert dishes.requirements("soup") == ["guests"]
    assert dishes.options("soup") == [
        Option("salt", 1.5, "grams a plate, more for those who ask: few do"),
        Option("bread", True, ""),
    ]
    assert dishes.requirements("cake") == dishes.options("cake") == []


def test_several_near_matches_come_the_nearest_first():
    names = ["resnet101", "resnet10t", "resnet18", "vgg11"]
    assert near_match("resnet10x", names) == " Did you mean 'resnet10t'?"
    assert near_match("resnet10x", names, 3) == " Did you mean 'resnet10t', 'resnet101' or 'resnet18'?"
    assert near_match("qq", names, 3) == ""


@pytest.mark.parametrize("ask", [lambda r: r["suop"], lambda r: r.fact("suop", "hot"), lambda r: r.options("suop")])
def test_an_unknown_name_meets_what_there_is_and_the_nearest(dishes, ask):
    with pytest.raises(InputError, match="unknown dish 'suop'; there are: soup, cake. Did you mean 'soup'?"):
        ask(dishes)


def test_several_names_share_what_is_registered(dishes):
    @dishes.register("tea", "coffee", course=3)
    def brew(name):
        return f"a cup of {name}"

    assert dishes.names(course=3) == ["tea", "coffee"]
    assert dishes["tea"] is dishes["coffee"] is brew
    assert list(dishes) == dishes.names() and len(dishes) == 4 and "tea" in dishes and "milk" not in dishes


def test_a_name_is_given_once(dishes):
    with pytest.raises(RuntimeError, match="dish 'soup' is registered twice"):
        dishes.register("soup")(int)


@pytest.mark.parametrize(
    "name, meant", [("resnet50", "ResNet50"), ("ResNet5", "ResNet50"), ("Reznet18", "ResNet18"), ("xyz", None)]
)
def test_near_match(name, meant):
    expected = f" Did you mean {meant!r}?" if meant else ""
    assert near_match(name, ["ResNet18", "ResNet50"]) == expected


def test_every_loss_is_imported_by_its_class():
    """losses/__init__.py lists by hand what the folder holds, so that an editor finds it."""
    files = {path.stem for path in Path(losses.__file__).parent.glob("[!_]*.py")}
    classes = {LOSSES[name].__name__ for name in LOSSES.names()}
    assert files == set(LOSSES.names())
    assert set(losses.__all__) == {"LOSSES"} | classes
    assert all(getattr(losses, LOSSES[name].__name__) is LOSSES[name] for name in LOSSES.names())


@pytest.mark.parametrize("name", LOSSES.names())
def test_losses_ask_only_for_facts_that_the_scripts_have_and_explain_their_options(name):
    assert set(LOSSES.requirements(name)) <= {"embedding_size", "num_classes"}
    assert LOSSES.fact(name, "stage") in ("elem", "pair")
    for option in LOSSES.options(name):
        assert option.help, f"--{option.name} has no line in the docstring"
        assert isinstance(option.default, (bool, int, float, str, tuple)) or option.default is None


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_samplers_share_a_signature(name):
    facts = ["labels", "batch_size", "samples_each_class", "categories"]
    asked_for = SAMPLERS.requirements(name)
    assert asked_for == facts[: len(asked_for)] and len(asked_for) >= 2
    for option in SAMPLERS.options(name):
        assert option.help, f"--{option.name} has no line in the docstring"


def test_a_file_that_nothing_imports_is_named(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {"triplet": LOSSES._entries["triplet"]})
    with pytest.raises(InputError, match=r"the loss 'eml' of losses/eml\.py: nothing imports that file"):
        LOSSES["eml"]
    with pytest.raises(InputError, match="unknown loss 'triplett'; there are: triplet"):
        LOSSES["triplett"]
