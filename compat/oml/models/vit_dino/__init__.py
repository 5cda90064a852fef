"""DINO's vision transformers."""
