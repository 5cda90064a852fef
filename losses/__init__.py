"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.cosface import CosFaceLoss
from losses.eml import EmlLoss
from losses.mlp_arcmargin import MlpArcMarginLoss
from losses.norm_softmax import NormSoftmaxLoss
from losses.npairs import NpairsLoss
from losses.proxy_anchor import ProxyAnchorLoss
from losses.proxy_nca import ProxyNcaLoss
from losses.quadruplet import QuadrupletLoss
from losses.soft_triple import SoftTripleLoss
from losses.softmax import SoftmaxLoss
from losses.subcenter_arcmargin import SubCenterArcMarginLoss
from losses.triplet import TripletLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "CosFaceLoss",
    "EmlLoss",
    "MlpArcMarginLoss",
    "NormSoftmaxLoss",
    "NpairsLoss",
    "ProxyAnchorLoss",
    "ProxyNcaLoss",
    "QuadrupletLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SubCenterArcMarginLoss",
    "TripletLoss",
]
