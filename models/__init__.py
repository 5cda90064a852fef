"""The network from images to embeddings: built or opened by its settings (build.py), made of backbones/, pooling.py and
embedder.py, filled from files (weights.py), copied to be faster (fast.py), written for others (export/)."""

from models.backbones import BACKBONES
from models.build import ModelSettings, add_last_layer, build_model, check_forward, open_model
from models.embedder import Embedder
from models.fast import RUNTIMES, fast_model
from models.trained import trained_settings
from models.two_towers import (
    TowerSettings,
    TwoTowers,
    begin_towers,
    build_towers,
    export_towers,
    read_towers,
    settings_to_train,
    with_text_tower,
    write_towers,
)
from models.weights import load_pretrained

__all__ = [
    "BACKBONES",
    "RUNTIMES",
    "Embedder",
    "ModelSettings",
    "TowerSettings",
    "TwoTowers",
    "add_last_layer",
    "begin_towers",
    "build_model",
    "build_towers",
    "check_forward",
    "export_towers",
    "fast_model",
    "load_pretrained",
    "open_model",
    "read_towers",
    "settings_to_train",
    "trained_settings",
    "with_text_tower",
    "write_towers",
]
