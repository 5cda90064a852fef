"""Checkpoints of plain tensors and dicts: whole or absent on disk, complete for a resume."""

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from core.console import log
from core.errors import InputError
from core.files import replacing_synced, sync
from engine.seeding import numpy_state, set_numpy_state


def training_state(objective, optimiser, scaler, step, best, classes, **record):
    """Everything that the next step depends on; the data position is the step itself (samplers.py).

    classes: (C,) int64, the label that each class of the loss stands for. record: plain values that go along.
    """
    return {
        **record,
        "model": objective.model.state_dict(),
        "facts": objective.model.facts,
        "loss": objective.loss.state_dict(),
        "optimiser": {"kind": type(optimiser).__name__, **optimiser.state_dict()},
        "scaler": scaler.state_dict(),
        "step": step,
        "best": best,
        "classes": classes,
        "rng": torch.get_rng_state(),
        "python_rng": random.getstate(),
        "numpy_rng": numpy_state(),
        "device_rng": torch.get_device_module().get_rng_state() if torch.accelerator.is_available() else None,
    }


def restore(state, objective, optimiser, scaler, file):
    """Put `state` back (in place). Returns (step, best). Raises InputError when it belongs to another model or loss."""
    if "facts" in state and "config" not in state:
        raise InputError(f"{file} is of an older version, which did not save all that a run needs to go on")
    if state.get("facts") != objective.model.facts:
        raise InputError(f"{file} holds the model {state.get('facts')}, but the flags ask for {objective.model.facts}")
    try:
        objective.model.load_state_dict(state["model"])
        objective.loss.load_state_dict(state["loss"])
        kind = _mapping(state, "optimiser")["kind"]
        if kind != type(optimiser).__name__:
            raise ValueError(f"it trained by {kind}, the flags ask for {type(optimiser).__name__}")
        asked = [{name: group[name] for name in group if name != "params"} for group in optimiser.param_groups]
        optimiser.load_state_dict(state["optimiser"])
        for group, options in zip(optimiser.param_groups, asked):
            group.update(options)  # the flags' rates and decays hold, the checkpoint gives the momenta
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} belongs to another loss or optimiser: {str(error).splitlines()[-1].strip()}"
        ) from None
    try:
        scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        random.setstate(state["python_rng"])
        set_numpy_state(_mapping(state, "numpy_rng"))
        if state["device_rng"] is not None and torch.accelerator.is_available():
            torch.get_device_module().set_rng_state(state["device_rng"])
        return int(state["step"]), state["best"]
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} holds no random state to go on with: {type(error).__name__}: {error}") from None


def _mapping(state, name):
    """The mapping that a checkpoint's state holds under this name; a tensor there would take a name as an index."""
    if not isinstance(state[name], Mapping):
        raise TypeError(f"{name!r} is a {type(state[name]).__name__}, where a mapping has to be")
    return state[name]


def save(state, path):
    """Write beside `path`, and rename when it is on the disk, so that `path` is always the old file or the new one.

    Raises OSError where the disk refuses; the old file is as it was then.
    """
    try:
        with replacing_synced(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a disk's refusal
        Path(f"{path}.tmp").unlink(missing_ok=True)
        raise OSError(f"cannot write {str(path)!r}: {_reason(error)}") from error


def _reason(error):
    """What the disk said, also where torch's writer hid it behind an error of its own."""
    while error.__context__ is not None and not getattr(error, "strerror", None):
        error = error.__context__
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


class Checkpoints:
    """The checkpoints in a run's folder: each step_N.pt, last.pt, which is the newest of them, and best.pt.

    keep: how many of the newest step_N.pt stay, 0 for all. A disk that refuses leaves every file as it was.
    """

    def __init__(self, folder, keep=0):
        self.folder, self.keep = Path(folder), keep

    def save_step(self, state, needed=False):
        """Save `step_N.pt` and make it `last.pt`; returns whether that went well.

        Where the disk refuses it is said; raises InputError if `needed`.
        """
        try:
            self._save_step(state)
            return True
        except OSError as error:
            sentence = f"step {state['step']} is not saved: {error}; what was saved before is whole"
            if needed:
                raise InputError(sentence) from None
            log(f"{sentence}, and the run goes on")
            return False

    def save_best(self, state):
        """Save `best.pt`; returns whether that went well. Where the disk refuses it is said."""
        try:
            save(state, self.folder / "best.pt")
            return True
        except OSError as error:
            log(f"the best step so far, {state['step']}, is not saved: {error}; the run goes on")
            return False

    def _save_step(self, state):
        path, last = self.folder / f"step_{state['step']}.pt", self.folder / "last.pt"
        save(state, path)
        temporary = Path(f"{last}.tmp")
        temporary.unlink(missing_ok=True)  # left by a crash, it may be a link to an older step
        try:
            os.link(path, temporary)
        except OSError:  # no hard links here
            shutil.copyfile(path, temporary)
            sync(temporary)
        os.replace(temporary, last)
        sync(self.folder)
        steps = sorted(self.folder.glob("step_*.pt"), key=lambda file: int(file.stem.removeprefix("step_")))
        for old in steps[: -self.keep] if self.keep else ():
            old.unlink()
