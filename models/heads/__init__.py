"""What stands behind the pooled feature: a head is a chain of layers; a new layer is a new file here and its import."""

from torch import nn

from models.heads._registry import HEADS
from models.heads.linear import Linear
from models.heads.mlp import Mlp
from models.heads.residual import Residual
from models.heads.unit_linear import UnitLinear

__all__ = ["HEADS", "Linear", "Mlp", "Residual", "UnitLinear", "build_head", "longer_head"]


def build_head(head: str, width: int, embedding_size: int) -> list[nn.Module]:
    """The layers of a head, first to last.

    head: names of HEADS, comma-separated; each but the last says its width, as `linear:512,unit_linear`. width: of the
    pooled feature; embedding_size: of the last layer, 0 for that of its input. `linear` alone with 0 is no layer.
    Raises InputError for an unknown name.
    """
    if head == "linear" and not embedding_size:
        return []
    layers = []
    *inner, last = head.split(",")
    for word in inner:
        name, _, size = word.partition(":")
        layers.append(HEADS[name](width, int(size)))
        width = int(size)
    layers.append(HEADS[last](width, embedding_size or width))
    return layers


def longer_head(head: str, has_layer: bool, width: int, name: str) -> str:
    """The head that `head`, whose embeddings are `width` wide, becomes by one more layer."""
    if not has_layer:
        return name
    return f"{head}:{width},{name}"
