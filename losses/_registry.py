"""The table of losses: a loss's file enters its class with one decorator."""

from core.registry import Registry

# Facts of a loss. stage: "elem" (over classes) or "pair" (over the images of a batch). batch: a name of SAMPLERS.
# memory=True: forward takes `reference=Reference(...)`. mined: "pairs" or "triplets", which forward then takes as `mined`.
LOSSES = Registry("loss")
