"""The voice encoder that the package Resemblyzer carries: who speaks, and not what."""

import functools
import importlib.util
from pathlib import Path

import torch
from torch import nn

from core.errors import InputError
from models.backbones._row import BACKBONES, PUBLISHED, AudioInput, Backbone
from models.log_mel import Mel, clip_lengths, silent_padding
from models.plain_weights import fill

RATE, HOP, BANDS, WIDTH = 16_000, 160, 40, 256
FRAMES = 160  # of a window, 1.6 seconds
# From window to window in frames, and the share of the last one that has to be of the clip, as the package embeds.
STEP, LEAST_COVERED = 77, 0.75
LOUDNESS = 10 ** (-30 / 20)  # root mean square to which softer clips are raised
INSTALL = "pip install --no-deps Resemblyzer"
open_mel = functools.partial(
    Mel, RATE, size=400, width=400, hop=HOP, bands=BANDS, scale="slaney", is_even=True, floor=None
)


@BACKBONES.register(
    "Resemblyzer",
    modality="audio",
    output="vector",
    weights=("published",),
    width=256,
    parameters=1_423_616,
    licence="Apache-2.0",
    origin="package Resemblyzer",
)
def resemblyzer(name: str) -> Backbone:
    """Three LSTMs over mel spectrograms (arXiv 1710.10467), trained to tell 18,000 speakers apart."""
    return Backbone(build_resemblyzer, WIDTH, (("lstm",), ("linear",)), AudioInput(RATE, open_front=VoiceFront))


def build_resemblyzer(weights: str | None) -> nn.Module:
    """The network, with the weights of the package, which is not imported, or with random ones."""
    net = VoiceEncoder()
    if weights == PUBLISHED:
        spec = importlib.util.find_spec("resemblyzer")
        if spec is None:
            raise InputError(f"the weights of Resemblyzer need the package of this name: {INSTALL}")
        fill(net, Path(spec.submodule_search_locations[0], "pretrained.pt"), "Resemblyzer", "model_state.")
    return net


class VoiceFront(nn.Module):
    """Waves (B, N), NaN behind a clip's end, to mel spectrograms (B, T, BANDS), clips at least as loud as LOUDNESS."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = open_mel()

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        waves = waves.float()
        loudness = (silent_padding(waves).square().sum(1) / clip_lengths(waves)).sqrt()
        # Of a silent clip nothing can be raised.
        gain = (LOUDNESS / loudness.clamp(min=1e-8)).clamp(min=1)
        return self.mel(waves * gain[:, None])


class VoiceEncoder(nn.Module):
    """Mel spectrograms (B, T, BANDS), NaN behind a clip's end, to vectors (B, WIDTH) of no negative numbers.

    Windows of FRAMES are embedded each by the last state of the last LSTM, and brought to length 1; a clip is their
    mean. A clip that is shorter than a window is one, with silence behind it, as the package has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        lengths = clip_lengths(mels[:, :, 0])
        mels = torch.nan_to_num(mels, nan=0.0)
        most = max(1, -(-(mels.shape[1] - FRAMES) // STEP) + 1)
        whole = nn.functional.pad(mels, (0, 0, 0, max(0, (most - 1) * STEP + FRAMES - mels.shape[1])))
        windows = whole.unfold(1, FRAMES, STEP)[:, :most].transpose(2, 3)
        starts = torch.arange(most, device=mels.device) * STEP
        covered = (lengths[:, None] - 1 - starts) / FRAMES
        is_taken = (starts == 0) | (covered >= LEAST_COVERED)

        # Only those that count are computed.
        rows, _ = is_taken.nonzero(as_tuple=True)
        states = self.lstm(windows[is_taken])[1][0]
        vectors = self.linear(states[-1]).relu()
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
        sums = torch.zeros(len(mels), WIDTH, dtype=vectors.dtype, device=vectors.device).index_add(0, rows, vectors)
        return sums / is_taken.sum(1, keepdim=True)
