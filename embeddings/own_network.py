"""The network that an index keeps beside its items, as ONNX: it embeds a few images without torch.

`search.py build --runtime=onnx` keeps the file by which it embedded the items. That it is of the index's model is told
by the fingerprint in it; what it makes of an image differs from torch's by rounding, a cosine of 1e-4 at the most
(tests/test_own_network.py).
"""

import importlib.util
import json
from argparse import ArgumentTypeError
from typing import NamedTuple

import numpy as np

from core.console import log
from core.errors import InputError
from core.files import replacing
from core.onnx_session import open_session, usual_threads
from core.slices import slices_of
from core.text import shown_path
from core.types import count, image_shape, plain
from data.image.files import load
from data.image.geometry import MODES, TestGeometry
from data.image.resize import FILTERS
from data.records import Records
from data.workers import FEW_IMAGES
from embeddings.queries import Queries
from retrieval.index.folder import NETWORK
from retrieval.index.index import Index

FINGERPRINT = "fingerprint"  # the entry of the file's metadata


class Seen(NamedTuple):
    """What a network sees of an image, as a fingerprint tells it."""

    image_shape: tuple[int, int, int]
    resize_short_size: int
    resize_filter: str
    resize_mode: str


def keep_network(index: Index, network: bytes | None) -> None:
    """Keep an ONNX file of the index's model beside its items; None: keep none. Raises InputError where the disk
    refuses."""
    file = index.folder / NETWORK
    if network is None:
        file.unlink(missing_ok=True)
        return
    import onnx  # of whoever has such a network it is imported already

    model = onnx.load_from_string(network)
    onnx.helper.set_model_props(model, {FINGERPRINT: json.dumps(index.card["fingerprint"], sort_keys=True)})
    with replacing(file) as opened:
        opened.write(model.SerializeToString())


def embed_by_own_network(index: Index, records: Records, batch_size: int) -> Queries | None:
    """The images of a list as the index's own network embeds them; None where there is none, or it is better not asked.

    That is so without onnxruntime, for another model's network, and for lists of other things, or of so many that
    they are worth processes to load them. Raises InputError for an image that cannot be read.
    """
    file = index.folder / NETWORK
    if not file.is_file() or importlib.util.find_spec("onnxruntime") is None:
        return None
    seen = _seen(index.card["fingerprint"])
    if seen is None or records.modalities != {"image"} or len(records) >= FEW_IMAGES:
        return None
    session = open_session(file, f"the network of {index.folder}", usual_threads())
    told = session.get_modelmeta().custom_metadata_map.get(FINGERPRINT)
    if told != json.dumps(index.card["fingerprint"], sort_keys=True):
        return None
    log(f"the network is {shown_path(file)}, the index's own")
    geometry = TestGeometry.of(seen)
    name = session.get_inputs()[0].name
    batches = []
    for rows in slices_of(len(records), batch_size):
        crops = np.stack([geometry.crop(load(records, row)) for row in range(rows.start, rows.stop)])
        batches.append(session.run(None, {name: np.ascontiguousarray(crops.transpose(0, 3, 1, 2))})[0])
    return Queries(records, np.concatenate(batches), index.card["fingerprint"])


def _seen(fingerprint: dict | None) -> Seen | None:
    """None for a fingerprint that is of no network for images, or is damaged, as the road by torch says then."""
    facts = {"resize_short_size": 0, "resize_filter": "area", "resize_mode": "crop", **(fingerprint or {})}
    try:
        shape, short_side = image_shape(plain(facts["image_shape"])), count(plain(facts["resize_short_size"]))
        seen = Seen(shape, short_side, str(facts["resize_filter"]), str(facts["resize_mode"]))
        TestGeometry.of(seen)
    except (ArgumentTypeError, InputError, KeyError):
        return None
    if seen.resize_filter not in FILTERS or seen.resize_mode not in MODES:
        return None
    return seen
