"""What HuggingFace's transformers reads of a folder or a name of its hub; code that comes with it is never executed."""

import os
from collections.abc import Callable
from typing import Any

import torch

from core.errors import InputError, first_line
from models.backbones._download import BY_OTHER_MEANS


def be_quiet() -> None:
    """Let transformers print nothing: its warnings come beside our sentences."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def asked(source: str, read: Callable[..., Any], what: str) -> Any:
    """What `read`, a from_pretrained of transformers, makes of `source`; whatever goes wrong is one InputError.

    what: that it is, in words.
    """
    be_quiet()
    try:
        return read(source, trust_remote_code=False)
    except Exception as error:  # a stranger's files, in which anything may be wrong; or no network
        if os.path.isdir(source):
            raise InputError(f"the folder {source!r} has no {what} that can be read: {first_line(error)}") from None
        raise InputError(
            f"hf:{source}: neither a folder that transformers wrote, nor in the hub's cache, nor to be had now "
            f"({first_line(error)}); {BY_OTHER_MEANS}"
        ) from None


def vector_of(output: Any) -> torch.Tensor:
    """The embeddings (B, D) of one of several towers, which some versions give alone, and some with all else."""
    return output if torch.is_tensor(output) else output.pooler_output
