"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.eml import EmlLoss
from losses.npairs import NpairsLoss
from losses.quadruplet import QuadrupletLoss
from losses.quadruplet_chen import QuadrupletChenLoss
from losses.softmax import SoftmaxLoss
from losses.triplet import TripletLoss
from losses.triplet_margin import TripletMarginLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "EmlLoss",
    "NpairsLoss",
    "QuadrupletChenLoss",
    "QuadrupletLoss",
    "SoftmaxLoss",
    "TripletLoss",
    "TripletMarginLoss",
]
