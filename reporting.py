"""What an evaluation shows and saves beside its figures: pictures of queries, what was found, the report page."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from report.picture import letterbox, neighbour_sheet

from core.files import replace_json
from core.types import one_of, positive
from data.image.files import load
from report.page import Images, Report, worst_queries, write_report
from report.page.duplicates import closest_across_labels, closest_across_lists, median_positive
from report.page.projection import METHODS, sample_rows
from retrieval.metrics.ranking import Ranked, values
from retrieval.results import RetrievalResults

SHOWN, TOP = 5, 10  # nearest items in a picture; items by which the worst queries are chosen
WORST, PROJECTED, TILE = 8, 1000, 32  # queries and embeddings on TensorBoard; pixels of an image there


def add_result_flags(parser):
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir", help="folder of result.json (default: eval/ in the run's folder, else output/eval)"
    )
    group.add_argument("--save_embeddings", help="write the embeddings and the list's columns to this .npz")
    group.add_argument("--save_results", help="write what each query found to this .npz or .json")
    group.add_argument("--top", type=positive, default=100, help="items of each query that are re-ranked, saved, shown")
    group.add_argument("--picture", help="write some queries with their five nearest to this .png")
    group.add_argument("--picture_queries", type=positive, default=8, help="rows of the picture")
    group.add_argument("--report", help="write figures, queries, a map and look-alikes as one page, this .html")
    group.add_argument("--projection", type=one_of(METHODS), default="pca", help="of the report's map: pca or umap")
    group.add_argument("--leaks_from", help="a list (or .npz), such as the train list, whose images to look for here")


def draw_evenly(path, evaluation, rows):
    """Evenly spaced queries with their five nearest; the same queries for every model of the same list."""
    chosen = np.linspace(
        0, len(evaluation.query_gallery.query_rows) - 1, min(rows, len(evaluation.query_gallery.query_rows)), dtype=int
    )
    return draw(evaluation.query_gallery, evaluation.results, evaluation.records, chosen, path)


def draw(task, results, images, chosen, path=None):
    """A sheet of the queries at the places `chosen` (M,), uint8 (H, W, 3); results None: they are searched for."""
    places, captions = chosen.tolist(), []
    if results is None:
        task = task.query_slice(torch.from_numpy(chosen))
        results, chosen, places = RetrievalResults.from_task(task, SHOWN), slice(None), range(len(places))
    sheet = []
    for query, place in zip(task.query_rows[chosen].tolist(), places):
        columns = (results.padded_ids, results.hits, results.padded_distances)
        found = zip(*(column[place, :SHOWN].tolist() for column in columns))
        shown = [(load(images, row), right, 1 - distance) for row, right, distance in found if row >= 0]
        sheet.append((load(images, query), shown))
        captions.append(images.label_text(query))
    return neighbour_sheet(sheet, path, captions=captions)


def save_found(path, evaluation):
    """What each query found: .npz for RetrievalResults.load, .json with the paths that its ids and queries number."""
    results = evaluation.results
    if path.suffix == ".npz":
        results.save(path)
    else:
        rows = evaluation.task.query_rows.tolist()
        replace_json(path, {"paths": evaluation.images.paths.tolist(), "queries": rows, "found": results.to_dicts()})


def write_page(path, evaluation, embeddings, projection="pca", others=None):
    """The report of an Evaluation. others: (ImageList, embeddings) of a list to look for leaks in, or None."""
    args, images, found = evaluation.args, evaluation.images, evaluation.found
    floor, rows = median_positive(evaluation.histogram), evaluation.task.query_rows.cpu().numpy()
    counts = {"queries": evaluation.queries, "lone_queries": evaluation.lone}
    overall = {name: evaluation.figures[name] for name in evaluation.metrics}
    ranking = "map@r" if "map@r" in evaluation.metrics else evaluation.metrics[0]
    facts = {
        "list": Path(images.source).name,
        "model": args.pretrained_model or "saved embeddings",
        "images": f"{len(images):,}",
        "labels": f"{len(images.vocabulary):,}",
        "gallery": f"{len(evaluation.task.gallery_rows):,}",
        "embedding": f"{embeddings.shape[1]:,} numbers",
        "distance": args.distance,
        "definitions": args.definition,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    report = Report(
        title=f"{facts['model']} on {facts['list']}",
        facts=facts,
        figures={"overall": overall | counts, "categories": evaluation.categories},
        images=_shown(images),
        embeddings=embeddings,
        query_rows=rows,
        results=found,
        query_values=evaluation.values[ranking].cpu().numpy(),
        query_metric=ranking,
        histogram=evaluation.histogram,
        distance=args.distance,
        definition=args.definition,
        projection=projection,
        label_pairs=closest_across_labels(found, rows, images.vocabulary.codes, floor, args.distance),
        leaks=others and closest_across_lists(embeddings, others[1], floor, args.distance),
        others=others and _shown(others[0]),
    )
    write_report(path, report)


def worst_queries_picture(images, task):
    """The worst queries by MAP@10 with their nearest, uint8 (H, W, 3) RGB; None where no query has anything to find."""
    results = RetrievalResults.from_task(task, TOP)
    worst = worst_queries(results, values(Ranked.of(results), (f"map@{TOP}",))[f"map@{TOP}"].cpu().numpy())
    return draw(task, results, images, worst[:WORST]) if len(worst) else None


class EmbeddingSample(NamedTuple):
    """Some embeddings (n, D), a picture (n, TILE, TILE, 3) uint8 and a text for every column of each."""

    embeddings: torch.Tensor
    tiles: np.ndarray
    texts: list[list[str]]
    columns: tuple[str, str] = ("label", "file")


def embedding_sample(images, task):
    """A sample of the list by label, the same at each test of a run."""
    rows = sample_rows(images.vocabulary.codes, PROJECTED)
    tiles = np.stack([letterbox(load(images, row), TILE) for row in rows])
    texts = zip(images.label_texts[rows].tolist(), images.paths[rows].tolist())
    chosen = task.gallery_table[torch.from_numpy(rows).to(task.device)].cpu()
    return EmbeddingSample(chosen, tiles, [[label, Path(path).name] for label, path in texts])


def _shown(images):
    name = Path(images.source).name
    texts, categories = images.label_texts, images.category_texts
    return Images(name, images.paths, texts, lambda row: load(images, row), categories)
