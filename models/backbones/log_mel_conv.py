"""A small network for sounds that is trained from nothing: convolutions over a log-mel spectrogram."""

import functools

import torch
from torch import nn

from models.backbones._row import BACKBONES, AudioInput, Backbone
from models.log_mel import Mel

RATE, BANDS, WIDTH = 16_000, 64, 256
# A frame every 10 ms, of 25 ms each.
open_mel = functools.partial(Mel, RATE, size=512, width=400, hop=160, bands=BANDS)
CHANNELS = (24, 48, 96, 160)
STAGES = (("norm", "first", "first_norm"), ("stages.0",), ("stages.1",), ("stages.2", "last"))


@BACKBONES.register(
    "LogMelConv",
    modality="audio",
    output="tokens",
    weights=(),
    width=256,
    parameters=690_248,
    licence="that of this repository",
    origin="none",
)
def log_mel_conv(name: str) -> Backbone:
    """Seven convolutions over 64 mel bands, a token every 160 ms; made to be trained, no weights are published."""
    return Backbone(lambda weights: LogMelConv(), WIDTH, STAGES, AudioInput(RATE, open_front=open_mel))


class LogMelConv(nn.Module):
    """Log-mel spectrograms (B, T, BANDS), NaN behind a clip's end, to tokens (B, ceil(T / 16), WIDTH).

    A clip is taken without the mean of each band over it: how loud it is, and what the microphone does to it, is none
    of its sound. Behind its end there is silence for every layer, as behind a picture's border, so that in evaluation
    mode a clip becomes the same whatever it is batched with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(BANDS)
        self.first = nn.Conv2d(1, CHANNELS[0], 5, stride=2, padding=2, bias=False)
        self.first_norm = nn.BatchNorm2d(CHANNELS[0])
        self.stages = nn.ModuleList(Stage(before, after) for before, after in zip(CHANNELS, CHANNELS[1:]))
        self.last = nn.Linear(CHANNELS[-1] * BANDS // 2 ** len(CHANNELS), WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        is_frame = self._is_frame(mels)
        mels = torch.nan_to_num(mels, nan=0.0)
        shares = is_frame / is_frame.sum(1, keepdim=True)
        mels = mels - (mels * shares[:, :, None]).sum(1, keepdim=True)
        maps = self.norm(mels.transpose(1, 2)).transpose(1, 2)[:, None]
        maps = maps * is_frame[:, None, :, None]
        # A convolution of stride 2 has a frame where the frame in the middle of its window is one.
        is_frame = is_frame[:, ::2]
        maps = self.first_norm(self.first(maps)).relu() * is_frame[:, None, :, None]
        for stage in self.stages:
            is_frame = is_frame[:, ::2]
            maps = stage(maps, is_frame[:, None, :, None])
        return self.last(maps.permute(0, 2, 1, 3).flatten(2))

    def is_token(self, mels: torch.Tensor) -> torch.Tensor:
        """(B, ceil(T / 16)) bool: which tokens are of the clip, and not of padding."""
        return self._is_frame(mels)[:, :: 2 ** len(CHANNELS)].bool()

    def _is_frame(self, mels: torch.Tensor) -> torch.Tensor:
        """(B, T), 1 where a frame is of the clip, of the type of the frames."""
        return mels[:, :, 0].isnan().logical_not().to(mels.dtype)


class Stage(nn.Module):
    """Maps (B, C, T, F) to half their size each way, and a second convolution beside a way around it."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.halving = nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, maps: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """is_frame: (B, 1, T / 2, 1), 0 behind a clip's end, where each layer is silenced."""
        maps = self.norm(self.halving(maps)).relu() * is_frame
        return (maps + self.second_norm(self.second(maps))).relu() * is_frame
