"""The model alone, for other programs: safetensors beside a JSON card, which executes nothing anywhere."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from core.files import replace_json, replacing_synced
from models.backbones import BACKBONES
from models.embedder import Embedder
from models.export.exported import CARD, WEIGHTS
from models.weights import CARD_KEY


def licence_of(model: str) -> str:
    """What a card says of the licence of a network: that of its weights is the row's, where that names one."""
    licence = BACKBONES.fact(model, "licence")
    named = f" ({model}'s: {licence})" if licence else ""
    return f"that of the data (of the embedded data set: data/README.md) and of the weights it started from{named}"


def export_model(embedder: Embedder, folder: str | Path, card: dict[str, Any]) -> None:
    """Write model.safetensors (the state dict, contiguous) and model.json: `card`, what the network is, its licence.

    card: has the run's flags, which the weights file holds, too: alone it still says what it is of.
    Raises OSError where the disk refuses; what was there before is whole then.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in embedder.state_dict().items()}
    metadata = {"format": "pt", CARD_KEY: json.dumps({**card["flags"], **embedder.facts})}
    with replacing_synced(Path(folder, WEIGHTS)) as file:
        file.write(save(tensors, metadata=metadata))
    licence = licence_of(embedder.facts["model"])
    replace_json(Path(folder, CARD), {"model": embedder.facts, "weights": WEIGHTS, "licence": licence, **card})
