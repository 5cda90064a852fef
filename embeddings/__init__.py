"""Tables of embeddings: made, kept, read."""
