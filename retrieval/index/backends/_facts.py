"""What a database on a server is told of items beside their embeddings, for other programs that ask it."""

import math

import numpy as np

from retrieval.index.segments import Rows


def facts_of(rows: Rows, ids: np.ndarray) -> list[dict]:
    """What other programs can see of items: label as it is, its name, category, path and box; None is empty to Qdrant.

    Unknown ones are None. A name stays what it was when the item was added.
    """
    columns = zip(
        ids.tolist(),
        rows.labels(ids).tolist(),
        rows.categories(ids).tolist(),
        rows.paths(ids),
        rows.boxes(ids).tolist(),
    )
    payloads = []
    for id_, label, category, path, box in columns:
        name = None
        if label is not None:
            name = rows.label_names.get(str(label))
        if math.isnan(box[0]):
            box = None
        payloads.append(
            {
                "id": id_,
                "label": as_utf8(label),
                "name": as_utf8(name),
                "category": as_utf8(category),
                "path": as_utf8(path),
                "box": box,
            }
        )
    return payloads


def as_utf8(value: str | int | None) -> str | int | None:
    """A text without what UTF-8 cannot hold, as a file's name may have it; anything else as it is."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return value
