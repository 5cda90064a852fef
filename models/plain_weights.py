"""Files of plain weights, which are read without executing anything that is in them."""

import errno
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from core.errors import InputError, first_line
from core.text import counted

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

COUNTERS = "num_batches_tracked"  # absent from files older than torch 0.4.1, and read by nothing here

State = dict[str, torch.Tensor]


def read_weights(file: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Load plain tensors and dicts only, so a stranger's file executes nothing. Raises InputError if it is not that.

    mapped: the tensors stay on the disk until they are read, for who wants to know what else is in the file.
    """
    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise no_weights(file, _damage(Path(file), error) or _why_not(error)) from None
    if not isinstance(state, dict):
        raise no_weights(file, f"it holds a {type(state).__name__}")
    return state


def no_weights(file: str | Path, why: str) -> InputError:
    return InputError(f"{str(file)!r} is not a file of plain weights: {why}")


def _damage(file: Path, error: Exception) -> str | None:
    """That a file is cut short, and what else there is; None where it is whole, as far as that is known."""
    text = str(error)
    is_cut = isinstance(error, EOFError) or "PytorchStreamReader" in text or "Error while deserializing" in text
    # Of a piece of a file torch may ask for what lies before its beginning.
    is_cut = is_cut or getattr(error, "errno", None) == errno.EINVAL
    if not file.is_file():
        return None
    status = file.stat()
    if not is_cut and status.st_size:
        return None
    earlier = [step for step in file.parent.glob("step_*.pt") if step.stat().st_ino != status.st_ino]
    advice = "copy it here once more"
    if earlier:
        newest = max(earlier, key=lambda step: step.stat().st_mtime)
        advice += f", or go on from an earlier step, {str(newest)!r}"
    return f"it is cut short or damaged, {counted(status.st_size, 'byte', ',')}; {advice}"


def _why_not(error: Exception) -> str:
    """What torch says of a file that it does not load, on one line and without colours."""
    text = COLOUR.sub("", str(error))
    refused = re.search(r"(?:GLOBAL|global) `?([\w.]+)`? (?:was not an allowed|not allowed)", text)
    advice = "which only running its code would open; save the model's state_dict() alone"
    if refused:
        return f"it holds a pickled {refused[1]}, {advice}"
    if "Unsupported" in text or "WeightsUnpickler" in text:
        return f"it holds pickled objects, {advice}"
    return first_line(COLOUR.sub("", first_line(error)))


def tensors_of(state: dict[str, Any]) -> State:
    """Those of a file's entries that are tensors by name."""
    return {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}


def flat_tensors(state: dict[str, Any], prefix: str = "") -> State:
    """All tensors of a dict and of the dicts in it, {dotted name: tensor}."""
    tensors = {}
    for name, value in state.items():
        if torch.is_tensor(value):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            tensors |= flat_tensors(value, f"{prefix}{name}.")
    return tensors


def inner_of(backbone: nn.Module) -> str:
    """What stands before the names of a backbone's weights here and not in files: `net.` where it wraps a network."""
    return getattr(backbone, "inner", "")


def weights_of(backbone: nn.Module) -> State:
    """The weights of a backbone under the names that they have in files; counters are none."""
    inner = inner_of(backbone)
    state = backbone.state_dict()
    return {name.removeprefix(inner): value for name, value in state.items() if not name.endswith(COUNTERS)}


def whole_prefixes(backbone: nn.Module, state: State) -> list[str]:
    """What stands in `state` before the names of all of a backbone's weights; "" is nothing."""
    names = list(weights_of(backbone))
    first = names[0]
    prefixes = {name.removesuffix(first) for name in state if f".{name}".endswith(f".{first}")}
    return [prefix for prefix in sorted(prefixes) if all(f"{prefix}{name}" in state for name in names)]


def converted(backbone: nn.Module, state: State) -> tuple[State, str] | None:
    """The tensors of a file that calls them as others do, under the backbone's names in files, and their prefix there.

    None where its package knows no such names, or not all of the backbone's are among them, of its shapes.
    """
    convert = getattr(backbone, "convert", None)
    if convert is None:
        return None
    ours = weights_of(backbone)
    prefix = _most_common_prefix(ours, state)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    found = convert(inside)
    if all(name in found and found[name].shape == value.shape for name, value in ours.items()):
        return found, prefix
    return None


def _most_common_prefix(ours: State, state: State) -> str:
    """What most often stands before one of our names in a file's."""
    counts = Counter()
    for name in state:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in ours:
                counts[".".join([*parts[:depth], ""])] += 1
                break
    if not counts:
        return ""
    return counts.most_common(1)[0][0]


def fill(backbone: nn.Module, file: str | Path, model: str, prefix: str | None = None) -> None:
    """Copy the weights of a file into a backbone.

    model: its name, for sentences. prefix: of the network that is meant, where the file has several.
    Raises InputError with the first tensor that does not fit.
    """
    state = flat_tensors(read_weights(file))
    if prefix is None:
        prefix = next(iter(whole_prefixes(backbone, state)), "")
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    found, _ = converted(backbone, state) or (inside, prefix)
    ours = weights_of(backbone)
    for name, value in ours.items():
        if name not in found or found[name].shape != value.shape:
            got = tuple(found[name].shape) if name in found else "nothing"
            raise InputError(f"{str(file)!r} does not hold a {model}: {name!r} is {tuple(value.shape)}, got {got}")
    inner = inner_of(backbone)
    backbone.load_state_dict({inner + name: value for name, value in found.items() if name in ours}, strict=False)
