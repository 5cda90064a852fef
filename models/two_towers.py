"""Networks of several modalities with embeddings in one space: a folder names them, a module asks the right one."""

import os
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn

from core.console import log
from core.errors import InputError
from core.files import make_folder, read_json, replace_json
from core.pairs import ImageTextBatch
from models.backbones import BACKBONES, MODALITIES, PUBLISHED
from models.build import MODEL_FLAGS, ModelSettings, build_model
from models.export.safetensors import export_model
from models.trained import TOWERS as CARD
from models.trained import read_settings, trained_settings
from models.weights import is_of_transformers, is_published

FORMAT = 1  # of CARD: {"towers": {modality: flags of a model}}


@dataclass(frozen=True)
class TowerSettings:
    """The settings of each tower, {modality: ModelSettings}, as they stand in the folder `pretrained_model`, or as they
    belong to a model of that name. frozen: the one that does not learn, where they are trained."""

    pretrained_model: str | None
    towers: dict[str, ModelSettings]
    frozen: str | None = None

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


def with_text_tower(settings: ModelSettings) -> TowerSettings | None:
    """The towers of a model for images that shares its space with texts; None where texts are not known to have any.

    Weights that are published, or in a file of both towers, are those of texts, too. Beside a run, which has the
    images' network alone, texts are embedded as published, which is said. Raises InputError where there are no weights
    for texts, and where the run's embeddings are of another width.
    """
    if settings.modality != "image":
        return None
    source = settings.pretrained_model
    model = settings.model
    # A folder of transformers holds both networks, whatever else has the shape of its name.
    holds_both = bool(source) and is_of_transformers(source)
    if holds_both:
        model = f"hf:{source}"
    name = BACKBONES[model](model).texts
    if name is None:
        return None
    if holds_both or is_published(source, model):
        texts = PUBLISHED
    elif source and trained_settings(source):
        texts = _texts_beside_a_run(name, settings)
    else:
        texts = source
    return TowerSettings(source, {"image": settings, "text": ModelSettings(model=name, pretrained_model=texts)})


def _texts_beside_a_run(name: str, settings: ModelSettings) -> str:
    """The weights of the network `name` for texts, where those for images were trained further."""
    source = settings.pretrained_model
    row = BACKBONES[name](name)
    width = settings.embedding_size or row.width
    if width != row.width:
        raise InputError(
            f"{source} embeds images as {width} numbers and {name} texts as {row.width}: they share no space any more, "
            "and only images can be found by images"
        )
    if not row.weights:
        raise InputError(f"{source} holds no network for texts, and {name} names no weights of one")
    log(f"note: texts are embedded by {name} as published; {source} may have moved images away from them since")
    return PUBLISHED


def is_of_towers(folder: str | Path | None) -> bool:
    """Whether a --pretrained_model is a folder of several towers."""
    return bool(folder) and (Path(folder) / CARD).is_file()


GEOMETRY = ("image_shape", "resize_short_size", "resize_filter", "resize_mode", "test_scales")


def settings_to_train(
    settings: ModelSettings,
    typed: Container[str],
    *,
    text_model: str | None = None,
    freeze_tower: Literal["none", "image", "text"] = "none",
) -> TowerSettings:
    """The two networks that learn from pairs: those of a folder; or a network for images with the one for texts that
    shares its space, or that `text_model` names.

    Options:
        text_model: the network for texts beside --model, with its published weights or from a run's folder; of
            --loss_name=clip
        freeze_tower: which of both is left as it is: one of none, image, text

    settings: of the flags, of which `typed` were given. Width, head and lora are of both networks, but for one that is
    frozen. Raises InputError where there is no second network, and for flags that a folder's own contradict.
    """
    several = read_towers(settings.pretrained_model)
    frozen = None if freeze_tower == "none" else freeze_tower
    if several is not None:
        if text_model:
            raise InputError(f"--text_model={text_model}: {settings.pretrained_model} has a network for texts already")
        return replace(several, towers=_as_typed(several, settings, typed, frozen), frozen=frozen)
    several = _text_beside(settings, text_model) if text_model else with_text_tower(settings)
    if several is None:
        raise InputError(
            "--loss_name=clip trains a network for images with one for texts: give both by a folder of towers as "
            "--pretrained_model, by --model=clip:NAME/WEIGHTS, or name the other one by --text_model"
        )
    towers = dict(several.towers)
    for modality in towers:
        tower = towers[modality]
        if modality == frozen:
            # The width that is asked for is the other network's, which comes to this one.
            towers[modality] = replace(tower, embedding_size=0, head="linear", lora=0)
            if tower.pretrained_model and trained_settings(tower.pretrained_model, tower.model):
                towers[modality] = tower.of_source()
        elif modality == "text" and not trained_settings(tower.pretrained_model, tower.model):
            towers[modality] = replace(
                tower, embedding_size=settings.embedding_size, head=settings.head, lora=settings.lora
            )
    return TowerSettings(settings.pretrained_model, towers, frozen)


def _as_typed(
    several: TowerSettings, settings: ModelSettings, typed: Container[str], frozen: str | None
) -> dict[str, ModelSettings]:
    """The towers of a folder with what of the flags may be another for them. Raises InputError for what may not."""
    towers = dict(several.towers)
    usual = ModelSettings()
    for name in MODEL_FLAGS:
        value = getattr(settings, name)
        if name not in typed or value == getattr(usual, name):
            continue
        if name in GEOMETRY:
            towers["image"] = replace(towers["image"], **{name: value})
        elif name == "lora":
            for modality in towers.keys() - {frozen}:
                towers[modality] = replace(towers[modality], lora=value)
        elif any(getattr(tower, name) != value for tower in towers.values()):
            raise InputError(f"--{name}={value} says nothing of two networks; those of {several.pretrained_model} stay")
    return towers


def _text_beside(settings: ModelSettings, text_model: str) -> TowerSettings:
    """The towers of a network for images and of the one for texts that a flag names."""
    if settings.modality != "image":
        raise InputError(f"--text_model goes with a network for images; {settings.model} takes {settings.modality}s")
    if Path(text_model).exists():
        texts = ModelSettings(**trained_settings(text_model), pretrained_model=text_model)
    else:
        published = BACKBONES.fact(text_model, "weights")
        texts = ModelSettings(model=text_model, pretrained_model=PUBLISHED if PUBLISHED in published else None)
    if texts.modality != "text":
        raise InputError(f"--text_model={text_model} takes {texts.modality}s")
    return TowerSettings(settings.pretrained_model, {"image": settings, "text": texts})


def build_towers(settings: TowerSettings, with_first_weights: bool, **build: bool | int) -> "TwoTowers":
    """The networks to train, on the CPU, drawn from torch's generator; build: keywords of `build_model`.

    with_first_weights: False where all weights come from a checkpoint. Raises InputError as `build_model` does, and
    where embeddings are not of one width.
    """
    networks = {}
    for modality, tower in settings.towers.items():
        networks[modality] = build_model(tower, tower.pretrained_model if with_first_weights else None, **build)
    return TwoTowers(networks, settings.frozen)


def begin_towers(folder: str | Path, settings: TowerSettings) -> None:
    """Write towers.json of a run that begins: its towers will lie below the folder, under their modalities' names."""
    towers = {}
    for modality, tower in settings.towers.items():
        make_folder(Path(folder, modality))
        towers[modality] = replace(tower, pretrained_model=str(Path(folder, modality)))
    write_towers(folder, towers)


def export_towers(network: "TwoTowers", folder: str | Path, card: dict[str, Any]) -> None:
    """Write each network of a run where its towers.json says, as `export_model` does; card: of both."""
    towers = read_towers(folder).towers
    for modality, tower in network.towers.items():
        flags = {**card["flags"], **towers[modality].as_flags()}
        export_model(tower, Path(folder, modality), {**card, "flags": flags})


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
    """Inputs of one modality at a time to embeddings (B, embedding_size), by the network for it; or of pairs of both.

    towers: {modality: network}. frozen: the modality of the one that does not learn. Raises InputError where their
    embeddings are not of one width.
    """

    def __init__(self, towers: dict[str, nn.Module], frozen: str | None = None) -> None:
        super().__init__()
        widths = {modality: network.embedding_size for modality, network in towers.items()}
        if len(set(widths.values())) > 1:
            words = ", ".join(f"{modality} {width}" for modality, width in widths.items())
            raise InputError(f"towers of one space have embeddings of one width, but these are {words} numbers wide")
        self.towers = nn.ModuleDict(towers)
        self.embedding_size = next(iter(widths.values()))
        self.frozen = frozen
        if frozen is not None:
            self.towers[frozen].requires_grad_(False)

    def forward(self, inputs: torch.Tensor | ImageTextBatch) -> torch.Tensor:
        """Inputs as one of the towers takes them (Embedder.forward); P pairs to rows image, text, image, text, …"""
        if isinstance(inputs, ImageTextBatch):
            both = torch.stack([self.towers["image"](inputs.images), self.towers["text"](inputs.texts)], dim=1)
            return both.flatten(0, 1)
        return self.towers[modality_of_input(inputs)](inputs)

    @property
    def facts(self) -> dict[str, object]:
        """What the networks are, for files that hold their weights."""
        return {"towers": {modality: tower.facts for modality, tower in self.towers.items()}}

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Those of the deepest backbone."""
        return max((tower.stages for tower in self.towers.values()), key=len)

    def depth_of(self, weight: str) -> int:
        """The stage that a weight is in; the last stages of both networks are as deep as each other."""
        _, modality, name = weight.split(".", 2)
        tower = self.towers[modality]
        return len(self.stages) - len(tower.stages) + tower.depth_of(name)

    def hold_backbone(self) -> None:
        """As Embedder.hold_backbone, of all networks."""
        for tower in self.towers.values():
            tower.hold_backbone()

    def release_backbone(self) -> None:
        """As Embedder.release_backbone, of all networks."""
        for tower in self.towers.values():
            tower.release_backbone()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # BatchNorm's statistics would move, and dropout work, in what is to stay as it is.
        if self.frozen is not None:
            self.towers[self.frozen].eval()
        return self


def modality_of_input(inputs: torch.Tensor) -> str:
    """What a batch is of: numbers of tokens (B, N), waves (B, N), else images (B, 3, H, W)."""
    if inputs.ndim == 2 and inputs.is_floating_point():
        return "audio"
    if inputs.ndim == 2:
        return "text"
    return "image"
