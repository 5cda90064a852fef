"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.eml import EmlLoss
from losses.fast_ap import FastApLoss
from losses.npairs import NpairsLoss
from losses.quadruplet import QuadrupletLoss
from losses.recall_at_k import RecallAtKLoss
from losses.roadmap import RoadmapLoss
from losses.smooth_ap import SmoothApLoss
from losses.softmax import SoftmaxLoss
from losses.surrogate_precision import SurrogatePrecisionLoss
from losses.triplet import TripletLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "EmlLoss",
    "FastApLoss",
    "NpairsLoss",
    "QuadrupletLoss",
    "RecallAtKLoss",
    "RoadmapLoss",
    "SmoothApLoss",
    "SoftmaxLoss",
    "SurrogatePrecisionLoss",
    "TripletLoss",
]
