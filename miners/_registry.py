"""The table of miners: a miner's file enters its class with one decorator."""

from core.registry import Registry

# Facts of a miner. gives: "triplets" or "pairs". adds_rows=True: it compares rows that are no images of the batch, too,
# which its method `extended(embeddings, labels)` puts behind the batch.
MINERS = Registry("miner")
