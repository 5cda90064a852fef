"""Images and words of single requests to embeddings, without a list and its loader."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from core.console import log
from core.errors import InputError
from data.loader import open_test_modality
from embeddings.encoder import Encoder, open_encoder
from models import ModelSettings

MOST_EMBEDDED = 16  # requests that are embedded at a time


class LiveEncoder(Protocol):
    """Whoever embeds for a server; `takes`: of image and text, what it can embed; `fingerprint`: of its model."""

    takes: frozenset[str]
    fingerprint: dict | None

    def prepare(self, kind: str, sample: np.ndarray | str) -> torch.Tensor:
        """What the network takes of an image (H, W, 3) uint8 RGB, or of a text. Called by several threads."""

    def embed(self, kind: str, inputs: Sequence[torch.Tensor]) -> np.ndarray:
        """Embeddings (n, D) float32 of what `prepare` gave. Called by one thread."""


class NetworkEncoder:
    """The network of an Encoder as a LiveEncoder."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._modalities = {kind: open_test_modality(tower) for kind, tower in encoder.settings.towers.items()}
        self.takes = frozenset(self._modalities)
        self.fingerprint = encoder.fingerprint
        encoder.network.eval()

    def prepare(self, kind: str, sample: np.ndarray | str) -> torch.Tensor:
        # Nothing of a test is drawn at random, so that any seed will do.
        return self._modalities[kind].augment(sample, 0)

    @torch.inference_mode()
    def embed(self, kind: str, inputs: Sequence[torch.Tensor]) -> np.ndarray:
        batch = self._modalities[kind].collate(list(inputs)).to(self._encoder.device)
        return self._encoder.network(batch).float().cpu().numpy()


def open_live_encoder(settings: ModelSettings, device: torch.device, precision: str, runtime: str) -> NetworkEncoder:
    """The network of a model's settings; with the one for words where it has one in the same space.

    Raises InputError as `open_encoder`.
    """
    open_parts = (settings, device, precision, runtime, 0)
    try:
        encoder = open_encoder(*open_parts, modalities=("image", "text"), batch_size=MOST_EMBEDDED)
    except InputError as error:
        # What is wrong with the network for images comes out again.
        encoder = open_encoder(*open_parts, modalities=("image",), batch_size=MOST_EMBEDDED)
        log(f"note: nothing can be found by words: {error}")
    return NetworkEncoder(encoder)
