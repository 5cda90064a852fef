"""Versions of what decides figures: Python, packages, this repository."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2

# Packages that have a say in figures: networks, pixels. OpenCV comes under several names and is asked itself.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "simplejpeg")


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that decide an embedding, {name: version}, None for one that is not installed."""
    versions_by_name = {"opencv": cv2.__version__}
    for name in PACKAGES:
        try:
            versions_by_name[name] = version(name)
        except PackageNotFoundError:
            versions_by_name[name] = None
    return versions_by_name


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that decide figures, and the repository's git revision (None without git)."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        revision = git.stdout.strip() or None
    except OSError:  # no git on this machine
        revision = None
    return {"python": platform.python_version(), **package_versions(), "git": revision}
