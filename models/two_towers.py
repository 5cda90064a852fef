"""Networks of several modalities with embeddings in one space: a folder names them, a module asks the right one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import InputError
from core.files import read_json, replace_json
from models.backbones import MODALITIES
from models.build import ModelSettings
from models.trained import TOWERS as CARD
from models.trained import read_settings

FORMAT = 1  # of CARD: {"towers": {modality: flags of a model}}


@dataclass(frozen=True)
class TowerSettings:
    """The settings of each tower, {modality: ModelSettings}, as they stand in `folder`."""

    folder: str
    towers: dict[str, ModelSettings]

    @property
    def pretrained_model(self) -> str:
        return self.folder

    def as_flags(self) -> dict[str, object]:
        """What result.json says the figures are of."""
        flags = {}
        for modality, settings in self.towers.items():
            flags[modality] = {**settings.as_flags(), "pretrained_model": settings.pretrained_model}
        return {"towers": flags}


def read_towers(folder: str | Path | None) -> TowerSettings | None:
    """The towers of a folder; None where it is none of such. Raises InputError for what is wrong in its towers.json."""
    if not is_of_towers(folder):
        return None
    file = Path(folder) / CARD
    card = read_json(file)
    flags = card.get("towers") if isinstance(card, dict) else None
    if not isinstance(flags, dict) or len(flags) < 2 or not all(isinstance(tower, dict) for tower in flags.values()):
        raise InputError(f"{str(file)!r} does not name two towers or more, as recipes/join_towers.py does")
    towers = {}
    for modality, tower in flags.items():
        source = tower.get("pretrained_model")
        if modality not in MODALITIES or not isinstance(source, str) or not tower.get("model"):
            raise InputError(
                f"{str(file)!r}: the tower {modality!r} has no model, no pretrained_model or a new modality"
            )
        # A folder beside the file; the name of published weights has none.
        if os.path.exists(file.parent / source):
            source = str(file.parent / source)
        settings = ModelSettings(**read_settings(tower, file), pretrained_model=source)
        if settings.modality != modality:
            raise InputError(
                f"{str(file)!r}: the tower {modality!r} is a {settings.model}, which takes {settings.modality}s"
            )
        towers[modality] = settings
    return TowerSettings(str(folder), towers)


def is_of_towers(folder: str | Path | None) -> bool:
    """Whether a --pretrained_model is a folder of several towers."""
    return bool(folder) and (Path(folder) / CARD).is_file()


def write_towers(folder: str | Path, towers: dict[str, ModelSettings]) -> None:
    """Write a folder's towers.json; sources that are files or folders stand there as seen from it."""
    flags: dict[str, Any] = {}
    for modality, settings in towers.items():
        source = settings.pretrained_model
        if os.path.exists(source):
            source = os.path.relpath(source, folder)
        flags[modality] = {**settings.as_flags(), "pretrained_model": source}
    replace_json(Path(folder) / CARD, {"format": FORMAT, "towers": flags})


class TwoTowers(nn.Module):
    """Inputs of one modality at a time to embeddings (B, embedding_size), by the network for it.

    towers: {modality: network}. Raises InputError where their embeddings are not of one width.
    """

    def __init__(self, towers: dict[str, nn.Module]) -> None:
        super().__init__()
        widths = {modality: network.embedding_size for modality, network in towers.items()}
        if len(set(widths.values())) > 1:
            words = ", ".join(f"{modality} {width}" for modality, width in widths.items())
            raise InputError(f"towers of one space have embeddings of one width, but these are {words} numbers wide")
        self.towers = nn.ModuleDict(towers)
        self.embedding_size = next(iter(widths.values()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as one of the towers takes them (Embedder.forward)."""
        return self.towers[modality_of_input(inputs)](inputs)


def modality_of_input(inputs: torch.Tensor) -> str:
    """What a batch is of: numbers of tokens (B, N), waves (B, N), else images (B, 3, H, W)."""
    if inputs.ndim == 2 and inputs.is_floating_point():
        return "audio"
    if inputs.ndim == 2:
        return "text"
    return "image"
