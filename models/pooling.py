"""Feature maps to one vector an image."""

import torch
from torch import nn

POOLINGS = ("avg", "max", "gem", "avg+max")


class Pooling(nn.Module):
    """Feature maps (B, C, h, w) to (B, C): mean, maximum, their sum, or generalised mean (arXiv 1711.02512 eq. 3).

    kind: one of POOLINGS.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if self.kind == "gem":
            return self._generalised_mean(maps)
        if self.kind == "avg":
            return maps.mean(dim=(2, 3))
        if self.kind == "max":
            return maps.amax(dim=(2, 3))
        return maps.mean(dim=(2, 3)) + maps.amax(dim=(2, 3))

    def _generalised_mean(self, maps: torch.Tensor) -> torch.Tensor:
        # A power of a half type overflows or rounds away what the exponent learns from.
        with torch.autocast(maps.device.type, enabled=False):
            powers = maps.float().clamp(min=1e-6) ** self.p
            return powers.mean(dim=(2, 3)) ** (1 / self.p)
