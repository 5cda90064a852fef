"""The script that stands beside an exported file, and uses it without torch and without this repository."""

SCRIPT = "embed.py"
# They decode a file's bytes, as training does: cv2.imread refuses a TIFF that has to be turned on its side. OpenVINO
# left to itself computes in bf16 where the processor can, which is not what the export was held against.
# The first words of what an export writes: only over these it writes.
MARK = '"""Embeddings of image files'

ONNX = (
    MARK
    + ''', one a line, without torch: python embed.py photo.jpg ... (numpy, onnxruntime, opencv)."""
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

network = onnxruntime.InferenceSession(str(Path(__file__).with_name("FILE")))
for path in sys.argv[1:]:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    print(path, *network.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0][0].tolist())
'''
)
OPENVINO = (
    MARK
    + ''', one a line, without torch: python embed.py photo.jpg ... (numpy, openvino, opencv)."""
import sys
from pathlib import Path

import cv2
import numpy as np
import openvino

network = openvino.compile_model(str(Path(__file__).with_name("FILE")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for path in sys.argv[1:]:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    print(path, *network(pixels.transpose(2, 0, 1)[None].copy())[0][0].tolist())
'''
)
SCRIPTS = {"onnx": ONNX, "openvino": OPENVINO}


def script_for(kind: str, file: str) -> str | None:
    """The script's text for an exported `file` of a kind; None for a kind that has none."""
    if kind not in SCRIPTS:
        return None
    return SCRIPTS[kind].replace("FILE", file)
