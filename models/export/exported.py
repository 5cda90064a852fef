"""A folder that an export wrote, or the hub's copy of one, read again: a card and plain weights, nothing to execute."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from core.errors import InputError, first_line
from core.files import read_json
from models.export.hub import fetched

WEIGHTS = "model.safetensors"
CARD = "model.json"


def exported_folder(source: str | Path) -> Path:
    """The folder that holds an exported network: `source` itself, or the hub's model of this name, downloaded.

    Raises InputError where there is neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    return fetched(str(source), (CARD, WEIGHTS))


def read_exported_card(folder: Path) -> dict[str, Any]:
    """The card of an exported network: `model` is what an Embedder is made of. Raises InputError without one."""
    file = folder / CARD
    try:
        card = read_json(file)
    except FileNotFoundError:
        raise InputError(
            f"no file {str(file)!r}: an exported network has {CARD} and {WEIGHTS} "
            "(python infer.py --pretrained_model=RUN --export=safetensors)"
        ) from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise InputError(f"{str(file)!r} is no card of an exported network: it does not say what `model` is")
    return card


def fill_from(folder: Path, network: nn.Module) -> None:
    """Copy the weights of an exported folder into a network, all of them. Raises InputError where they do not fit."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"no file {str(file)!r}, which would hold the weights")
    try:
        network.load_state_dict(load_file(file))
    except Exception as error:  # a stranger's file, in which anything may be wrong
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{str(file)!r} does not fit its card: {lines[-1] if lines else first_line(error)}") from None
