"""The image towers of CLIP."""
