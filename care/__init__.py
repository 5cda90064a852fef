"""Care of a collection: what may be wrong with a list, and whose protocol a figure is of."""
