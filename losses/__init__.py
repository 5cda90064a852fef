"""Every loss by name. A new loss is a new file here with one `@LOSSES.register(...)` line, and its import below."""

from losses._registry import LOSSES
from losses.arcmargin import ArcMarginLoss
from losses.circle import CircleLoss
from losses.clip import ClipLoss
from losses.contrastive import ContrastiveLoss
from losses.cosface import CosFaceLoss
from losses.eml import EmlLoss
from losses.fast_ap import FastApLoss
from losses.lifted_structure import LiftedStructureLoss
from losses.margin import MarginLoss
from losses.mlp_arcmargin import MlpArcMarginLoss
from losses.multi_similarity import MultiSimilarityLoss
from losses.norm_softmax import NormSoftmaxLoss
from losses.npairs import NpairsLoss
from losses.proxy_anchor import ProxyAnchorLoss
from losses.proxy_nca import ProxyNcaLoss
from losses.quadruplet import QuadrupletLoss
from losses.quadruplet_chen import QuadrupletChenLoss
from losses.ranked_list import RankedListLoss
from losses.recall_at_k import RecallAtKLoss
from losses.roadmap import RoadmapLoss
from losses.siamese import SiameseLoss
from losses.smooth_ap import SmoothApLoss
from losses.soft_triple import SoftTripleLoss
from losses.softmax import SoftmaxLoss
from losses.subcenter_arcmargin import SubCenterArcMarginLoss
from losses.supcon import SupConLoss
from losses.surrogate_precision import SurrogatePrecisionLoss
from losses.triplet import TripletLoss
from losses.triplet_margin import TripletMarginLoss

__all__ = [
    "LOSSES",
    "ArcMarginLoss",
    "CircleLoss",
    "ClipLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "EmlLoss",
    "FastApLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MlpArcMarginLoss",
    "MultiSimilarityLoss",
    "NormSoftmaxLoss",
    "NpairsLoss",
    "ProxyAnchorLoss",
    "ProxyNcaLoss",
    "QuadrupletChenLoss",
    "QuadrupletLoss",
    "RankedListLoss",
    "RecallAtKLoss",
    "RoadmapLoss",
    "SiameseLoss",
    "SmoothApLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SubCenterArcMarginLoss",
    "SupConLoss",
    "SurrogatePrecisionLoss",
    "TripletLoss",
    "TripletMarginLoss",
]
