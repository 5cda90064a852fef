"""Feature maps to one vector an image."""

import torch
from torch import nn

POOLINGS = ("avg", "max", "gem", "avg+max")


class Pooling(nn.Module):
    """Feature maps (B, C, h, w) to (B, C): mean, maximum, their sum, or generalised mean (arXiv 1711.02512 eq. 3)."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, maps):
        if self.kind == "gem":
            with torch.autocast(maps.device.type, enabled=False):
                powers = maps.float().clamp(min=1e-6) ** self.p
                return powers.mean(dim=(2, 3)) ** (1 / self.p)
        mean = maps.mean(dim=(2, 3)) if "avg" in self.kind else 0
        return mean + maps.amax(dim=(2, 3)) if "max" in self.kind else mean
