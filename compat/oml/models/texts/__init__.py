"""Networks of texts."""

from compat.oml.models.texts.huggingface import HFWrapper

__all__ = ["HFWrapper"]
