"""What a network is asked for."""

from abc import ABC
from typing import Any, Self

import torch
from torch import nn

from compat.oml._errors import unknown_name


class IExtractor(nn.Module, ABC):
    """A network that makes embeddings. pretrained_models: {key: facts of its weights}."""

    pretrained_models: dict[str, Any] = {}

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """The embeddings of a batch."""
        return self(x)

    @property
    def feat_dim(self) -> int:
        """How wide an embedding is."""
        raise NotImplementedError(f"{type(self).__name__} does not say its feat_dim")

    @property
    def embedding_size(self) -> int:
        """feat_dim, as it is called here elsewhere."""
        return self.feat_dim

    @classmethod
    def from_pretrained(cls, weights: str, **further: Any) -> Self:
        """The network with published weights, by a key of `pretrained_models`. Raises UnknownName for another key."""
        if weights not in cls.pretrained_models:
            raise unknown_name(f"weights of {cls.__name__}", weights, cls.pretrained_models)
        return cls(weights=weights, **{**cls.pretrained_models[weights]["init_args"], **further})


class IFreezable(ABC):
    """A network of which a part can be left as it is for a while."""

    def freeze(self) -> None:
        """Leave that part as it is."""
        raise NotImplementedError(f"{type(self).__name__} cannot be frozen")

    def unfreeze(self) -> None:
        """Let it be trained again."""
        raise NotImplementedError(f"{type(self).__name__} cannot be unfrozen")


class IPairwiseModel(nn.Module):
    """A network that compares two inputs."""

    def forward(self, x1: Any, x2: Any) -> torch.Tensor:
        """What its loss takes, (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def predict(self, x1: Any, x2: Any) -> torch.Tensor:
        """Distances (B,) of pairs."""
        raise NotImplementedError(f"{type(self).__name__} has no predict()")


__all__ = ["IExtractor", "IFreezable", "IPairwiseModel"]
