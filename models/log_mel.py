"""Waves to mel spectrograms, on the device and a batch at a time."""

import math

import torch
from torch import nn

from core.mel import htk_mels

# Slaney's scale, as in his Auditory Toolbox (1998): even up to 1000 Hz, then 27 steps to each factor of 6.4.
LINEAR_HZ, LINEAR_STEP, LOG_STEP = 1000.0, 200 / 3, math.log(6.4) / 27


def hz_to_mel(hz: torch.Tensor, scale: str) -> torch.Tensor:
    """Frequencies to mels, float64.

    scale: `htk` (core/mel.py), or `slaney`.
    """
    hz = hz.double()
    if scale == "htk":
        return htk_mels(hz, torch.log10)
    above = LINEAR_HZ / LINEAR_STEP + torch.log(hz.clamp(min=1e-9) / LINEAR_HZ) / LOG_STEP
    return torch.where(hz < LINEAR_HZ, hz / LINEAR_STEP, above)


def mel_to_hz(mel: torch.Tensor, scale: str) -> torch.Tensor:
    """The inverse of `hz_to_mel`."""
    mel = mel.double()
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = LINEAR_HZ * torch.exp(LOG_STEP * (mel - LINEAR_HZ / LINEAR_STEP))
    return torch.where(mel < LINEAR_HZ / LINEAR_STEP, mel * LINEAR_STEP, above)


def mel_filters(
    rate: int,
    size: int,
    bands: int,
    scale: str = "htk",
    low: float = 0.0,
    is_even: bool = False,
    high: float | None = None,
) -> torch.Tensor:
    """Triangles that sum the power of a Fourier transform to mel bands, (size // 2 + 1, bands) float32.

    bands + 2 frequencies f_0 ... f_{bands+1} lie evenly on the mel scale from `low` to `high`, by default rate / 2.
    Band b weighs a frequency f by max(0, min((f - f_b) / (f_{b+1} - f_b), (f_{b+2} - f) / (f_{b+2} - f_{b+1}))) (Davis
    and Mermelstein, IEEE TASSP 28, 1980). is_even: times 2 / (f_{b+2} - f_b), so that all bands have one area, as
    librosa does it.
    """
    ends = hz_to_mel(torch.tensor([low, rate / 2 if high is None else high]), scale)
    edges = mel_to_hz(torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64), scale)
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if is_even:
        filters = filters * 2 / (edges[2:] - edges[:-2])
    return filters.float()


class Mel(nn.Module):
    """Waves (B, N) float, NaN behind a clip's end, to mel spectrograms (B, T, bands), NaN behind its last frame.

    rate: samples a second. size: of the Fourier transform; width: of Hann's window, hop: from frame to frame, in
    samples. Frame t has its middle at sample t hop; what lies outside of the clip is silence there, so that a clip
    becomes the same whatever it is batched with, and a clip of n samples has 1 + n // hop frames. scale, is_even: as
    mel_filters. floor: a power is its natural logarithm above this; None for the power itself.
    """

    def __init__(
        self,
        rate: int,
        size: int,
        width: int,
        hop: int,
        bands: int,
        scale: str = "htk",
        is_even: bool = False,
        floor: float | None = 1e-6,
    ) -> None:
        super().__init__()
        self.size = size
        self.hop = hop
        self.floor = floor
        # None of a network's weights: they belong to its name.
        self.register_buffer("filters", mel_filters(rate, size, bands, scale, is_even=is_even), persistent=False)
        self.register_buffer("window", torch.hann_window(width), persistent=False)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        lengths = clip_lengths(waves)
        # Powers span more than half types hold.
        with torch.autocast(waves.device.type, enabled=False):
            waves = silent_padding(waves.float())
            spectrum = torch.stft(
                waves,
                self.size,
                self.hop,
                len(self.window),
                self.window,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mels = power.transpose(1, 2) @ self.filters
            if self.floor is not None:
                mels = (mels + self.floor).log()
        frames = torch.arange(mels.shape[1], device=mels.device)
        is_padding = frames * self.hop > lengths[:, None]
        return mels.masked_fill(is_padding[:, :, None], torch.nan)


def clip_lengths(waves: torch.Tensor) -> torch.Tensor:
    """How many samples of each row (B, N) are none of padding, (B,) int64."""
    return waves.isnan().logical_not().sum(1)


def silent_padding(waves: torch.Tensor) -> torch.Tensor:
    """Waves with 0 in the place of padding."""
    return torch.nan_to_num(waves, nan=0.0)
