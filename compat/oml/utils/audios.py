"""Sounds as pictures, and with a player as blocks of a page."""

import base64
import html

import cv2
import numpy as np
import torch

from compat.oml.const import BLACK, DEFAULT_SAMPLE_RATE, TColor
from compat.oml.utils.images.images import draw_bbox as draw_frame
from data.audio.picture import coloured
from data.audio.player import encode_samples
from models.log_mel import mel_filters

SIZE, HOP, BANDS = 2048, 512, 128  # samples of a Fourier transform, from frame to frame; bands of the mel scale


def default_spec_repr_func(audio: torch.Tensor) -> torch.Tensor:
    """log(1 + power) of mel bands, (BANDS, frames), of samples (1, n) at DEFAULT_SAMPLE_RATE."""
    window = torch.hann_window(SIZE, device=audio.device)
    spectrum = torch.stft(audio.float(), SIZE, HOP, window=window, pad_mode="reflect", return_complex=True)
    filters = mel_filters(DEFAULT_SAMPLE_RATE, SIZE, BANDS).to(audio.device)
    return (filters.T @ spectrum.abs().square()).log1p().squeeze(0)


def visualize_audio(spec_repr: torch.Tensor, color: TColor = BLACK, draw_bbox: bool = True) -> np.ndarray:
    """A spectrogram (bands, frames), low bands first, as a picture (H, W, 3) uint8 RGB, framed in a colour."""
    levels = np.asarray(spec_repr, np.float64)[::-1]
    levels = levels - levels.min()
    picture = coloured(levels / max(levels.max(), 1e-12))
    return draw_frame(picture, None, color) if draw_bbox else picture


def visualize_audio_with_player(
    audio: torch.Tensor,
    spec_repr: torch.Tensor,
    sample_rate: int,
    title: str = "",
    color: TColor = BLACK,
    draw_bbox: bool = True,
) -> str:
    """A block of HTML: a spectrogram, as visualize_audio draws it, above a player of samples (C, n)."""
    samples = np.asarray(audio, np.float32).reshape(-1, audio.shape[-1]).mean(0)
    return block_with_player(visualize_audio(spec_repr, color, draw_bbox), samples, sample_rate, title)


def block_with_player(picture: np.ndarray, samples: np.ndarray, rate: int, title: str) -> str:
    """A block of HTML: a picture (H, W, 3) uint8 RGB with its title above a player of samples (n,)."""
    sound, kind = encode_samples(samples, rate)
    source = f"data:{kind};base64,{base64.b64encode(sound).decode()}"
    return (
        '<div style="display: inline-block; margin: 10px">'
        f'{picture_block(picture, title)}<br><audio controls src="{source}"></audio></div>'
    )


def picture_block(picture: np.ndarray, title: str) -> str:
    """HTML of a picture (H, W, 3) uint8 RGB below its title."""
    png = base64.b64encode(cv2.imencode(".png", picture[..., ::-1])[1]).decode()
    return f'<p>{html.escape(title)}</p><img alt="" src="data:image/png;base64,{png}">'


__all__ = ["default_spec_repr_func", "visualize_audio", "visualize_audio_with_player"]
