"""Checkpoints of plain tensors and dicts: whole or absent on disk, complete for a resume."""

import os
import shutil
from pathlib import Path

import torch

from errors import InputError


def training_state(objective, optimiser, scaler, step, best, classes):
    """Everything that the next step depends on; the data position is the step itself (samplers.py).

    classes: (C,) int64, the label that each class of the loss stands for.
    """
    return {
        "model": objective.model.state_dict(),
        "facts": objective.model.facts,
        "loss": objective.loss.state_dict(),
        "optimiser": {"kind": type(optimiser).__name__, **optimiser.state_dict()},
        "scaler": scaler.state_dict(),
        "step": step,
        "best": best,
        "classes": classes,
        "rng": torch.get_rng_state(),
        "device_rng": torch.get_device_module().get_rng_state() if torch.accelerator.is_available() else None,
    }


def restore(state, objective, optimiser, scaler, file):
    """Put `state` back (in place). Returns (step, best). Raises InputError when it belongs to another model or loss."""
    if state.get("facts") != objective.model.facts:
        raise InputError(f"{file} holds the model {state.get('facts')}, but the flags ask for {objective.model.facts}")
    try:
        objective.model.load_state_dict(state["model"])
        objective.loss.load_state_dict(state["loss"])
        kind = state["optimiser"]["kind"]
        if kind != type(optimiser).__name__:
            raise ValueError(f"it trained by {kind}, the flags ask for {type(optimiser).__name__}")
        asked = [{name: group[name] for name in group if name != "params"} for group in optimiser.param_groups]
        optimiser.load_state_dict(state["optimiser"])
        for group, options in zip(optimiser.param_groups, asked):
            group.update(options)  # the flags' rates and decays hold, the checkpoint gives the momenta
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{file} belongs to another loss or optimiser: {str(error).splitlines()[-1].strip()}"
        ) from None
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    if state["device_rng"] is not None and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(state["device_rng"])
    return state["step"], state["best"]


def save(state, path):
    """Write to a temporary file beside `path`, then rename, so that `path` is always the old file or the new one."""
    temporary = f"{path}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, path)


def save_step(state, run_dir):
    """Save `step_N.pt` and make `last.pt` the same file (a hard link where the file system has them)."""
    path = os.path.join(run_dir, f"step_{state['step']}.pt")
    save(state, path)
    temporary = Path(run_dir, "last.pt.tmp")
    temporary.unlink(missing_ok=True)  # left by a crash, it may be a link to an older step
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, os.path.join(run_dir, "last.pt"))
    return path
