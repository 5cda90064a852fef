"""The table of losses: a loss's file enters its class with one decorator."""

from core.pml import PREFIX
from core.registry import Entry, Registry
from losses._pml import pml_entry


class LossRegistry(Registry):
    """Our losses by name, and those of pytorch-metric-learning as pml:NAME."""

    def _entry(self, name: str) -> Entry:
        if name.startswith(PREFIX):
            return pml_entry(name)
        return super()._entry(name)


# Facts of a loss. stage: "elem" (over classes) or "pair" (over the images of a batch). batch: a name of SAMPLERS.
# memory=True: forward takes `reference=Reference(...)`. mined: "pairs", "triplets" or "either", which forward then
# takes as `mined`. rule=True: or a TripletRule in their place.
# A class that says reads_labels takes labels on the host, beside embeddings wherever they are.
# pairs: what the rows of a batch are by turns, where the train list's rows are pairs of that.
LOSSES = LossRegistry("loss")
