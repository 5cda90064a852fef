"""Hand-over: the weights of a run, a checkpoint or a plain state-dict file into an Embedder, with every gap named."""

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from core.errors import InputError
from core.files import first_line

COUNTERS = "num_batches_tracked"  # absent from files older than torch 0.4.1, and read by nothing here
CARD_KEY = "model_card"  # of a safetensors file's metadata: the flags of the network that the file is of, as JSON
SHOWN_NAMES, MOST_NAMES = 3, 12


def weights_file(source, flag="pretrained_model"):
    """The file behind --pretrained_model: `source` itself, or last.pt of a run folder. Raises InputError."""
    path = Path(source)
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file():
        kinds = "a run folder, a weights file or 'imagenet'" if flag == "pretrained_model" else "a run's folder"
        raise InputError(f"{flag} {str(source)!r}: no file {str(file)!r} ({kinds})")
    return file


def read_weights(file, mapped=False):
    """Load plain tensors and dicts only, so a stranger's file executes nothing. Raises InputError if it is not that.

    mapped: the tensors stay on the disk until they are read, for who wants to know what else is in the file.
    """
    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise InputError(f"{str(file)!r} is not a file of plain weights: {_why_not(error)}") from None
    if not isinstance(state, dict):
        raise InputError(f"{str(file)!r} is not a file of plain weights: it holds a {type(state).__name__}")
    return state


def _why_not(error):
    """What torch says of a file that it does not load, on one line and without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    strange = re.search(r"(?:GLOBAL|global) `?([\w.]+)`? (?:was not an allowed|not allowed)", text)
    if strange or "Unsupported" in text or "WeightsUnpickler" in text:
        what = f"a pickled {strange[1]}" if strange else "pickled objects"
        return f"it holds {what}, which only running its code would open; save the model's state_dict() alone"
    return first_line(re.sub(r"\x1b\[[0-9;]*m", "", first_line(error)))


def read_card(source):
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
    flags = state["config"].get("flags") if isinstance(state.get("config"), dict) else None
    facts = state.get("facts")
    card = {**(flags if isinstance(flags, dict) else {}), **(facts if isinstance(facts, dict) else {})}
    return card or _card_of_tensors(_tensors(state))


def _read_safetensors_card(file):
    try:
        with safe_open(file, framework="pt") as opened:
            card = json.loads((opened.metadata() or {}).get(CARD_KEY, "{}"))
            if isinstance(card, dict) and card:
                return card
            ours = any(name.startswith("backbone.") for name in opened.keys()) and "head.weight" in opened.keys()
            return {"embedding_size": opened.get_slice("head.weight").get_shape()[0]} if ours else {}
    except Exception as error:  # a stranger's file
        raise InputError(f"{str(file)!r} is not a file of plain weights: {first_line(error)}") from None


def _card_of_tensors(tensors):
    """What a state dict of ours shows without being told: the width of its layer. Others call a classifier so."""
    head = tensors.get("head.weight")
    is_ours = any(name.startswith("backbone.") for name in tensors)
    return {"embedding_size": len(head)} if is_ours and head is not None and head.ndim == 2 else {}


def load_pretrained(embedder, source, is_final=False):
    """Copy weights into `embedder` (in place) and return sentences on what was not used and what starts afresh.

    A checkpoint of ours gives its model and leaves its loss; a foreign state dict (torchvision's, say) is the backbone,
    also where it lies deeper in the file or has a prefix before its names. Only the embedding layer and pooling may be
    missing. is_final: nothing will be trained, so that a layer that no file fills, another pooling or another width
    than the file's are mistakes. Raises InputError for these, and when the architecture is another.
    """
    file = weights_file(source)
    state = read_weights(file)
    unused, notes = [], []
    if "model" in state and "facts" in state:
        _refuse_other_model(embedder, state, file)
        notes += _other_facts(embedder.facts, state["facts"], file, is_final)
        unused = [f"loss.{name}" for name in state["loss"]]
        state = _tensors(state["model"])
    else:
        is_safe = file.suffix == ".safetensors"
        theirs = _read_safetensors_card(file) if is_safe else _card_of_tensors(_tensors(state))
        notes += _other_facts(embedder.facts, theirs, file, is_final)
        state, note = _find_backbone(embedder, _flat(state), file)
        notes += [note] if note else []
    own = embedder.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    absent = [name for name in own if name not in fitting and not name.endswith(COUNTERS)]
    vital = [name for name in absent if name.startswith("backbone.")]
    if vital:
        got = f"got {tuple(state[vital[0]].shape)}" if vital[0] in state else f"got nothing; {_what_is_there(state)}"
        raise InputError(
            f"{str(file)!r} does not hold a {embedder.facts['model']}: {len(vital)} of its weights do not fit, first "
            f"{vital[0]!r}: expected {tuple(own[vital[0]].shape)}, {got}"
        )
    if is_final:
        refuse_untrained(embedder, absent, f"{str(file)!r} does not hold it")
    try:
        embedder.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # tensors of a kind that cannot be copied
        raise InputError(f"{str(file)!r} is not a file of plain weights: {str(error).splitlines()[-1]}") from None
    unused += [name for name in state if name not in fitting]
    notes += [f"not used: {_listed(unused)}"] if unused else []
    return notes + ([f"starts afresh: {_listed(absent)}"] if absent else [])


def _listed(names):
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def refuse_untrained(embedder, absent, why):
    """Raise InputError where the embedding layer is among the `absent` weights: what it gives would be chance."""
    if any(name.startswith("head.") for name in absent):
        size = embedder.embedding_size
        raise InputError(
            f"--embedding_size={size} asks for a linear layer that nobody has trained: {why}; leave the flag out, or "
            "train the layer first"
        )


def _tensors(state):
    return {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}


def _flat(state, before=""):
    """All tensors of a dict and of the dicts in it, {dotted name: tensor}."""
    found = {}
    for name, value in state.items():
        if torch.is_tensor(value):
            found[f"{before}{name}"] = value
        elif isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
    return found


def _find_backbone(embedder, state, file):
    """(the tensors of a foreign file under our names, a sentence on where they were, or None).

    Raises InputError where several parts of the file would fit equally well.
    """
    backbone = [name for name in embedder.backbone.state_dict() if not name.endswith(COUNTERS)]
    prefixes = sorted({name[: -len(backbone[0])] for name in state if f".{name}".endswith(f".{backbone[0]}")})
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in state for name in backbone)]
    if len(whole) > 1:
        parts = ", ".join(repr(prefix.rstrip(".")) for prefix in whole)
        raise InputError(
            f"{str(file)!r} holds {len(whole)} networks that fit, {parts}: save the state dict of the one that is meant"
        )
    if not whole:
        ours = {name.removeprefix("module."): value for name, value in state.items()}
        if not any(name.startswith("backbone.") for name in ours):
            ours = {f"backbone.{name}": value for name, value in ours.items()}
        return ours, None
    prefix = whole[0]
    outer = prefix.removesuffix("backbone.")  # our own head and pooling stand beside our backbone
    if prefix.endswith("backbone."):
        ours = {name.removeprefix(outer): value for name, value in state.items() if name.startswith(outer)}
        others = [name for name in state if not name.startswith(outer)]
    else:
        ours = {
            f"backbone.{name.removeprefix(prefix)}": value for name, value in state.items() if name.startswith(prefix)
        }
        others = [name for name in state if not name.startswith(prefix)]
    ours |= {name: state[name] for name in others}
    shown = outer if prefix.endswith("backbone.") else prefix
    return ours, f"its weights stand under {shown.rstrip('.')!r}" if shown.strip(".") not in ("", "module") else None


def _what_is_there(state):
    """What names a file has, for whoever wonders why none of them fits."""
    names = [name.removeprefix("backbone.") for name in state]
    shown = ", ".join(map(repr, names[:SHOWN_NAMES]))
    return f"there are {shown}{', ...' * (len(names) > SHOWN_NAMES)}" if names else "there is no tensor in it"


def _other_facts(ours, theirs, file, is_final):
    """Sentences on the facts in which a checkpoint differs from what is asked for; with `is_final` InputError."""
    differ = [name for name in ("pooling", "embedding_size") if name in theirs and theirs[name] != ours[name]]
    sentences = [f"--{name} is {ours[name]}, but {str(file)!r} was trained with {theirs[name]}" for name in differ]
    if sentences and is_final:
        raise InputError(f"{sentences[0]}: leave the flag out, or give {theirs[differ[0]]}")
    return [f"note: {sentence}" for sentence in sentences]


def _refuse_other_model(embedder, state, file):
    """Raise InputError unless a checkpoint of ours is one, and of the architecture of `embedder`."""
    kinds = {"facts": dict, "loss": dict, "model": dict}
    if any(not isinstance(state.get(name), kind) for name, kind in kinds.items()) or "model" not in state["facts"]:
        raise InputError(f"{str(file)!r} is not a whole checkpoint: {', '.join(kinds)} have to be in it")
    ours, theirs = embedder.facts["model"], state["facts"]["model"]
    if ours != theirs:
        raise InputError(f"{str(file)!r} holds a {theirs}, but the model is {ours}: give --model={theirs}")
