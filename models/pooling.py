"""What a backbone gives, feature maps or tokens, to one vector an image, a text or a clip."""

from collections.abc import Callable

import torch
from torch import nn

from core.errors import InputError, unknown

POOLINGS = ("avg", "max", "gem", "avg+max", "cls", "mean", "attention", "trained")
OF_TOKENS = ("cls", "mean")
ONE = {"image": "an image", "text": "a text", "audio": "a clip"}


class _Kind(nn.Module):
    """What every pooling has: its kind, and the weights of the kinds that learn.

    kind: one of POOLINGS. power: where the exponent of gem starts. width: C, which attention has to know.
    """

    def __init__(self, kind: str, power: float = 3.0, width: int = 0) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(power))
        if kind == "attention":
            # Begins as the mean.
            self.query = nn.Parameter(torch.zeros(width))

    def generalised_mean(self, values: torch.Tensor, mean: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The mean of powers, to the inverse power; mean: over what is pooled."""
        # A power of a half type overflows or rounds away what the exponent learns from.
        with torch.autocast(values.device.type, enabled=False):
            powers = values.float().clamp(min=1e-6) ** self.p
            return mean(powers) ** (1 / self.p)


class Pooling(_Kind):
    """Feature maps (B, C, h, w) to (B, C): mean, maximum, their sum, generalised mean (arXiv 1711.02512 eq. 3), or a
    mean by learned weights.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if self.kind == "gem":
            return self.generalised_mean(maps, lambda powers: powers.mean(dim=(2, 3)))
        if self.kind == "avg":
            return maps.mean(dim=(2, 3))
        if self.kind == "max":
            return maps.amax(dim=(2, 3))
        if self.kind == "attention":
            places = maps.flatten(2)
            weights = _attention(places.transpose(1, 2), self.query)
            return (places * weights.unsqueeze(1)).sum(2)
        return maps.mean(dim=(2, 3)) + maps.amax(dim=(2, 3))


class TokenPooling(_Kind):
    """Tokens (B, N, C) to (B, C): the first one (cls), or as Pooling does it over all but the first `prefix_tokens`.

    kind: one of POOLINGS that tokens have; mean is avg. prefix_tokens: the class token and registers, which are no part
    of the image.
    """

    def __init__(self, kind: str, prefix_tokens: int = 0, power: float = 3.0, width: int = 0) -> None:
        super().__init__(kind, power, width)
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.kind == "cls":
            return tokens[:, 0]
        patches = tokens[:, self.prefix_tokens :]
        if self.kind == "gem":
            return self.generalised_mean(patches, lambda powers: powers.mean(1))
        if self.kind == "max":
            return patches.amax(1)
        if self.kind == "attention":
            return (patches * _attention(patches, self.query).unsqueeze(2)).sum(1)
        if self.kind == "avg+max":
            return patches.mean(1) + patches.amax(1)
        return patches.mean(1)


class PaddedPooling(_Kind):
    """Tokens (B, N, C) of texts or clips to (B, C): the first one (cls), or as TokenPooling does it over all but
    padding, the marks of a text's beginning and end among them. kind: one of POOLINGS that tokens have; mean is avg.
    """

    def forward(self, tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """is_token: (B, N) bool, True for one at least of each row."""
        if self.kind == "cls":
            return tokens[:, 0]
        if self.kind == "gem":
            return self.generalised_mean(tokens, lambda powers: _mean(powers, is_token))
        if self.kind == "max":
            return _maximum(tokens, is_token)
        if self.kind == "attention":
            return (tokens * _attention(tokens, self.query, is_token).unsqueeze(2)).sum(1)
        if self.kind == "avg+max":
            return _mean(tokens, is_token) + _maximum(tokens, is_token)
        return _mean(tokens, is_token)


def _mean(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    weights = is_token.unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


def _maximum(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(~is_token.unsqueeze(2), -torch.inf).amax(1)


def _attention(tokens: torch.Tensor, query: torch.Tensor, is_token: torch.Tensor | None = None) -> torch.Tensor:
    """Tokens (B, N, C) and a learned query (C,) to weights (B, N) that sum to 1, those of padding being 0."""
    scores = tokens @ query / tokens.shape[-1] ** 0.5
    if is_token is not None:
        scores = scores.masked_fill(~is_token, -torch.inf)
    return scores.softmax(1)


def build_pooling(
    kind: str,
    output: str,
    model: str,
    prefix_tokens: int = 0,
    power: float = 3.0,
    width: int = 0,
    modality: str = "image",
) -> nn.Module:
    """What makes one vector of what a backbone gives.

    kind: one of POOLINGS; output: one of the backbones' OUTPUTS; model: a backbone's name, for sentences.
    prefix_tokens, power, width: as TokenPooling has them; modality: of the backbone. `trained` is no layer here: the
    backbone pools itself.
    Raises InputError for an unknown kind, and for one that does not fit the output.
    """
    if kind not in POOLINGS:
        raise unknown("pooling", kind, POOLINGS)
    if kind == "trained":
        return nn.Identity()
    if output == "vector":
        if kind != "avg":
            raise InputError(f"pooling is {kind}, but {model} gives one vector {ONE[modality]}, which is not pooled")
        return nn.Identity()
    if output == "tokens":
        if kind == "cls" and not prefix_tokens:
            rest = "its patches" if modality == "image" else "all tokens"
            raise InputError(f"pooling is cls, but {model} has no class token; avg, max, gem and attention take {rest}")
        if modality != "image":
            return PaddedPooling(kind, power, width)
        return TokenPooling(kind, prefix_tokens, power, width)
    if kind in OF_TOKENS:
        raise InputError(f"pooling is {kind}, which is of tokens, but {model} gives feature maps; avg is their mean")
    return Pooling(kind, power, width)
