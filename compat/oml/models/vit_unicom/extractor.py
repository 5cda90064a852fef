"""OML's ViTUnicomExtractor."""

from pathlib import Path

from compat.oml.models._by_ours import ExtractorByOurs
from models.backbones.oml import UNICOMS
from models.recompute import recompute_stages


class ViTUnicomExtractor(ExtractorByOurs):
    """UNICOM's vision transformers. use_gradient_ckpt: less memory in training, for more time."""

    constructors = {key: key for key in UNICOMS}
    pretrained_models = {
        key: {
            "url": row["origin"],
            "hash": row["sha256"],
            "fname": f"{key}.ckpt",
            "init_args": {"arch": key, "normalise_features": True},
        }
        for key, row in UNICOMS.items()
    }

    def __init__(
        self,
        weights: Path | str | None = None,
        arch: str = "vitb32_unicom",
        normalise_features: bool = True,
        use_gradient_ckpt: bool = True,
    ) -> None:
        super().__init__(weights, arch, normalise_features)
        if use_gradient_ckpt:
            recompute_stages(self.model)


__all__ = ["ViTUnicomExtractor"]
