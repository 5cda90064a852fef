"""Hand-over: the weights of a run, a checkpoint or a plain state-dict file into an Embedder, with every gap named."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from core.errors import InputError
from core.files import first_line
from models.backbones import BACKBONES
from models.embedder import Embedder

COUNTERS = "num_batches_tracked"  # absent from files older than torch 0.4.1, and read by nothing here
CARD_KEY = "model_card"  # of a safetensors file's metadata: the flags of the network that the file is of, as JSON
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHOWN_NAMES = 3
MOST_NAMES = 12

State = dict[str, torch.Tensor]


def is_published(source: str | Path | None) -> bool:
    """Whether a --pretrained_model is a name of weights that some backbone has, such as imagenet, and no file."""
    return any(source in BACKBONES.fact(model, "weights") for model in BACKBONES)


def weights_file(source: str | Path, flag: str = "pretrained_model") -> Path:
    """The file behind --pretrained_model: `source` itself, or last.pt of a run folder. Raises InputError."""
    path = Path(source)
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file():
        if flag == "pretrained_model":
            kinds = "a run folder, a weights file or 'imagenet'"
        else:
            kinds = "a run's folder"
        raise InputError(f"{flag} {str(source)!r}: no file {str(file)!r} ({kinds})")
    return file


def read_weights(file: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Load plain tensors and dicts only, so a stranger's file executes nothing. Raises InputError if it is not that.

    mapped: the tensors stay on the disk until they are read, for who wants to know what else is in the file.
    """
    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise _no_weights(file, _why_not(error)) from None
    if not isinstance(state, dict):
        raise _no_weights(file, f"it holds a {type(state).__name__}")
    return state


def _no_weights(file: str | Path, why: str) -> InputError:
    return InputError(f"{str(file)!r} is not a file of plain weights: {why}")


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


def read_card(source: str | Path) -> dict[str, Any]:
    """What a weights file itself says of the network it is of, {flag: value}; nothing where it does not say.

    Our checkpoints hold the flags of their run, our safetensors a card, both the network's facts. A state dict of ours
    without any shows by its layer how wide that is.
    """
    file = weights_file(source)
    if file.suffix == ".safetensors":
        return _read_safetensors_card(file)
    try:
        state = read_weights(file, mapped=True)
    except InputError:  # of before torch 1.6, which cannot be mapped
        state = read_weights(file)
    card = {}
    config = state.get("config")
    if isinstance(config, dict) and isinstance(config.get("flags"), dict):
        card |= config["flags"]
    if isinstance(state.get("facts"), dict):
        card |= state["facts"]
    if card:
        return card
    return _card_of_tensors(_tensors(state))


def _read_safetensors_card(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            card = json.loads((opened.metadata() or {}).get(CARD_KEY, "{}"))
            if isinstance(card, dict) and card:
                return card
            names = opened.keys()
            if "head.weight" in names and _is_ours(names):
                return {"embedding_size": opened.get_slice("head.weight").get_shape()[0]}
            return {}
    except Exception as error:  # a stranger's file, in which anything may be wrong
        raise _no_weights(file, first_line(error)) from None


def _card_of_tensors(tensors: State) -> dict[str, Any]:
    """What a state dict of ours shows without being told: the width of its layer. Others call a classifier so."""
    head = tensors.get("head.weight")
    if head is not None and head.ndim == 2 and _is_ours(tensors):
        return {"embedding_size": len(head)}
    return {}


def _is_ours(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of an Embedder."""
    return any(name.startswith("backbone.") for name in names)


def load_pretrained(embedder: Embedder, source: str | Path, is_final: bool = False) -> list[str]:
    """Copy weights into `embedder` (in place) and return sentences on what was not used and what starts afresh.

    A checkpoint of ours gives its model and leaves its loss; a foreign state dict (torchvision's, say) is the backbone,
    also where it lies deeper in the file or has a prefix before its names. Only the embedding layer and pooling may be
    missing. is_final: nothing will be trained, so that a layer that no file fills, another pooling or another width
    than the file's are mistakes. Raises InputError for these, and when the architecture is another.
    """
    file = weights_file(source)
    content = read_weights(file)
    unused = []
    if "model" in content and "facts" in content:
        _refuse_other_model(embedder, content, file)
        notes = _other_facts(embedder.facts, content["facts"], file, is_final)
        unused += [f"loss.{name}" for name in content["loss"]]
        state = _tensors(content["model"])
    else:
        if file.suffix == ".safetensors":
            card = _read_safetensors_card(file)
        else:
            card = _card_of_tensors(_tensors(content))
        notes = _other_facts(embedder.facts, card, file, is_final)
        state, prefix = _under_our_names(embedder, _flat(content), file)
        if prefix not in ("", "module"):
            notes.append(f"its weights stand under {prefix!r}")

    # What the file has for each weight of ours, and what it has not.
    ours = embedder.state_dict()
    fitting = {name: value for name, value in state.items() if name in ours and value.shape == ours[name].shape}
    absent = [name for name in ours if name not in fitting and not name.endswith(COUNTERS)]
    _refuse_gaps_in_backbone(embedder, absent, state, file)
    if is_final:
        refuse_untrained(embedder, absent, f"{str(file)!r} does not hold it")
    try:
        embedder.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # tensors of a kind that cannot be copied
        raise _no_weights(file, str(error).splitlines()[-1]) from None

    unused += [name for name in state if name not in fitting]
    if unused:
        notes.append(f"not used: {_listed(unused)}")
    if absent:
        notes.append(f"starts afresh: {_listed(absent)}")
    return notes


def _refuse_other_model(embedder: Embedder, state: dict[str, Any], file: Path) -> None:
    """Raise InputError unless a checkpoint of ours is one, and of the architecture of `embedder`."""
    parts = ("facts", "loss", "model")
    if not all(isinstance(state.get(part), dict) for part in parts) or "model" not in state["facts"]:
        raise InputError(f"{str(file)!r} is not a whole checkpoint: {', '.join(parts)} have to be in it")
    ours = embedder.facts["model"]
    theirs = state["facts"]["model"]
    if ours != theirs:
        raise InputError(f"{str(file)!r} holds a {theirs}, but the model is {ours}: give --model={theirs}")


def _other_facts(ours: dict[str, Any], theirs: dict[str, Any], file: Path, is_final: bool) -> list[str]:
    """Sentences on the facts in which a checkpoint differs from what is asked for; with `is_final` InputError."""
    notes = []
    # Facts of ours that name no head are of this one; a plain state dict shows its width alone.
    ours = {"head": "linear", **ours}
    if "pooling" in theirs:
        theirs = {"head": "linear", **theirs}
    for name in ("pooling", "embedding_size", "head"):
        if name in theirs and theirs[name] != ours[name]:
            sentence = f"--{name} is {ours[name]}, but {str(file)!r} was trained with {theirs[name]}"
            if is_final:
                raise InputError(f"{sentence}: leave the flag out, or give {theirs[name]}")
            notes.append(f"note: {sentence}")
    return notes


def _refuse_gaps_in_backbone(embedder: Embedder, absent: list[str], state: State, file: Path) -> None:
    """Raise InputError where a weight of the backbone is among the `absent`: the file is of another network."""
    gaps = [name for name in absent if name.startswith("backbone.")]
    if not gaps:
        return
    first = gaps[0]
    if first in state:
        got = f"got {tuple(state[first].shape)}"
    else:
        got = f"got nothing; {_what_is_there(state)}"
    expected = tuple(embedder.state_dict()[first].shape)
    raise InputError(
        f"{str(file)!r} does not hold a {embedder.facts['model']}: {len(gaps)} of its weights do not fit, first "
        f"{first!r}: expected {expected}, {got}"
    )


def _what_is_there(state: State) -> str:
    """What names a file has, for whoever wonders why none of them fits."""
    names = [name.removeprefix("backbone.") for name in state]
    if not names:
        return "there is no tensor in it"
    text = f"there are {', '.join(repr(name) for name in names[:SHOWN_NAMES])}"
    if len(names) > SHOWN_NAMES:
        text += ", ..."
    return text


def refuse_untrained(embedder: Embedder, absent: list[str], why: str) -> None:
    """Raise InputError where the embedding layer is among the `absent` weights: what it gives would be chance."""
    if any(name.startswith(("head.", "behind.")) for name in absent):
        raise InputError(
            f"--embedding_size={embedder.embedding_size} asks for a {embedder.facts.get('head', 'linear')} layer that "
            f"nobody has trained: {why}; leave the flag out, or train the layer first"
        )


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        text += f" and {len(names) - MOST_NAMES} more"
    return text


def _tensors(state: dict[str, Any]) -> State:
    return {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}


def _flat(state: dict[str, Any], prefix: str = "") -> State:
    """All tensors of a dict and of the dicts in it, {dotted name: tensor}."""
    tensors = {}
    for name, value in state.items():
        if torch.is_tensor(value):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            tensors |= _flat(value, f"{prefix}{name}.")
    return tensors


def _under_our_names(embedder: Embedder, state: State, file: Path) -> tuple[State, str]:
    """The tensors of a foreign file under the names they have here, and the prefix they had there, without its dot.

    Raises InputError where several networks in the file would fit equally well.
    """
    prefix = _prefix_of_backbone(embedder, state, file)
    if prefix is None:
        # No network of these names is there as a whole; what fits is named as it seems meant, for the sentence to come.
        renamed = {name.removeprefix("module."): value for name, value in state.items()}
        if not _is_ours(renamed):
            renamed = {f"backbone.{name}": value for name, value in renamed.items()}
        return renamed, ""

    # A network of ours has its head and pooling beside the backbone: they are known by what stands before all three.
    if prefix.endswith("backbone."):
        prefix = prefix.removesuffix("backbone.")
        added = ""
    else:
        added = "backbone."
    renamed = {}
    for name, value in state.items():
        if name.startswith(prefix):
            renamed[f"{added}{name.removeprefix(prefix)}"] = value
    # What lies elsewhere in the file keeps its name, to be said to be unused.
    for name, value in state.items():
        if not name.startswith(prefix):
            renamed[name] = value
    return renamed, prefix.rstrip(".")


def _prefix_of_backbone(embedder: Embedder, state: State, file: Path) -> str | None:
    """What stands before the backbone's names in `state`, "" if nothing; None where they are not all there."""
    backbone = [name for name in embedder.backbone.state_dict() if not name.endswith(COUNTERS)]
    first = backbone[0]
    prefixes = {name.removesuffix(first) for name in state if f".{name}".endswith(f".{first}")}
    whole = [prefix for prefix in sorted(prefixes) if all(f"{prefix}{name}" in state for name in backbone)]
    if len(whole) > 1:
        networks = ", ".join(repr(prefix.rstrip(".")) for prefix in whole)
        raise InputError(
            f"{str(file)!r} holds {len(whole)} networks that fit, {networks}: save the state dict of the one that is "
            "meant"
        )
    if not whole:
        return None
    return whole[0]
