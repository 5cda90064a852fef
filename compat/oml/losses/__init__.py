"""OML's losses."""

from compat.oml.losses.arcface import ArcFaceLoss, ArcFaceLossWithMLP
from compat.oml.losses.surrogate_precision import SurrogatePrecision
from compat.oml.losses.triplet import TripletLoss, TripletLossPlain, TripletLossWithMiner

__all__ = [
    "ArcFaceLoss",
    "ArcFaceLossWithMLP",
    "SurrogatePrecision",
    "TripletLoss",
    "TripletLossPlain",
    "TripletLossWithMiner",
]
