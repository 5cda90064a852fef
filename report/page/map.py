"""The report's map: each item a point with its image, label and file, and ways to colour the points."""

import numpy as np
import torch

from report.page.album import TILE, sheet, shortened
from report.page.projection import project, sample_rows

POINTS, CATEGORIES = 4500, 100
SPAN = 10_000  # points come in whole numbers from 0 to this


def map_data(images, embeddings, nearest, projection="pca", distance="cosine"):
    """The map of N images as plain JSON: all of them, or a sample by label.

    nearest (N,): 0 where a row's nearest item is right, 1 where it is wrong, 2 where it did not ask.
    """
    labels = np.asarray(images.labels)
    rows = sample_rows(labels, POINTS)
    points, method = project(torch.as_tensor(embeddings)[rows].cpu().float().numpy(), projection, distance)
    points = points - points.min(0)
    points = np.round(points * (SPAN / (points.max() or 1.0))).astype(int)
    picture, columns = sheet(images, rows)
    colourings = [] if images.categories is None else [_by_category(np.asarray(images.categories)[rows], points)]
    return {
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "labels": [images.label(row) for row in rows],
        "codes": np.unique(labels[rows], return_inverse=True)[1].reshape(-1).tolist(),
        "files": [images.file(row) for row in rows],
        "sheet": picture,
        "side": TILE,
        "columns": columns,
        "colourings": [*colourings, _by_nearest(nearest[rows])],
        "method": method,
        "total": len(labels),
    }


def _by_category(categories, points):
    """Hues go round the map's middle, so that neighbours have similar ones. All but the commonest share the last."""
    names, codes = np.unique(categories.astype(str), return_inverse=True)
    codes = codes.reshape(-1)
    common = np.sort(np.argsort(-np.bincount(codes), kind="stable")[:CATEGORIES])
    place = np.full(len(names), len(common))
    place[common] = np.arange(len(common))
    codes = place[codes]
    sizes = np.maximum(np.bincount(codes, minlength=len(common) + 1), 1)
    middles = np.stack([np.bincount(codes, axis, len(common) + 1) for axis in points.T]) / sizes
    angles = np.arctan2(*(middles - points.mean(0)[:, None])[:, : len(common)])
    hues = angles.argsort(kind="stable").argsort() * 360 // len(common)
    names, colours = [shortened(name) for name in names[common]], hues.tolist()
    if len(common) < len(place):
        names, colours = [*names, f"{len(place) - len(common)} more"], [*colours, "muted"]
    return {"title": "Category", "names": names, "colours": colours, "codes": codes.tolist()}


def _by_nearest(codes):
    names = ["nearest is right", "nearest is wrong", "did not ask"]
    return {"title": "Nearest item", "names": names, "colours": ["right", "wrong", "muted"], "codes": codes.tolist()}
