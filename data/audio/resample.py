"""A sound at another rate, by a band-limited filter; any part of it without the rest.

A sample at time t, in samples of the source, is the sum over its samples x[k] of x[k] h(t - k), where
h(s) = c sinc(c s) w(c s / ZEROS), w is Kaiser's window, and c, a share of the source's band, ends below the band of
both rates (J. O. Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/). Of rates with a ratio of
U to D there are U different distances of t to the samples before it, so that h is needed at few points.
"""

import functools
import math

import numpy as np

ZEROS = 32  # crossings of zero on each side of the filter
# Kaiser's window of 80 dB, whose band of transition is 0.078 of the rate: with its middle at 0.922 of the half rate the
# stop band begins where the lower rate's band ends, and what lies below 0.84 of that band stays as it is.
BETA = 7.857
ROLLOFF = 0.922


class Resampler:
    """From `source` samples a second to `target`."""

    def __init__(self, source: int, target: int):
        divisor = math.gcd(source, target)
        self.up = target // divisor
        self.down = source // divisor

    def length(self, frames: int) -> int:
        """How many samples so many of the source become: those whose time lies before the end."""
        return -(-frames * self.up // self.down)

    def span(self, first: int, count: int) -> tuple[int, int]:
        """[start, stop) of the source's samples that samples first to first + count need; outside of it are zeros."""
        if self.up == self.down:
            return first, first + count
        reach = _reach(self.up, self.down)
        start = first * self.down // self.up - reach + 1
        stop = (first + count - 1) * self.down // self.up + reach + 1
        return start, stop

    def resample(self, samples: np.ndarray, first: int, count: int) -> np.ndarray:
        """Samples first to first + count, (count,) float32. samples: those of the source within `span`, float32."""
        if self.up == self.down:
            return samples
        taps = _taps(self.up, self.down)
        origin = self.span(first, count)[0]
        output = np.empty(count, np.float32)
        samples = np.ascontiguousarray(samples, np.float32)
        size = samples.itemsize
        # Samples that are `up` apart have the same distance to the source's, which are `down` further on.
        for offset in range(min(self.up, count)):
            place = (first + offset) * self.down
            start = place // self.up - taps.shape[1] // 2 + 1 - origin
            rows = len(output[offset :: self.up])
            windows = np.lib.stride_tricks.as_strided(
                samples[start:], (rows, taps.shape[1]), (self.down * size, size), writeable=False
            )
            output[offset :: self.up] = windows @ taps[place % self.up]
        return output


def _band(up: int, down: int) -> float:
    """c of the formula."""
    return ROLLOFF * min(1.0, up / down)


def _reach(up: int, down: int) -> int:
    """How many of the source's samples on each side of a time the filter covers."""
    return math.ceil(ZEROS / _band(up, down))


@functools.lru_cache(32)
def _taps(up: int, down: int) -> np.ndarray:
    """(up, 2 reach) float32: h at the distances of a time that lies p/up behind a sample, p = 0 to up - 1.

    Each row sums to 1, so that what is constant stays so.
    """
    reach = _reach(up, down)
    band = _band(up, down)
    behind = np.arange(up)[:, None] / up - np.arange(1 - reach, reach + 1)[None]
    inside = np.clip(1 - (band * behind / ZEROS) ** 2, 0, None)
    window = np.where(inside > 0, np.i0(BETA * np.sqrt(inside)) / np.i0(BETA), 0)
    taps = band * np.sinc(band * behind) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
