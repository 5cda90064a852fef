"""ECAPA-TDNN (arXiv 2005.07143), as Tao Ruijie trained it to tell speakers apart: convolutions over time, pooled by
attention."""

import functools

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from models.backbones._download import download
from models.backbones._row import BACKBONES, AudioInput, Backbone
from models.log_mel import clip_lengths, mel_filters
from models.plain_weights import fill

RATE, BANDS, WIDTH = 16_000, 80, 192
SIZE, WINDOW, HOP = 512, 400, 160  # of a Fourier transform, of its window, from frame to frame, in samples
LOWEST, HIGHEST = 20.0, 7600.0  # Hz
PRE_EMPHASIS, FLOOR = 0.97, 1e-6
CHANNELS, SCALES, SUMMARY = 1024, 8, 1536
LEAST_VARIANCE = 1e-4
NAME = "ecapa_tdnn_taoruijie"
ORIGIN = "https://github.com/TaoRuijie/ECAPA-TDNN/raw/refs/heads/main/exps/pretrain.model"
MD5 = "2bbc0ea09a41217eaff16b676ecb63d7"
PREFIX = "speaker_encoder."  # of the network in its author's file, which has a loss's classes beside it
STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3", "layer4"), ("attention", "bn5"), ("fc6", "bn6"))


@BACKBONES.register(
    "ecapa_tdnn_taoruijie",
    modality="audio",
    output="vector",
    weights=("published",),
    width=192,
    parameters=15_444_544,
    licence="not stated",
    origin="https://github.com/TaoRuijie/ECAPA-TDNN",
)
def ecapa(name: str) -> Backbone:
    """Convolutions over 80 mel bands in three blocks of eight scales each; one vector a clip."""
    return Backbone(build_ecapa, WIDTH, STAGES, AudioInput(RATE, open_front=EcapaFront))


def build_ecapa(weights: str | None) -> nn.Module:
    """The network with its author's weights, or with random ones."""
    net = Ecapa()
    if weights is not None:
        fill(net, download(ORIGIN, md5=MD5), NAME, PREFIX)
    return net


class EcapaFront(nn.Module):
    """Waves (B, N), NaN behind a clip's end, to log-mel spectrograms (B, T, BANDS), NaN behind its last frame.

    A wave is mirrored at both of its ends, and so are frames at the clip's own; a clip that is too short for that has
    silence behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filters(RATE, SIZE, BANDS, low=LOWEST, high=HIGHEST)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hamming_window(WINDOW), persistent=False)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        # Powers span more than half types hold.
        with torch.autocast(waves.device.type, enabled=False):
            clips = [wave[:length] for wave, length in zip(waves.float(), clip_lengths(waves).tolist())]
            return pad_sequence([self._of_clip(clip) for clip in clips], batch_first=True, padding_value=torch.nan)

    def _of_clip(self, wave: torch.Tensor) -> torch.Tensor:
        """Log-mel spectrogram (T, BANDS) of a wave (n,)."""
        wave = functional.pad(wave, (0, max(0, SIZE - len(wave))))
        before = torch.cat([wave[1:2], wave[:-1]])
        spectrum = torch.stft(
            wave - PRE_EMPHASIS * before, SIZE, HOP, WINDOW, self.window, pad_mode="reflect", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.T @ self.filters + FLOOR).log()


class Ecapa(nn.Module):
    """Log-mel spectrograms (B, T, BANDS), NaN behind a clip's end, to vectors (B, WIDTH).

    A clip is taken without the mean of each band over it. Behind its end there is silence for every layer and nothing
    for every mean, so that in evaluation mode a clip becomes the same whatever it is batched with. Weights have the
    names of the author's file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, CHANNELS, 5, padding=2)
        self.bn1 = nn.BatchNorm1d(CHANNELS)
        self.layer1 = Scales(CHANNELS, dilation=2)
        self.layer2 = Scales(CHANNELS, dilation=3)
        self.layer3 = Scales(CHANNELS, dilation=4)
        self.layer4 = nn.Conv1d(3 * CHANNELS, SUMMARY, 1)
        self.attention = nn.Sequential(
            nn.Conv1d(3 * SUMMARY, 256, 1), nn.ReLU(), nn.BatchNorm1d(256), nn.Tanh(), nn.Conv1d(256, SUMMARY, 1)
        )
        self.bn5 = nn.BatchNorm1d(2 * SUMMARY)
        self.fc6 = nn.Linear(2 * SUMMARY, WIDTH)
        self.bn6 = nn.BatchNorm1d(WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        is_frame = mels[:, None, :, 0].isnan().logical_not()
        shares = is_frame / is_frame.sum(2, keepdim=True)
        maps = torch.nan_to_num(mels, nan=0.0).transpose(1, 2)
        maps = (maps - _mean(maps, shares)) * is_frame
        first = self.bn1(self.conv1(maps).relu())
        second = self.layer1(first, is_frame, shares)
        third = self.layer2(first + second, is_frame, shares)
        fourth = self.layer3(first + second + third, is_frame, shares)
        maps = self.layer4(torch.cat([second, third, fourth], 1)).relu()

        # Attention sees each frame beside mean and deviation of all.
        mean = _mean(maps, shares)
        count = is_frame.sum(2, keepdim=True)
        variance = _mean((maps - mean).square(), shares) * count / (count - 1).clamp(min=1)
        deviation = variance.clamp(min=LEAST_VARIANCE).sqrt()
        seen = torch.cat([maps, mean.expand_as(maps), deviation.expand_as(maps)], 1)
        weights = self.attention(seen).masked_fill(~is_frame, -torch.inf).softmax(2)
        mean = (maps * weights).sum(2)
        deviation = ((maps.square() * weights).sum(2) - mean.square()).clamp(min=LEAST_VARIANCE).sqrt()
        return self.bn6(self.fc6(self.bn5(torch.cat([mean, deviation], 1))))


class Scales(nn.Module):
    """Maps (B, C, T) through eight parts, each convolved beside what became of the one before (Res2Net), gated by their
    mean over time, beside the identity."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // SCALES
        self.conv1 = nn.Conv1d(channels, channels, 1)
        self.bn1 = nn.BatchNorm1d(channels)
        convolution = functools.partial(nn.Conv1d, width, width, 3, dilation=dilation, padding=dilation)
        self.convs = nn.ModuleList(convolution() for _ in range(SCALES - 1))
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(SCALES - 1))
        self.conv3 = nn.Conv1d(channels, channels, 1)
        self.bn3 = nn.BatchNorm1d(channels)
        self.se = Gate(channels)

    def forward(self, maps: torch.Tensor, is_frame: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """is_frame, shares: (B, 1, T), what is of the clip, and 1 / how much of it there is."""
        *parts, last = self.bn1(self.conv1(maps).relu()).chunk(SCALES, 1)
        done = []
        for part, convolution, norm in zip(parts, self.convs, self.bns):
            summed = part + done[-1] if done else part
            done.append(norm(convolution(summed * is_frame).relu()))
        mixed = self.bn3(self.conv3(torch.cat([*done, last], 1)).relu())
        return mixed * self.se(_mean(mixed, shares)) + maps


class Gate(nn.Module):
    """Means (B, C, 1) to factors (B, C, 1) between 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.Identity(), nn.Conv1d(channels, 128, 1), nn.ReLU(), nn.Conv1d(128, channels, 1), nn.Sigmoid()
        )

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        return self.se(means)


def _mean(maps: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The mean (B, C, 1) of maps (B, C, T) over the frames of each clip."""
    return (maps * shares).sum(2, keepdim=True)
