"""UNICOM's vision transformers."""
