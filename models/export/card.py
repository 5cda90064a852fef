"""A model card as the hub of HuggingFace shows it: README.md with a YAML header."""

import json
from typing import Any

from core.text import counted

README = "README.md"
# In the header of every card that an export writes: only over these it writes.
MARK = "library_name: deep-metric-learning"
TAGS = ("metric-learning", "image-embedding", "image-retrieval", "feature-extraction")

TEXT = """---
{header}
---

# {title}

Images to embeddings of {width} numbers: {backbone}, {pooling}.
Images whose labels are alike have embeddings that are near by cosine{normalised}.

## Figures

{figures}

## Data

{data}

## Input

uint8 RGB images. {resizing} ({resize_filter}). Pixels, 0 to 1, less {mean}, over {std}: the network does that itself.

## How to load it

{usage}

## Licence

{licence}.
"""
RESIZING = {
    "area": "OpenCV's area-averaging, bicubic where a side grows",
    "bilinear": "Pillow's bilinear",
    "bicubic": "Pillow's bicubic",
}
LOADING = {
    "safetensors": """With the repository that trained it:

```python
from embeddings.image_embedder import ImageEmbedder

network = ImageEmbedder.from_pretrained("{name}")
network.embed_image("photo.jpg")  # numpy ({width},), at length 1
```

`model.safetensors` holds plain weights, `model.json` says what they are of; nothing is executed.""",
    "onnx": """```python
import cv2, onnxruntime

network = onnxruntime.InferenceSession("{file}")  # uint8 images (B, 3, H, W) of any one size, resized inside
image = cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB)
network.run(None, {{"images": image.transpose(2, 0, 1)[None]}})[0]
```

`embed.py` does that for files.""",
    "openvino": """```python
import openvino

# uint8 images (B, 3, H, W) of any one size, resized inside; without the hint in bf16 where the processor can.
network = openvino.compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
```

`embed.py` embeds files.""",
    "torchscript": """```python
import torch

network = torch.jit.load("{file}")  # uint8 crops (B, 3, height, width), in the geometry above
```""",
}


def _resizing(geometry: dict[str, Any]) -> str:
    """What becomes of an image before the network, in words."""
    height, width, short_side = geometry["height"], geometry["width"], geometry["short_side"]
    crop = f"the centre crop of\n{height} x {width} pixels is taken"
    if geometry.get("resize_mode", "crop") == "crop":
        return f"The short side goes to {short_side} pixels, then {crop}"
    pads = geometry["resize_mode"] == "pad"
    if short_side == max(height, width):
        if pads:
            return f"All of an image fits into {height} x {width} pixels, in the middle, with white around it"
        return f"All of an image goes to {height} x {width} pixels, whatever the ratio of its sides"
    if pads:
        return f"All of an image fits into {short_side} pixels a side, in the middle, with white around it, then {crop}"
    return f"All of an image goes to {short_side} pixels a side, whatever their ratio, then {crop}"


def readme(card: dict[str, Any], kind: str, name: str) -> str:
    """The text of README.md for what model.json says of a network, exported as `kind`; name: its folder's or hub's."""
    model = card["model"]
    exported = card["exports"][kind]
    geometry = exported["geometry"]
    pooling = f"{model['pooling']} pooling"
    if model.get("head"):
        pooling += f", head {model['head']}"
    normalised = ", and have length 1" if exported["normalised"] else "; they are not of length 1"
    loading = LOADING[kind].format(name=name, file=exported["file"], width=exported["width"])
    return TEXT.format(
        header=_header(card, name),
        title=name.rpartition("/")[2],
        width=exported["width"],
        backbone=model["model"],
        pooling=pooling,
        normalised=normalised,
        figures=_figures(card),
        data=_data(card),
        resizing=_resizing(geometry),
        resize_filter=RESIZING[geometry["resize_filter"]],
        mean=exported["mean"],
        std=exported["std"],
        usage=loading,
        licence=card["licence"][:1].upper() + card["licence"][1:].rstrip("."),
    )


def _header(card: dict[str, Any], name: str) -> str:
    """The YAML header, without its fences; strings are written as JSON, which is YAML."""
    # The hub wants a name of its list; what we know is a sentence.
    lines = ["license: other", f"license_name: {json.dumps('see the section Licence')}", MARK]
    lines += ["pipeline_tag: image-feature-extraction", "tags:"]
    lines += [f"- {tag}" for tag in (*TAGS, card["model"]["model"])]
    lines += ["metrics:", "- recall"]
    recall = card.get("recall")
    if recall:
        lines += [
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
            "  - task:",
            "      type: image-feature-extraction",
            "    dataset:",
            f"      name: {json.dumps(card['tested_on'])}",
            "      type: image-retrieval",
            "    metrics:",
        ]
        for k, value in recall.items():
            lines += [f"    - type: recall@{k}", f"      value: {value:.5f}"]
    return "\n".join(lines)


def _figures(card: dict[str, Any]) -> str:
    recall = card.get("recall")
    if not recall:
        return "None are known: the weights come from no run of this repository."
    rows = [f"| Recall@{k} | {100 * value:.2f} % |" for k, value in recall.items()]
    return "\n".join([f"On {card['tested_on']}, after step {card['step']}:", "", "| | |", "|---|---|", *rows])


def _data(card: dict[str, Any]) -> str:
    lists = card.get("data")
    if not lists:
        return "Not known."
    lines = []
    for split, facts in lists.items():
        lines.append(
            f"- {split}: {facts['file']}, {counted(facts['images'], 'image')} of {counted(facts['labels'], 'label')} "
            f"(SHA-256 {facts['sha256'][:16]}…)"
        )
    return "\n".join(lines)
