"""The hub of HuggingFace: exported folders go there, and come from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError, first_line
from core.packages import needed

PUSH = "--push_to_hub"
TIMEOUT = 10  # seconds in which the hub has to say who we are


def check_hub(name: str) -> None:
    """Raise InputError unless the hub can be asked and knows whose token this is, before any work is done."""
    hub = needed("huggingface_hub", PUSH, "export")
    try:
        hub.utils.validate_repo_id(name)
        hub.HfApi().whoami()
    except Exception as error:  # of the hub, of its token, of the network: packages of three makers raise them
        raise _refusal(name, error) from None


def push(folder: Path, files: Sequence[str], name: str) -> str:
    """Upload these files of a folder to the model `name`, which is made where it is not there; returns its address.

    Raises InputError where the hub cannot be asked, or does not want them.
    """
    hub = needed("huggingface_hub", PUSH, "export")
    try:
        api = hub.HfApi()
        address = api.create_repo(name, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=name,
            repo_type="model",
            folder_path=str(folder),
            allow_patterns=list(files),
            commit_message=f"Export: {', '.join(files)}",
        )
    except Exception as error:  # as in check_hub
        raise InputError(f"{_refusal(name, error)}; the files are whole in {str(folder)!r}") from None
    return str(address)


def fetched(name: str, files: Sequence[str]) -> Path:
    """The folder in the hub's cache that has these files of the model `name`. Raises InputError where they cannot be
    had."""
    hub = needed("huggingface_hub", f"the hub's {name!r}", "export")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # as in check_hub
        raise InputError(f"{name!r} is no folder here, and the hub does not give it: {_reason(error)}") from None


def _refusal(name: str, error: Exception) -> InputError:
    return InputError(f"{PUSH}={name}: the hub does not take it: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What an error of the hub says, on one line; of those of sockets alone also their kind, which says more."""
    text: Any = first_line(error).strip()
    if isinstance(error, OSError) and error.errno is not None:
        text = f"{type(error).__name__}: {text}"
    return text.rstrip(".")
