"""The page's map: each item a point with its image, label and file, and ways to colour the points."""

import numpy as np

from report.page.album import TILE, contact_sheet
from report.page.captions import Captions, shortened
from report.page.content import PageContent
from report.page.projection import project, sample_rows

POINTS, CATEGORIES = 4500, 100
SPAN = 10_000  # points come in whole numbers from 0 to this


def map_data(content: PageContent) -> dict:
    """The map of N images as plain JSON: all of them, or a sample by label."""
    records = content.records
    labels = records.label_texts
    rows = sample_rows(labels, POINTS)
    embeddings = content.embeddings[rows].cpu().float().numpy()
    points, method = project(embeddings, content.projection, content.distance)
    points = points - points.min(0)
    # Without any spread all points stand in the corner.
    points = np.round(points * (SPAN / (points.max() or 1.0))).astype(int)

    sheet, columns = contact_sheet(records, rows, content.load_image)
    colourings = []
    if records.categories is not None:
        colourings.append(_by_category(records.category_texts[rows], points))
    colourings.append(_by_nearest(_judge_nearest(content)[rows]))

    captions = Captions(records)
    return {
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "labels": [captions.label(row) for row in rows],
        "codes": np.unique(labels[rows], return_inverse=True)[1].reshape(-1).tolist(),
        "files": [captions.file(row) for row in rows],
        "sheet": sheet,
        "side": TILE,
        "columns": columns,
        "colourings": colourings,
        "method": method,
        "total": len(labels),
    }


def _by_category(categories: np.ndarray, points: np.ndarray) -> dict:
    """Hues go round the map's middle, so that neighbours have similar ones. All but the commonest share the last."""
    names, codes = np.unique(categories, return_inverse=True)
    codes = codes.reshape(-1)
    common = np.sort(np.argsort(-np.bincount(codes), kind="stable")[:CATEGORIES])
    common_codes = np.full(len(names), len(common))
    common_codes[common] = np.arange(len(common))
    codes = common_codes[codes]

    # The middle of each category's points, and the angle under which the map's middle sees it.
    sizes = np.maximum(np.bincount(codes, minlength=len(common) + 1), 1)
    middles = np.stack([np.bincount(codes, axis, len(common) + 1) for axis in points.T]) / sizes
    angles = np.arctan2(*(middles - points.mean(0)[:, None])[:, : len(common)])
    hues = angles.argsort(kind="stable").argsort() * 360 // len(common)

    shown = [shortened(name) for name in names[common]]
    colours = hues.tolist()
    if len(common) < len(names):
        shown.append(f"{len(names) - len(common)} more")
        colours.append("muted")
    return {"title": "Category", "names": shown, "colours": colours, "codes": codes.tolist()}


def _by_nearest(codes: np.ndarray) -> dict:
    names = ["nearest is right", "nearest is wrong", "did not ask"]
    return {"title": "Nearest item", "names": names, "colours": ["right", "wrong", "muted"], "codes": codes.tolist()}


def _judge_nearest(content: PageContent) -> np.ndarray:
    """(N,) whether each row's nearest item is right: 0 yes, 1 no, 2 it did not ask or found nothing."""
    codes = np.full(len(content.records), 2)
    found_some = content.results.counts.cpu().numpy() > 0
    nearest_right = content.results.hits[:, 0].cpu().numpy()
    codes[np.asarray(content.query_rows)[found_some]] = np.where(nearest_right[found_some], 0, 1)
    return codes
