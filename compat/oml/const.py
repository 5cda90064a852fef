"""OML's constants: columns of a table, keys of a batch, colours, and folders, which are made when they are used."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

LABELS_COLUMN = "label"
SPLIT_COLUMN = "split"
IS_QUERY_COLUMN = "is_query"
IS_GALLERY_COLUMN = "is_gallery"
CATEGORIES_COLUMN = "category"
SEQUENCE_COLUMN = "sequence"
TEXTS_COLUMN = "text"
START_TIME_COLUMN = "start_time"
PATHS_COLUMN = "path"
X1_COLUMN = "x_1"
X2_COLUMN = "x_2"
Y1_COLUMN = "y_1"
Y2_COLUMN = "y_2"
OBLIGATORY_COLUMNS = [LABELS_COLUMN, SPLIT_COLUMN, IS_QUERY_COLUMN, IS_GALLERY_COLUMN]
BBOXES_COLUMNS = [X1_COLUMN, X2_COLUMN, Y1_COLUMN, Y2_COLUMN]

OVERALL_CATEGORIES_KEY = "OVERALL"
INPUT_TENSORS_KEY = "input_tensors"
INPUT_TENSORS_KEY_1 = "input_tensors_1"
INPUT_TENSORS_KEY_2 = "input_tensors_2"
LABELS_KEY = "labels"
EMBEDDINGS_KEY = "embeddings"
INDEX_KEY = "idx"

TColor = tuple[int, int, int]
RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
GRAY = (120, 120, 120)
BLACK = (0, 0, 0)
PAD_COLOR = (255, 255, 255)

TBBox = tuple[int, int, int, int]
TBBoxes = Sequence[TBBox | None]
CROP_KEY = "crop"

TCfg = Mapping[str, Any]
HYDRA_BEHAVIOUR = "1.1"
REQUESTS_TIMEOUT = 120.0  # seconds
BS_KNN = 5_000

TNormParam = tuple[float, float, float]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MEAN_CLIP = (0.48145466, 0.4578275, 0.40821073)
STD_CLIP = (0.26862954, 0.26130258, 0.27577711)

LOG_IMAGE_FOLDER = "image_logs"
LOG_TOPK_ROWS_PER_METRIC = 5
LOG_TOPK_IMAGES_PER_ROW = 5
N_GT_SHOW_EMBEDDING_METRICS = 2

MOCK_DATASET_DEFAULT_CSV = "df.csv"
IMAGE_EXTENSIONS = ["jpg", "jpeg", "JPG", "JPEG", "png"]
AUDIO_EXTENSIONS = [".mp3", ".wav", ".ogg", ".flac"]
MAX_AUDIO_LEN = 3.0  # seconds
DEFAULT_SAMPLE_RATE = 16_000
DEFAULT_CONVERT_TO_MONO = True


def get_cache_folder() -> Path:
    """Where what is made for the next time lies."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compat_oml"


def __getattr__(name: str) -> Path:
    if name == "CKPT_SAVE_ROOT":
        # Where published weights are downloaded to.
        return Path(torch.hub.get_dir()) / "checkpoints"
    if name == "TMP_PATH":
        return Path(tempfile.gettempdir())
    if name == "CACHE_PATH":
        return get_cache_folder()
    if name == "MOCK_DATASET_PATH":
        # Whoever asks for the folder looks into it, without a call that would make it.
        from compat.oml.utils._drawn_shapes import draw_shapes

        return draw_shapes(get_cache_folder() / "mock_dataset")
    if name == "MOCK_AUDIO_DATASET_PATH":
        from compat.oml.utils._played_tones import play_tones

        return play_tones(get_cache_folder() / "mock_audio_dataset")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
