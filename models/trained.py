"""What the weights in --pretrained_model were trained as, so that flags which are left open follow them."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import read_flags
from core.types import ChainOf, count, image_shape, number, one_of, plain, scales, width
from models.backbones import BACKBONES
from models.export.exported import CARD
from models.weights import is_of_timm, is_of_transformers, is_published, read_card, weights_file

TOWERS = "towers.json"  # of a folder that names several networks, each with settings of its own
RESIZE_FILTERS = ("area", "bilinear", "bicubic", "linear")
RESIZE_MODES = ("crop", "squash", "pad")


def resize_filter(text: str) -> str:
    """The text of --resize_filter."""
    return one_of(RESIZE_FILTERS)(text)


def resize_mode(text: str) -> str:
    """The text of --resize_mode."""
    return one_of(RESIZE_MODES)(text)


# The settings that weights are bound to: functions from a flag's text to its value, as in ModelSettings.
READERS = {
    "model": str,
    "image_shape": image_shape,
    "resize_short_size": count,
    "resize_filter": resize_filter,
    "resize_mode": resize_mode,
    "clip_seconds": number(0, float, above=True),
    "embedding_size": width,
    "pooling": str,
    "head": ChainOf("models/heads"),
    "lora": count,
    "test_scales": scales,
}


def trained_settings(pretrained_model: str | None, model: str | None = None) -> dict[str, Any]:
    """The settings of READERS that `pretrained_model` was trained with; none for published weights and foreign files.

    A folder of several towers has no settings of its own. One that HuggingFace's transformers wrote is the model
    `hf:FOLDER`. model: what it may be a name of weights of.

    A run's folder says so in its config.json, a model's in its model.json. A weights file that is named itself says so
    by what is in it, since it may have been copied alone, and if there is nothing by the run that it lies in.
    """
    if not pretrained_model or is_published(pretrained_model, model):
        return {}
    if (Path(pretrained_model) / TOWERS).is_file():
        return {}
    if is_of_transformers(pretrained_model):
        return {"model": f"hf:{pretrained_model}"}
    file = weights_file(pretrained_model)
    cards = [file.parent / name for name in ("config.json", CARD) if (file.parent / name).is_file()]
    if is_of_timm(file.parent):
        cards = []
    if cards and Path(pretrained_model).is_dir():
        return read_settings(read_flags(cards[0]), cards[0])
    card = read_card(file)
    if card or not cards:
        return read_settings(card, file)
    with contextlib.suppress(InputError):  # a config.json beside a stranger's weights is a stranger's
        return read_settings(read_flags(cards[0]), cards[0])
    return {}


def read_settings(flags: dict[str, Any], file: str | Path) -> dict[str, Any]:
    """Those of READERS in `flags`, which come from `file`, as if they had been typed; raises InputError."""
    settings = {}
    for name, read in READERS.items():
        if flags.get(name) is None:
            continue
        try:
            settings[name] = read(plain(flags[name]))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{str(file)!r}: {name} {error}") from None
    return settings


def settings_of_row(model: str) -> dict[str, Any]:
    """The settings of READERS that the weights published under a backbone's name were trained with."""
    row = BACKBONES[model](model)
    settings = {"pooling": row.pooling}
    if BACKBONES.fact(model, "modality") == "image":
        size = row.preprocess.size
        settings["image_shape"] = (3, size, size)
        settings["resize_short_size"] = row.preprocess.short_side if row.preprocess.short_side != size else 0
        settings["resize_filter"] = row.preprocess.resize_filter
        settings["resize_mode"] = row.preprocess.resize_mode
    if BACKBONES.fact(model, "modality") == "audio":
        settings["clip_seconds"] = row.preprocess.seconds
    return settings
