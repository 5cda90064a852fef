"""What stands behind the pooled feature: a head is a chain of layers; a new layer is a new file here and its import."""

from torch import nn

from core.errors import InputError
from core.text import counted
from models.heads._registry import HEADS
from models.heads.bnneck import BnNeck
from models.heads.first import First
from models.heads.layer_norm import LayerNorm
from models.heads.linear import Linear
from models.heads.mlp import Mlp
from models.heads.residual import Residual
from models.heads.unit_linear import UnitLinear

__all__ = [
    "HEADS",
    "BnNeck",
    "First",
    "LayerNorm",
    "Linear",
    "Mlp",
    "Residual",
    "UnitLinear",
    "build_head",
    "build_layer",
    "head_width",
    "longer_head",
]


def build_head(head: str, width: int, embedding_size: int) -> list[nn.Module]:
    """The layers of a head, first to last.

    head: names of HEADS, comma-separated; each but the last says its width, unless it keeps that of its input, as
    `layer_norm,linear:512,unit_linear`. width: of the pooled feature; embedding_size: of the last layer, 0 for that of
    its input. `linear` alone with 0 is no layer. Raises InputError for an unknown name, and for another width than the
    input's where a layer keeps that.
    """
    if head == "linear" and not embedding_size:
        return []
    layers = []
    *inner, last = head.split(",")
    for word in inner:
        name, _, size = word.partition(":")
        layers.append(build_layer(name, width, int(size or width)))
        width = int(size or width)
    layers.append(build_layer(last, width, embedding_size or width))
    return layers


def head_width(head: str, width: int, embedding_size: int) -> int:
    """How wide the last layer of a head is; the arguments are those of `build_head`."""
    if embedding_size:
        return embedding_size
    sizes = [word.partition(":")[2] for word in head.split(",")]
    given = [int(size) for size in sizes if size]
    return given[-1] if given else width


def build_layer(name: str, in_features: int, out_features: int) -> nn.Module:
    """The layer of that name. Raises InputError for an unknown one, and where it cannot change the width."""
    if HEADS.fact(name, "keeps_width", False) and out_features != in_features:
        raise InputError(
            f"a layer {name} is as wide as its input, which has {counted(in_features, 'number')}, not {out_features}; "
            f"a layer in front of it can change that: --head=linear:{out_features},{name}"
        )
    return HEADS[name](in_features, out_features)


def longer_head(head: str, has_layer: bool, width: int, name: str) -> str:
    """The head that `head`, whose embeddings are `width` wide, becomes by one more layer."""
    if not has_layer:
        return name
    last = head.split(",")[-1]
    if HEADS.fact(last, "keeps_width", False):
        return f"{head},{name}"
    return f"{head}:{width},{name}"
