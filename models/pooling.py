"""Feature maps to one vector an image, tokens to one vector a text."""

import torch
from torch import nn

POOLINGS = ("avg", "max", "gem", "avg+max", "cls")


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


class TokenPooling(nn.Module):
    """Tokens (B, N, C) to (B, C): as Pooling does it, over those that are no padding; or `cls`, the first one.

    kind: one of POOLINGS.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """is_token: (B, N) bool, True for one at least of each row."""
        if self.kind == "cls":
            return tokens[:, 0]
        if self.kind == "gem":
            return self._generalised_mean(tokens, is_token)
        if self.kind == "avg":
            return _mean(tokens, is_token)
        if self.kind == "max":
            return _maximum(tokens, is_token)
        return _mean(tokens, is_token) + _maximum(tokens, is_token)

    def _generalised_mean(self, tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        # As in Pooling: not in a half type.
        with torch.autocast(tokens.device.type, enabled=False):
            powers = tokens.float().clamp(min=1e-6) ** self.p
            return _mean(powers, is_token) ** (1 / self.p)


def _mean(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    weights = is_token.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


def _maximum(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(~is_token.unsqueeze(-1), -torch.inf).amax(1)
