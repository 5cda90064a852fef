"""Figures of a retrieval: of rankings, of pairs, of the shape of the embeddings."""
