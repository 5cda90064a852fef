"""Weights from an address into the cache, going on where an earlier try was cut off, and checked."""

import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch

from core.download import fetch
from core.errors import InputError, first_line

# torchvision, timm and others put the beginning of a file's SHA-256 into its name.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
BY_OTHER_MEANS = (
    "fetch the file by other means and give it as --pretrained_model=FILE, or leave --pretrained_model empty to start "
    "from random weights"
)


def download(address: str, sha256: str | None = None, md5: str | None = None) -> Path:
    """The file of an http(s) address, in torch's cache ($TORCH_HOME/hub/checkpoints).

    sha256, md5: hexadecimal, or the beginning of it; where there is none, that of the SHA-256 in the file's name, if it
    has one. What was cut off before goes on where it ended. Raises InputError in one sentence where there is no network
    or the file is another one.
    """
    name = Path(urlparse(address).path).name
    if sha256 is None and (match := HASH_IN_NAME.search(name)):
        sha256 = match[1]
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / name
    if file.is_file():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetch(address, file, sha256, md5)
    except (OSError, HTTPException, ValueError) as error:  # no network, a cut answer, another file
        raise InputError(
            f"the weights could not be downloaded from {address} ({first_line(error)}); {BY_OTHER_MEANS}"
        ) from None
    return file
