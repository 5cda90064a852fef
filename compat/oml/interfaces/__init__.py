"""What OML asks of a dataset, a network, a miner, a sampler, a metric and a post-processor."""
