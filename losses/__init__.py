"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.circle import CircleLoss
from losses.contrastive import ContrastiveLoss
from losses.eml import EmlLoss
from losses.lifted_structure import LiftedStructureLoss
from losses.margin import MarginLoss
from losses.multi_similarity import MultiSimilarityLoss
from losses.npairs import NpairsLoss
from losses.quadruplet import QuadrupletLoss
from losses.quadruplet_chen import QuadrupletChenLoss
from losses.ranked_list import RankedListLoss
from losses.softmax import SoftmaxLoss
from losses.supcon import SupConLoss
from losses.triplet import TripletLoss
from losses.triplet_margin import TripletMarginLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "EmlLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NpairsLoss",
    "QuadrupletChenLoss",
    "QuadrupletLoss",
    "RankedListLoss",
    "SoftmaxLoss",
    "SupConLoss",
    "TripletLoss",
    "TripletMarginLoss",
]
