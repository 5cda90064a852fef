"""Hand-over: the weights of a run, a checkpoint or a plain state-dict file into an Embedder, with every gap named."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from core.errors import InputError
from core.files import first_line
from core.sources import is_weights_name
from core.text import counted
from models.backbones import BACKBONES, PUBLISHED, source_of
from models.embedder import Embedder
from models.heads import longer_head
from models.plain_weights import (
    COUNTERS,
    State,
    converted,
    flat_tensors,
    inner_of,
    no_weights,
    read_weights,
    tensors_of,
    weights_of,
    whole_prefixes,
)

PAIR_SCORER = "pair_scorer"  # in the facts of a network that compares two inputs: its name (models/pair_scorer/)
CARD_KEY = "model_card"  # of a safetensors file's metadata: the flags of the network that the file is of, as JSON
EXPORTED = ("model.safetensors", "pytorch_model.bin")
SHOWN_NAMES = 3
MOST_NAMES = 12


def is_published(source: str | Path | None, model: str | None = None) -> bool:
    """Whether a --pretrained_model is a name of weights, such as imagenet, and no file.

    model: of which backbone; None: of any that has a row. Where a file or a folder is called so, it is meant.
    """
    if source == PUBLISHED or is_weights_name(source):
        return True
    if model is None or source_of(model) is None or not source or Path(source).exists():
        return False
    return source in BACKBONES.fact(model, "weights")


def weights_file(source: str | Path, flag: str = "pretrained_model") -> Path:
    """The file behind --pretrained_model: `source` itself, or that of a folder. Raises InputError.

    Of a run's folder last.pt; of one that was written for others, by us or HuggingFace's packages, its weights.
    """
    path = Path(source)
    file = path / "last.pt" if path.is_dir() else path
    if path.is_dir() and not file.is_file() and flag == "pretrained_model":
        file = next((path / name for name in EXPORTED if (path / name).is_file()), file)
    if not file.is_file():
        if flag == "pretrained_model":
            kinds = "a run folder, a weights file or 'imagenet'"
        else:
            kinds = "a run's folder"
        raise InputError(f"{flag} {str(source)!r}: no file {str(file)!r} ({kinds})")
    return file


def is_of_transformers(folder: str | Path) -> bool:
    """Whether HuggingFace's transformers wrote a folder."""
    return "model_type" in _config_of(folder)


def is_of_timm(folder: str | Path) -> bool:
    """Whether timm wrote a folder for the hub."""
    return "pretrained_cfg" in _config_of(folder)


def _of_transformers(folder: Path) -> State:
    """The weights of a folder as its backbone has them; in its file they may have the names of older versions."""
    name = f"hf:{folder}"
    backbone = BACKBONES[name](name).build(PUBLISHED)
    return {f"backbone.{own}": value for own, value in backbone.state_dict().items()}


def _config_of(folder: str | Path) -> dict[str, Any]:
    """The entries of a folder's config.json; none where there is none that can be read."""
    try:
        content = json.loads(Path(folder, "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
    return _card_of_tensors(tensors_of(state))


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
        raise no_weights(file, first_line(error)) from None


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
    if file.name in EXPORTED and is_of_transformers(file.parent):
        content = _of_transformers(file.parent)
    else:
        content = read_weights(file)
    unused = []
    if "model" in content and "facts" in content:
        _refuse_other_model(embedder, content, file)
        notes = _other_facts(embedder.facts, content["facts"], file, is_final)
        # What is used as it is has no use for any loss.
        if not is_final:
            unused += [f"loss.{name}" for name in content["loss"]]
        state = tensors_of(content["model"])
    else:
        if content.keys() and file.suffix == ".safetensors" and not is_of_transformers(file.parent):
            card = _read_safetensors_card(file)
        else:
            card = _card_of_tensors(tensors_of(content))
        notes = _other_facts(embedder.facts, card, file, is_final)
        state, prefix = _under_our_names(embedder, flat_tensors(content), file)
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
        raise no_weights(file, str(error).splitlines()[-1]) from None

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
    if PAIR_SCORER in state["facts"]:
        raise InputError(
            f"{str(file)!r} holds a pair scorer of train_reranker.py, which compares two images and embeds none; it is "
            "for eval.py --postprocess=pairwise --pairwise_model"
        )
    ours = embedder.facts["model"]
    theirs = state["facts"]["model"]
    if ours != theirs:
        raise InputError(f"{str(file)!r} holds a {theirs}, but the model is {ours}: give --model={theirs}")


def _other_facts(ours: dict[str, Any], theirs: dict[str, Any], file: Path, is_final: bool) -> list[str]:
    """Sentences on the facts in which a checkpoint differs from what is asked for; with `is_final` InputError."""
    notes = []
    # Facts of ours that name no head are of this one; a plain state dict shows its width alone.
    ours = {"head": "linear", **ours}
    if "pixels" in theirs and theirs["pixels"] != ours.get("pixels", theirs["pixels"]):
        raise InputError(
            f"{str(file)!r} was trained on pixels less {_of_pixels(theirs)}, but {ours['model']} takes "
            f"{_of_pixels(ours)} now: its package, or its folder, says otherwise than it did"
        )
    if "pooling" in theirs:
        theirs = {"head": "linear", **theirs}
    compared = ["pooling", "embedding_size", "head"]
    if _is_cut(ours, theirs):
        compared = ["pooling"]
    for name in compared:
        if name in theirs and theirs[name] != ours[name]:
            sentence = f"--{name} is {ours[name]}, but {str(file)!r} was trained with {theirs[name]}"
            if is_final:
                raise InputError(f"{sentence}: leave the flag out, or give {theirs[name]}")
            notes.append(f"note: {sentence}")
    return notes


def _is_cut(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether what is asked for is what was trained with a layer `first` behind it, which has no weights."""
    if not {"head", "embedding_size"} <= theirs.keys():
        return False
    has_layer = theirs["head"] != "linear" or theirs["embedding_size"] > 0
    return ours["head"] == longer_head(theirs["head"], has_layer, theirs["embedding_size"], "first")


def _of_pixels(facts: dict[str, Any]) -> str:
    """A network's mean and deviation of pixels, in words."""
    pixels = facts["pixels"]
    return f"{pixels['mean']} over {pixels['std']}"


def _refuse_gaps_in_backbone(embedder: Embedder, absent: list[str], state: State, file: Path) -> None:
    """Raise InputError where a weight of the backbone is among the `absent`: the file is of another network."""
    gaps = [name for name in absent if name.startswith("backbone.")]
    if not gaps:
        return
    first = gaps[0]
    if first in state:
        got = f"got {tuple(state[first].shape)}"
    else:
        got = f"got nothing; {_what_is_there(embedder, state)}"
    expected = tuple(embedder.state_dict()[first].shape)
    raise InputError(
        f"{str(file)!r} does not hold a {embedder.facts['model']}: {len(gaps)} of its weights do not fit, first "
        f"{first!r}: expected {expected}, {got}"
    )


def _what_is_there(embedder: Embedder, state: State) -> str:
    """What names a file has, for whoever wonders why none of them fits."""
    inner = inner_of(embedder.backbone)
    names = [name.removeprefix("backbone.").removeprefix(inner) for name in state]
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


def _under_our_names(embedder: Embedder, state: State, file: Path) -> tuple[State, str]:
    """The tensors of a foreign file under the names they have here, and the prefix they had there, without its dot.

    Raises InputError where several networks in the file would fit equally well.
    """
    within = f"backbone.{inner_of(embedder.backbone)}"
    prefix = _prefix_of_backbone(embedder, state, file)
    if prefix is None or not _has_shapes(embedder, state, prefix):
        as_others = converted(embedder.backbone, state)
        if as_others is not None:
            tensors, prefix = as_others
            return {within + name: value for name, value in tensors.items()}, prefix.rstrip(".")
    if prefix is None:
        # No network of these names is there as a whole; what fits is named as it seems meant, for the sentence to come.
        renamed = {name.removeprefix("module."): value for name, value in state.items()}
        if not _is_ours(renamed):
            renamed = {within + name: value for name, value in renamed.items()}
        return renamed, ""

    # A network of ours has its head and pooling beside the backbone: they are known by what stands before all three.
    if prefix.endswith(within):
        prefix = prefix.removesuffix(within)
        added = ""
    else:
        added = within
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
    whole = whole_prefixes(embedder.backbone, state)
    if len(whole) > 1:
        networks = ", ".join(repr(prefix.rstrip(".")) for prefix in whole)
        raise InputError(
            f"{str(file)!r} holds {counted(len(whole), 'network')} that fit, {networks}: save the state dict of the "
            "one that is meant"
        )
    if not whole:
        return None
    return whole[0]


def _has_shapes(embedder: Embedder, state: State, prefix: str) -> bool:
    return all(state[prefix + name].shape == value.shape for name, value in weights_of(embedder.backbone).items())
