"""The keys of Open Metric Learning's zoo: networks of the other sources, each with an address of its weights.

Its table gives the first digits of MD5 for most files, and of UNICOM and OpenAI's CLIP the SHA-256.
"""

import functools
from dataclasses import replace

from torch import nn

from models.backbones._download import download
from models.backbones._row import BACKBONES, CLIP, IMAGENET, Backbone, ImageInput
from models.backbones.open_clip import ImageTower, build_image_tower, clip_backbone
from models.backbones.timm import PREFIX, timm_backbone
from models.backbones.torchvision import resnet
from models.backbones.unicom import Unicom
from models.plain_weights import fill

# squashed, padded: as OML tests it; other rows go by the short side, in bicubic, before the crop.
VITS = {
    "vits16_dino": {
        "timm": "vit_small_patch16_224.dino",
        "width": 384,
        "parameters": 21_665_664,
        "origin": "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        "md5": "cf0f22",
        "squashed": True,
    },
    "vits8_dino": {
        "timm": "vit_small_patch8_224.dino",
        "width": 384,
        "parameters": 21_670_272,
        "origin": "https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
        "md5": "230cd5",
        "squashed": True,
    },
    "vitb16_dino": {
        "timm": "vit_base_patch16_224.dino",
        "width": 768,
        "parameters": 85_798_656,
        "origin": "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        "md5": "552daf",
        "squashed": True,
    },
    "vitb8_dino": {
        "timm": "vit_base_patch8_224.dino",
        "width": 768,
        "parameters": 85_807_872,
        "origin": "https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
        "md5": "556550",
        "squashed": True,
    },
    "vits14_dinov2": {
        "timm": "vit_small_patch14_dinov2.lvd142m",
        "width": 384,
        "parameters": 22_056_192,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
        "md5": "2e405c",
    },
    "vits14_reg_dinov2": {
        "timm": "vit_small_patch14_reg4_dinov2.lvd142m",
        "width": 384,
        "parameters": 22_057_344,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth",
        "md5": "2a50c5",
    },
    "vitb14_dinov2": {
        "timm": "vit_base_patch14_dinov2.lvd142m",
        "width": 768,
        "parameters": 86_579_712,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        "md5": "8635e7",
    },
    "vitb14_reg_dinov2": {
        "timm": "vit_base_patch14_reg4_dinov2.lvd142m",
        "width": 768,
        "parameters": 86_582_016,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
        "md5": "13d13c",
    },
    "vitl14_dinov2": {
        "timm": "vit_large_patch14_dinov2.lvd142m",
        "width": 1024,
        "parameters": 304_367_616,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "md5": "19a02c",
    },
    "vitl14_reg_dinov2": {
        "timm": "vit_large_patch14_reg4_dinov2.lvd142m",
        "width": 1024,
        "parameters": 304_370_688,
        "origin": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",
        "md5": "8b6364",
    },
    "vits16_inshop": {
        "timm": "vit_small_patch16_224.dino",
        "width": 384,
        "parameters": 21_665_664,
        "origin": "https://oml.daloroserver.com/download/checkpoints/inshop/vits16_inshop_a76b85.ckpt",
        "md5": "a76b85",
    },
    "vits16_sop": {
        "timm": "vit_small_patch16_224.dino",
        "width": 384,
        "parameters": 21_665_664,
        "origin": "https://oml.daloroserver.com/download/checkpoints/sop/vits16_sop_21e743.ckpt",
        "md5": "21e743",
    },
    "vits16_cub": {
        "timm": "vit_small_patch16_224.dino",
        "width": 384,
        "parameters": 21_665_664,
        "origin": "https://oml.daloroserver.com/download/checkpoints/cub/vits16_cub.ckpt",
        "md5": "e82633",
        "padded": True,
    },
    "vits16_cars": {
        "timm": "vit_small_patch16_224.dino",
        "width": 384,
        "parameters": 21_665_664,
        "origin": "https://oml.daloroserver.com/download/checkpoints/cars/vits16_cars.ckpt",
        "md5": "9f1e59",
        "padded": True,
    },
}
RESNETS = {
    "resnet18_imagenet1k_v1": {"row": "ResNet18", "width": 512, "parameters": 11_176_512, "origin": "as ResNet18"},
    "resnet34_imagenet1k_v1": {"row": "ResNet34", "width": 512, "parameters": 21_284_672, "origin": "as ResNet34"},
    "resnet50_imagenet1k_v1": {"row": "ResNet50", "width": 2048, "parameters": 23_508_032, "origin": "as ResNet50"},
    "resnet101_imagenet1k_v1": {"row": "ResNet101", "width": 2048, "parameters": 42_500_160, "origin": "as ResNet101"},
    "resnet152_imagenet1k_v1": {"row": "ResNet152", "width": 2048, "parameters": 58_143_808, "origin": "as ResNet152"},
    "resnet50_moco_v2": {
        "row": "ResNet50",
        "width": 2048,
        "parameters": 23_508_033,
        "licence": "CC-BY-NC-4.0",
        "origin": "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        "md5": "a04e12f8",
    },
}
CLIPS = {
    "openai_vitb16_224": {
        "clip": "clip:ViT-B-16/openai",
        "width": 512,
        "parameters": 86_192_640,
        "licence": "MIT",
        "origin": "hub timm/vit_base_patch16_clip_224.openai",
    },
    "openai_vitb32_224": {
        "clip": "clip:ViT-B-32/openai",
        "width": 512,
        "parameters": 87_849_216,
        "licence": "MIT",
        "origin": "hub timm/vit_base_patch32_clip_224.openai",
    },
    "openai_vitl14_224": {
        "clip": "clip:ViT-L-14/openai",
        "width": 768,
        "parameters": 303_966_208,
        "licence": "MIT",
        "origin": "hub timm/vit_large_patch14_clip_224.openai",
    },
    "sber_vitb16_224": {
        "clip": "clip:ViT-B-16/openai",
        "width": 512,
        "parameters": 86_192_640,
        "origin": "https://huggingface.co/sberbank-ai/ruclip-vit-base-patch16-224/resolve/main/pytorch_model.bin",
        "md5": "7882e07674d78c674e33cb892a68bbfc",
    },
    "sber_vitb32_224": {
        "clip": "clip:ViT-B-32/openai",
        "width": 512,
        "parameters": 87_849_216,
        "origin": "https://huggingface.co/sberbank-ai/ruclip-vit-base-patch32-224/resolve/main/pytorch_model.bin",
        "md5": "e2c4dab46a3cfa608bdd762973e90d32",
    },
    "sber_vitl14_224": {
        "clip": "clip:ViT-L-14/openai",
        "width": 768,
        "parameters": 303_966_208,
        "origin": "https://huggingface.co/sberbank-ai/ruclip-vit-large-patch14-224/resolve/main/pytorch_model.bin",
        "md5": "9b4a1cd25d15bad4ffd2ba6e34b8a67c",
    },
}
# patch, width of tokens, blocks and heads, beside the row's size and width.
UNICOMS = {
    "vitb32_unicom": {
        "network": (32, 768, 12, 12),
        "width": 512,
        "size": 224,
        "parameters": 116_723_200,
        "origin": "https://github.com/deepglint/unicom/releases/download/b32/FP16-ViT-B-32.pt",
        "sha256": "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
    },
    "vitb16_unicom": {
        "network": (16, 768, 12, 12),
        "width": 768,
        "size": 224,
        "parameters": 201_967_872,
        "origin": "https://github.com/deepglint/unicom/releases/download/b16/FP16-ViT-B-16.pt",
        "sha256": "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
    },
    "vitl14_unicom": {
        "network": (14, 1024, 24, 16),
        "width": 768,
        "size": 224,
        "parameters": 572_328_448,
        "origin": "https://github.com/deepglint/unicom/releases/download/l14/FP16-ViT-L-14.pt",
        "sha256": "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
    },
    "vitl14_336px_unicom": {
        "network": (14, 1024, 24, 16),
        "width": 768,
        "size": 336,
        "parameters": 908_200_448,
        "origin": "https://github.com/deepglint/unicom/releases/download/l14_336px/FP16-ViT-L-14-336px.pt",
        "sha256": "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
    },
}
MOCO = "state_dict.module.encoder_q."


@BACKBONES.register_table(
    VITS, modality="image", output="tokens", weights=("published",), follows=True, size=224, licence="Apache-2.0"
)
def oml_vit(name: str) -> Backbone:
    """A ViT that DINO or DINOv2 trained, or OML from there on: a network of timm, whose class token is taken."""
    network = timm_backbone(PREFIX + VITS[name]["timm"])
    preprocess = ImageInput(IMAGENET.mean, IMAGENET.std, 224, resize_filter="bicubic")
    if VITS[name].get("squashed"):
        preprocess = replace(preprocess, resize_filter="bilinear", resize_mode="squash")
    if VITS[name].get("padded"):
        preprocess = replace(preprocess, resize_filter="linear", resize_mode="pad")
    return Backbone(
        functools.partial(build_oml_vit, name),
        network.width,
        network.stages,
        preprocess,
        prefix_tokens=network.prefix_tokens,
        pooling="cls",
    )


def build_oml_vit(name: str, weights: str | None) -> nn.Module:
    """The network of timm with the weights of the key's address."""
    net = timm_backbone(PREFIX + VITS[name]["timm"]).build(None)
    if weights is not None:
        fill(net, download(VITS[name]["origin"], md5=VITS[name]["md5"]), name)
    return net


@BACKBONES.register_table(
    RESNETS, modality="image", output="maps", weights=("published",), follows=True, size=224, licence="BSD-3-Clause"
)
def oml_resnet(name: str) -> Backbone:
    """A ResNet of torchvision with its weights, or those of MoCo v2, pooled as OML does it."""
    network = resnet(RESNETS[name]["row"])
    preprocess = ImageInput(IMAGENET.mean, IMAGENET.std, 224, 256, "bicubic")
    pooling = "gem" if name == "resnet50_moco_v2" else "avg"
    return Backbone(
        functools.partial(build_oml_resnet, name),
        network.width,
        network.stages,
        preprocess,
        pooling=pooling,
        gem_power=5.0 if pooling == "gem" else 3.0,
    )


def build_oml_resnet(name: str, weights: str | None) -> nn.Module:
    """The network of torchvision; MoCo's file has the one that is kept and one that follows it."""
    row = RESNETS[name]
    network = resnet(row["row"])
    if "md5" not in row:
        return network.build("imagenet" if weights else None)
    net = network.build(None)
    if weights is not None:
        fill(net, download(row["origin"], md5=row["md5"]), name, MOCO)
    return net


@BACKBONES.register_table(
    CLIPS, modality="image", output="vector", weights=("published",), follows=True, size=224, licence="not stated"
)
def oml_clip(name: str) -> Backbone:
    """The image tower of a CLIP, of OpenAI or of Sber. Texts go with OpenAI's, whose tokenizer open_clip has."""
    network = clip_backbone(CLIPS[name]["clip"])
    preprocess = ImageInput(CLIP.mean, CLIP.std, 224, resize_filter="linear", resize_mode="pad")
    return Backbone(
        functools.partial(build_oml_clip, name),
        network.width,
        network.stages,
        preprocess,
        texts=None if "md5" in CLIPS[name] else network.texts,
    )


def build_oml_clip(name: str, weights: str | None) -> nn.Module:
    """The tower of open_clip; Sber's file has a text tower beside it, which is left."""
    row = CLIPS[name]
    if "md5" not in row:
        return build_image_tower(row["clip"], weights)
    net: ImageTower = build_image_tower(row["clip"], None)
    if weights is not None:
        fill(net, download(row["origin"], md5=row["md5"]), name)
    return net


@BACKBONES.register_table(
    UNICOMS, modality="image", output="vector", weights=("published",), follows=True, licence="MIT"
)
def oml_unicom(name: str) -> Backbone:
    """UNICOM (arXiv 2304.05884), a ViT that learned to tell a million clusters of images apart."""
    row = UNICOMS[name]
    with_memory = functools.partial(build_unicom, name)
    return Backbone(
        with_memory,
        row["width"],
        _unicom_stages(row["network"][2]),
        ImageInput(CLIP.mean, CLIP.std, row["size"], resize_filter="bicubic"),
    )


def build_unicom(name: str, weights: str | None) -> nn.Module:
    """The network with the weights of its authors, which are of float16 in their file."""
    row = UNICOMS[name]
    net = Unicom(row["size"], *row["network"], row["width"])
    if weights is not None:
        fill(net, download(row["origin"], row["sha256"]), name)
    return net


def _unicom_stages(depth: int) -> tuple[tuple[str, ...], ...]:
    stages = [("pos_embed", "patch_embed")]
    stages += [(f"blocks.{number}",) for number in range(depth)]
    stages.append(("norm", "feature"))
    return tuple(stages)
