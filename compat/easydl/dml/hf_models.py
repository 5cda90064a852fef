"""EasyDL's model of HuggingFace: any network for images of its hub or a folder, whose embeddings have length 1."""

import torch

from compat.easydl.dml.pytorch_models import MetricModel
from models import BACKBONES
from models.backbones import PUBLISHED


class HFVitModel(MetricModel):
    """`HFVitModel(model_name="google/vit-base-patch16-224")`: the class token behind the last norm, at length 1.

    pretrained_model_name is another word for model_name. `forward` also takes the dictionary with `pixel_values` that a
    processor of transformers makes.
    """

    def __init__(
        self, pretrained_model_name: str = "google/vit-base-patch16-224-in21k", *, model_name: str | None = None
    ) -> None:
        network = f"hf:{model_name or pretrained_model_name}"
        row = BACKBONES[network](network)
        # What a pooler adds is left out: the token itself is the embedding.
        pooling = "cls" if row.prefix_tokens else row.pooling
        super().__init__(network, None, PUBLISHED, pooling)

    def forward(self, x: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, h, w), or {"pixel_values": (B, 3, h, w)}, to embeddings (B, D) of length 1."""
        if not torch.is_tensor(x):
            x = x["pixel_values"]
        return super().forward(x)
