"""Networks of transformers as extractors of texts."""

from collections.abc import Mapping

import torch
from torch import nn

from compat.oml.interfaces.models import IExtractor
from core.errors import InputError
from models.backbones.hf_text import width_of


class HFWrapper(IExtractor):
    """A network of transformers, whose first token is the embedding. feat_dim: None for what its configuration says."""

    def __init__(self, model: nn.Module, feat_dim: int | None = None) -> None:
        super().__init__()
        self.model = model
        if feat_dim is None:
            feat_dim = width_of(model.config)
        if feat_dim is None:
            raise InputError(f"the configuration of {type(model).__name__} tells of no width; give feat_dim")
        self._feat_dim = feat_dim

    def forward(self, x: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, feat_dim) of tokens, as a tokenizer gives them."""
        tokens = self.model(input_ids=x["input_ids"], attention_mask=x["attention_mask"])
        return tokens.last_hidden_state[:, 0]

    @property
    def feat_dim(self) -> int:
        return self._feat_dim


__all__ = ["HFWrapper"]
