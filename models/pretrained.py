"""Hand-over: the weights of a run, a checkpoint or a plain state-dict file into an Embedder, with every gap named."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from errors import InputError
from storage import first_line


def weights_file(source):
    """The file behind --pretrained_model: `source` itself, or last.pt of a run folder. Raises InputError."""
    path = Path(source)
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"pretrained_model {str(source)!r}: no file {str(file)!r} (a run folder, a weights file or 'imagenet')"
        )
    return file


def read_weights(file):
    """Load plain tensors and dicts only, so a stranger's file executes nothing. Raises InputError if it is not that."""
    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{str(file)!r} is not a file of plain weights: {first_line(error)}") from None
    if not isinstance(state, dict):
        raise InputError(f"{str(file)!r} is not a file of plain weights: it holds a {type(state).__name__}")
    return state


def load_pretrained(embedder, source):
    """Copy weights into `embedder` (in place) and return sentences on what was not used and what starts afresh.

    A checkpoint of ours gives its model and leaves its loss; a foreign state dict (torchvision's, say) is the backbone.
    Only the embedding layer and pooling may be missing. Raises InputError when the architecture is another.
    """
    file = weights_file(source)
    state = read_weights(file)
    unused = []
    if "model" in state and "facts" in state:
        _refuse_other_model(embedder, state, file)
        unused = [f"loss.{name}" for name in state["loss"]]
        state = _tensors(state["model"])
    else:
        state = {name.removeprefix("module."): value for name, value in _tensors(state).items()}
        if not any(name.startswith("backbone.") for name in state):
            state = {f"backbone.{name}": value for name, value in state.items()}
    own = embedder.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    counters = "num_batches_tracked"  # absent from files older than torch 0.4.1, and read by nothing here
    absent = [name for name in own if name not in fitting and not name.endswith(counters)]
    vital = [name for name in absent if name.startswith("backbone.")]
    if vital:
        got = tuple(state[vital[0]].shape) if vital[0] in state else "nothing"
        raise InputError(
            f"{str(file)!r} does not hold a {embedder.facts['model']}: {len(vital)} of its weights do not fit, first "
            f"{vital[0]!r}: expected {tuple(own[vital[0]].shape)}, got {got}"
        )
    try:
        embedder.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # tensors of a kind that cannot be copied
        raise InputError(f"{str(file)!r} is not a file of plain weights: {str(error).splitlines()[-1]}") from None
    unused += [name for name in state if name not in fitting]
    notes = [f"not used: {', '.join(unused)}"] if unused else []
    return notes + ([f"starts afresh: {', '.join(absent)}"] if absent else [])


def _tensors(state):
    return {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}


def _refuse_other_model(embedder, state, file):
    """Raise InputError unless a checkpoint of ours is one, and of the architecture of `embedder`."""
    kinds = {"facts": dict, "loss": dict, "model": dict}
    if any(not isinstance(state.get(name), kind) for name, kind in kinds.items()) or "model" not in state["facts"]:
        raise InputError(f"{str(file)!r} is not a whole checkpoint: {', '.join(kinds)} have to be in it")
    ours, theirs = embedder.facts["model"], state["facts"]["model"]
    if ours != theirs:
        raise InputError(f"{str(file)!r} holds a {theirs}, but the model is {ours}: give --model={theirs}")
