"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.contrastive import ContrastiveLoss
from losses.eml import EmlLoss
from losses.npairs import NpairsLoss
from losses.quadruplet import QuadrupletLoss
from losses.siamese import SiameseLoss
from losses.softmax import SoftmaxLoss
from losses.triplet import TripletLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "ContrastiveLoss",
    "EmlLoss",
    "NpairsLoss",
    "QuadrupletLoss",
    "SiameseLoss",
    "SoftmaxLoss",
    "TripletLoss",
]
