"""A network by its settings: for training, to be used, and tried; what --pretrained_model says of the settings."""

import dataclasses
import inspect
import typing

import pytest
import torch
from runs import as_line, read_json, run, tiny_backbone, train_flags

from core.errors import InputError
from models import ModelSettings, build_model, check_forward, open_model, trained_settings
from models.pooling import POOLINGS
from models.trained import READERS, read_settings

TINY = ModelSettings(model="Tiny", image_shape=(3, 32, 32))


@pytest.fixture(autouse=True)
def backbone():
    with tiny_backbone():
        yield


def test_settings_are_what_weights_are_bound_to_and_where_they_come_from():
    names = [field.name for field in dataclasses.fields(ModelSettings)]
    assert names == [*READERS, "pretrained_model"]
    assert typing.get_args(ModelSettings.__annotations__["pooling"]) == POOLINGS
    for source in (ModelSettings, build_model):
        flags = [p.name for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert flags and all(f"        {name}: " in source.__doc__ for name in flags)


def test_a_network_to_train_is_drawn_from_the_seed_and_frozen_as_asked():
    states = []
    for _ in range(2):
        torch.manual_seed(4)
        states.append(build_model(TINY, None).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    frozen = build_model(TINY, None, freeze_bn=True, freeze_stages=1)
    assert not any(parameter.requires_grad for parameter in frozen.backbone.parameters())


def test_random_weights_are_said_where_nothing_is_trained(capsys):
    build_model(TINY, None)
    assert "random" not in capsys.readouterr().out
    open_model(TINY)
    assert "note: the weights are random, since there is no --pretrained_model" in capsys.readouterr().out


def test_random_weights_are_the_same_in_every_call():
    torch.manual_seed(1)
    first = open_model(TINY).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(2)
    assert all(torch.equal(tensor, first[name]) for name, tensor in open_model(TINY).state_dict().items())
    # Whoever draws beside it draws what they would have drawn.
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("training", [False, True])
def test_a_network_that_is_tried_stays_as_it_is(training):
    model = build_model(dataclasses.replace(TINY, embedding_size=4), None)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    check_forward(model, TINY, images=2, training=training)
    assert not model.training and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match="^Tiny cannot (train on|embed) 1 at a time of 4x3 pixels: "):
        check_forward(model, dataclasses.replace(TINY, image_shape=(3, 4, 3)), images=1, training=training)
    assert not model.training


def test_a_network_that_is_tried_is_not_compiled(capsys):
    model = build_model(TINY, None, compile=True)
    assert "the network is compiled in the first steps" in capsys.readouterr().out

    def compiled(*arguments):
        pytest.fail("compiled")

    model._compiled_call_impl = compiled
    check_forward(model, TINY, images=1, training=False)


def test_weights_say_what_they_were_trained_as(sop_tree, tmp_path):
    assert trained_settings(None) == trained_settings("") == trained_settings("imagenet") == {}
    run("train_elem", train_flags(sop_tree, tmp_path / "run", embedding_size=5, pooling="max", total_iter_num=1))
    expected = {
        "model": "Tiny",
        "image_shape": (3, 32, 32),
        "resize_short_size": 0,
        "resize_filter": "area",
        "resize_mode": "crop",
    }
    expected |= {"embedding_size": 5, "pooling": "max", "head": "linear", "lora": 0, "clip_seconds": 3.0}
    expected["test_scales"] = (1.0,)
    for source in ("run", "run/last.pt", "run/model.safetensors"):
        assert trained_settings(str(tmp_path / source)) == expected
    model = open_model(ModelSettings(**expected, pretrained_model=str(tmp_path / "run")))
    stored = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    # The command line that leaves them open embeds as that network.
    line = {"pretrained_model": tmp_path / "run", "input": sop_tree / "disc_final" / "4_0.jpg", "use_gpu": False}
    run("infer", as_line({**line, "output": tmp_path / "x.json"}))
    [numbers] = read_json(tmp_path / "x.json").values()
    assert len(numbers) == 5


def test_settings_in_a_file_are_read_as_if_typed():
    assert read_settings({"image_shape": [3, 40, 48], "pooling": None, "lr": 1}, "x") == {"image_shape": (3, 40, 48)}
    with pytest.raises(InputError, match=r"^'x': embedding_size '-3' is not an integer from 0 to 1000000$"):
        read_settings({"embedding_size": -3}, "x")
