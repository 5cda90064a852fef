"""What a network was when it was last opened from the same file: what it has made is known then without building it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import read_json, replace_json
from core.versions import package_versions
from models import ModelSettings
from models.backbones import BACKBONES, source_of
from models.weights import is_of_transformers, is_published, weights_file

FILE = "network.json"
CODE = Path(__file__).resolve().parents[1] / "models"
# Names behind others are of folders and hubs, whose own files have a say, too.
OF_PACKAGES = (None, "timm:")


def opened_from(settings: ModelSettings) -> str | None:
    """SHA-256, hexadecimal, of all from which a network for images is opened: its file, settings, packages, models/.

    None where more than that decides: of other modalities, of published and of random weights. Raises InputError where
    there is no such file.
    """
    source, model = settings.pretrained_model, settings.model
    if not source or is_published(source, model) or source_of(model) not in OF_PACKAGES:
        return None
    file = weights_file(source)
    if BACKBONES.fact(model, "modality") != "image" or is_of_transformers(file.parent):
        return None
    facts = {"settings": settings.as_flags(), "packages": package_versions()}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (*sorted(CODE.rglob("*.py")), file):
        with part.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def known_fingerprint(folder: Path, origin: str | None) -> dict[str, Any] | None:
    """The fingerprint of the network that was `opened_from` this, as a folder has kept it; None where it has not."""
    try:
        kept = read_json(folder / FILE)
    except (FileNotFoundError, InputError):
        return None
    if origin is None or not isinstance(kept, dict) or kept.get("opened_from") != origin:
        return None
    fingerprint = kept.get("fingerprint")
    return fingerprint if isinstance(fingerprint, dict) else None


def keep_fingerprint(folder: Path, origin: str | None, fingerprint: dict[str, Any]) -> None:
    """Write down what a network was, for the next time; nothing where `opened_from` is None, or it stands there."""
    if origin is not None and known_fingerprint(folder, origin) is None:
        replace_json(folder / FILE, {"opened_from": origin, "fingerprint": fingerprint})
