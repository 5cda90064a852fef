"""Little pages to test with: plain coloured images, a colour for each row, and what a page holds read back."""

import json
import re

import cv2
import numpy as np
import torch

from data.records import Records
from report.page.content import PageContent
from retrieval.metrics.pairs import pair_histogram
from retrieval.metrics.per_query import query_values, summary
from retrieval.metrics.ranking import DEFAULT
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

HOSTILE = (
    '"><script>window.hacked=1</script>',
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "javascript:window.hacked=1",
    "'onmouseover='window.hacked=1",
    "__proto__",
    "constructor",
    "\u202eexe.gpj\u200f",
    "line\u2028and\u2029paragraph",
    "{{data}}{{policy}}&lt;b&gt;${window.hacked=1}",
    "a\udc80b",  # what a file name that is no UTF-8 becomes
    "w" * 300,
)


COLOUR_ERROR = 10  # grey levels of lossy pictures; any two of 50 rows have colours that are 22 apart in a channel


def colour_of(row):
    """Row's colour, RGB; neighbouring rows differ much."""
    hsv = np.uint8([[[row * 67 % 180, 210, 235 - row % 3 * 40]]])
    return tuple(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist())


def load(records, row):
    return np.full((30, 30, 3), colour_of(row), np.uint8)


def records_of(source, paths, labels, categories=None):
    """A list in which every image asks and can be found."""
    everyone = np.ones(len(paths), dtype=bool)
    return Records(source, np.asarray(paths), np.asarray(labels), everyone, everyone, categories)


def clusters(labels, spread=0.6, width=8, seed=0):
    """Embeddings (N, width) that gather by label."""
    rng = np.random.default_rng(seed)
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    middles = rng.normal(size=(codes.max() + 1, width))
    return torch.from_numpy(middles[codes] + spread * rng.normal(size=(len(codes), width))).float()


def make_content(labels, embeddings=None, paths=None, categories=None, k=20, distance="cosine", **changes):
    """The content of a page on a list in which every row asks; changes replace its fields."""
    labels = np.asarray(labels)
    embeddings = clusters(labels) if embeddings is None else torch.as_tensor(embeddings).float()
    paths = np.array([f"shelf/{label}/{row}.png" for row, label in enumerate(labels)] if paths is None else paths)
    task = QueryGallery.of(embeddings, labels, categories=categories)
    names = DEFAULT if len(labels) > 10 else ("recall@1", "map@r")
    values = query_values(task, names, distance=distance)
    fields = {
        "title": "A test",
        "facts": {"list": "test.txt"},
        "figures": summary(values, task.positives(), task.query_categories),
        "records": records_of("test.txt", paths, labels, categories),
        "embeddings": embeddings,
        "query_rows": task.query_rows.numpy(),
        "results": RetrievalResults.from_query_gallery(task, k, distance),
        "query_values": values["map@r"].numpy(),
        "query_metric": "map@r",
        "histogram": pair_histogram(task, distance),
        "distance": distance,
        "load_image": load,
    }
    return PageContent(**{**fields, **changes})


def data_of(path):
    """What the page's script is given."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
