"""The flags of an earlier run: read from its folder, typed again, and held against what is typed now."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.console import log
from core.errors import InputError
from core.files import near_file, read_flags, run_folder
from core.lists import split_lists
from core.recipe import Recipe, read_recipe
from core.sources import is_weights_name, registered
from core.types import Words, plain

DATA_FLAGS = ("data_dir", "train_list", "test_list")
NEVER_REPLAYED = ("config", "checkpoint", "overwrite", "allow_changed")
GEOMETRY = ("image_shape", "resize_short_size", "resize_filter", "resize_mode", "clip_seconds")
# Flags that name files and folders.
PLACES = ("data_dir", "train_list", "test_list", "pretrained_model", "retrieval_model")
# What may differ from the run that is gone on with: none of it is seen in the weights.
MAY_DIFFER = ("model_save_dir", "num_workers", "cache_bytes", "test_batch_size", "display_iter_step", "test_iter_step")
MAY_DIFFER += ("save_iter_step", "keep_checkpoints", "report", "with_mem_opt", "enable_ce")
MAY_DIFFER += ("loggers", "project", "tags")


def replayed(checkpoint: str | None, *, config: str | None = None, allow_changed: Words = ()) -> Recipe:
    """The flags of a config.json or a .yaml, else of the run of a checkpoint; none without either.

    Options:
        config: replay the flags of a run's config.json, or of a .yaml, in sections as below or in none; those on the
            line win, as --lr=0.1, lr=0.1 or optimisation.lr=0.1
        allow_changed: flags, comma-separated, that may differ from the run's that goes on

    Raises InputError where there is no such run or file.
    """
    if not (config or checkpoint):
        return Recipe({})
    path = Path(config or checkpoint)
    if not path.exists():
        flag = "config" if config else "checkpoint"
        kind = "file" if path.suffix else "run"
        raise InputError(f"--{flag}: there is no {kind} {str(path)!r}.{near_file(path)}")
    if config and path.suffix in (".yaml", ".yml"):
        recipe = read_recipe(path)
    elif config and path.is_file():
        recipe = Recipe(read_flags(path))
    else:
        recipe = Recipe(read_flags(run_folder(path) / "config.json"))
    values = {}
    for name, value in recipe.values.items():
        if name not in NEVER_REPLAYED and (value is not None or name in recipe.places):
            values[name] = value
        elif name in NEVER_REPLAYED and name in recipe.places:
            log(f"note: {recipe.places[name]}: {name} counts on the command line alone")
    return replace(recipe, values=values)


def taken_over(values: dict[str, object], typed: frozenset[str]) -> dict[str, object]:
    """Flags that are left open and come from the run or the weights of --pretrained_model, {name: value}.

    Those of the model one by one; the lists and their folder where all of them are left open. Says what it takes, and
    where what is typed differs from what the model was trained with.
    """
    source = values.get("pretrained_model")
    # Embeddings that are looked at as they are need no model; of what becomes an index it is the one that asks later.
    needs_none = values.get("embeddings") and "index" not in values
    if needs_none or "model" not in values:
        return {}
    if not source or is_weights_name(source):
        return _row_flags(values, typed)
    of_model = _model_flags(source, values, typed)
    of_row = _row_flags({**values, **of_model}, typed | of_model.keys())
    of_data = {}
    # Features are no list of images.
    if not values.get("features"):
        of_data = _data_flags(source, values, typed)
    # Lists that are those of the defaults are not worth a word.
    told = {**of_model, **{name: value for name, value in of_data.items() if value != values[name]}}
    if told:
        flags = " ".join(f"--{name}={plain(value)}" for name, value in told.items())
        log(f"{flags} taken from {source}")
    return {**of_model, **of_row, **of_data}


def _row_flags(values: dict[str, object], typed: frozenset[str]) -> dict[str, object]:
    """What the weights published under the model's name were trained with, where the model is one that follows them.

    Where the size is typed, nothing else of the geometry is known to fit it, but how images are resized.
    """
    model = values["model"]
    row = registered("models/backbones").get(model)
    if ":" not in model and (row is None or not row.facts.get("follows")):
        return {}
    # What a package says of its networks takes the package to ask.
    from models.trained import settings_of_row

    taken = settings_of_row(model)
    if "image_shape" in typed:
        taken.pop("resize_short_size", None)
    taken = {name: value for name, value in taken.items() if name not in typed and value != values[name]}
    if taken:
        flags = " ".join(f"--{name}={plain(value)}" for name, value in taken.items())
        log(f"{flags}, as {model} was trained")
    return taken


def _model_flags(source: str, values: dict[str, object], typed: frozenset[str]) -> dict[str, object]:
    # What a weights file was trained with stands in the file itself, which takes torch to read.
    from models.trained import trained_settings

    trained = trained_settings(source, values["model"])
    taken = {name: value for name, value in trained.items() if name not in typed}
    for name, value in trained.items():
        if name in typed and name in GEOMETRY and value != values[name]:
            log(f"note: --{name}={plain(values[name])}, but {source} was trained with {plain(value)}")
    return taken


def _data_flags(source: str, values: dict[str, object], typed: frozenset[str]) -> dict[str, object]:
    names = [name for name in DATA_FLAGS if name in values]
    # Where a threshold is chosen on labels that the run held out, it has to be those.
    if values.get("threshold_on") == "val":
        names.append("val_classes")
    config = run_folder(source) / "config.json"
    # A command that is given its list as a word has no use for the folder of another.
    if "test_list" not in names:
        return {}
    # What is given to embed names its folder itself.
    names_its_own = any(values.get(name) for name in ("input", "text", "index", "embeddings"))
    if names_its_own or not config.is_file() or any(name in typed for name in names):
        return {}
    taken = {}
    with contextlib.suppress(InputError):  # a stranger's config.json tells of no data
        run = read_flags(config)
        taken = {name: run[name] for name in names if run.get(name) is not None}
        # A run that held labels out was tested on them, not on its test list, which may not even be there.
        if "train_batch_size" in values and "val_classes" not in typed and run.get("val_classes"):
            taken["val_classes"] = run["val_classes"]
    if "train_batch_size" not in values and isinstance(taken.get("test_list"), str):
        # What trains nothing tests on one list.
        taken["test_list"] = split_lists(taken["test_list"], taken.get("data_dir"))[0]
    return taken


def _is_same(name: str, value: object, other: object) -> bool:
    """Whether two values of a flag mean the same: `./photos` and `photos` are one folder."""
    if name in PLACES and value is not None and other is not None:
        return os.path.abspath(value) == os.path.abspath(other)
    return value == other


def refuse_contradictions(
    now: dict[str, object], run: dict[str, object], allowed: Sequence[str], places: dict[str, str]
) -> None:
    """Raise InputError where flags now, {name: value}, differ from those of the run that is gone on with.

    places: {name: "file:line"} of those that a .yaml gives.
    """
    for name in allowed:
        if name not in run:
            raise InputError(f"allow_changed names {name!r}, which is no flag of the run")
    may_differ = {*NEVER_REPLAYED, *MAY_DIFFER, *allowed}
    for name in now:
        if name in run and name not in may_differ and not _is_same(name, now[name], run[name]):
            flag = f"{places[name]}: {name}" if name in places else f"--{name}"
            raise InputError(
                f"{flag} is {plain(now[name])}, but the run that goes on has {plain(run[name])}; leave it out, or "
                f"give --allow_changed={name}"
            )
