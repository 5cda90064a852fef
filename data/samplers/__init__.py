"""Which images stand in which batch; a sampler is a file in this folder with one `@SAMPLERS.register(...)` line."""

from data.samplers._batches import SAMPLERS, BatchSampler, Sample
from data.samplers.in_order import InOrder
from data.samplers.pk import PKSampler
from data.samplers.shard import Shard
from data.samplers.shuffled import ShuffledSampler
from data.samplers.triplet import TripletSampler

__all__ = [
    "SAMPLERS",
    "BatchSampler",
    "InOrder",
    "PKSampler",
    "Sample",
    "Shard",
    "ShuffledSampler",
    "TripletSampler",
]
