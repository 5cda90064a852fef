"""Care of a collection: what may be wrong with a list, found by its files and its embeddings; whose protocol a figure is of."""
