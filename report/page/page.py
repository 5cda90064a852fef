"""The page of an evaluation: one HTML file with its figures, queries, scores, a map and look-alikes.

Its size does not grow with N: constants in figures.py, examples.py, album.py and map.py say how many of everything are
shown, and the page says where there are more.
"""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.text import counted
from data.records import Records
from embeddings.attention import Attention
from embeddings.table import EmbeddingTable
from report.page.album import Album
from report.page.captions import Captions, list_name
from report.page.content import PageContent
from report.page.duplicates import LookAlikes, closest_across_labels, closest_across_lists, median_positive
from report.page.examples import examples_data
from report.page.figures import categories_data, histogram_data, metrics_data
from report.page.map import map_data
from report.page.template import write_html
from retrieval.metrics.evaluation import Evaluation


def write_page(
    path: str | Path,
    evaluation: Evaluation,
    table: EmbeddingTable,
    model_name: str,
    projection: str,
    leaks: EmbeddingTable | None,
    attention: Attention | None,
    verification: dict | None,
    notices: Sequence[str],
) -> None:
    """Write the page of an evaluated table, which was searched for what each query found and for all pairs' scores.

    model_name: what the page says the embeddings are of. projection: of the map, pca or umap. leaks: the embeddings of
    a list in which to look for images of this one. attention: of the network, for where it looked. verification: same
    or not, as result.json has it, or None. notices: sentences that stand above the figures. Raises InputError where the
    file cannot be written, an image cannot be read, or umap-learn is missing.
    """
    records = table.records
    query_gallery = evaluation.query_gallery
    query_rows = query_gallery.query_rows.cpu().numpy()
    floor = median_positive(evaluation.histogram)
    overall = {name: evaluation.figures[name] for name in evaluation.metrics}
    counts = {"queries": evaluation.queries, "lone_queries": evaluation.lone}
    ranking = evaluation.metrics[0]
    if "map@r" in evaluation.metrics:
        ranking = "map@r"

    leaked, leak_records = None, None
    if leaks is not None:
        leaked = closest_across_lists(table.matrix, leaks.matrix, floor, evaluation.distance)
        leak_records = leaks.records

    facts = {
        "list": list_name(records),
        "model": model_name,
        f"{records.noun}s": f"{len(records):,}",
        "labels": f"{len(records.vocabulary):,}",
        "gallery": f"{len(query_gallery.gallery_rows):,}",
        "embedding": counted(table.matrix.shape[1], "number", ","),
        "distance": evaluation.distance,
        "definitions": evaluation.definition,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    look, look_method = None, ""
    if attention is not None:
        look, look_method = functools.partial(attention.of_pairs, table), attention.method
    content = PageContent(
        title=f"{model_name} on {list_name(records)}",
        facts=facts,
        figures={"overall": overall | counts, "categories": evaluation.categories},
        records=records,
        embeddings=table.matrix,
        query_rows=query_rows,
        results=evaluation.found,
        query_values=evaluation.values[ranking].cpu().numpy(),
        query_metric=ranking,
        histogram=evaluation.histogram,
        distance=evaluation.distance,
        definition=evaluation.definition,
        projection=projection,
        label_pairs=closest_across_labels(
            evaluation.found, query_rows, records.vocabulary.codes, floor, evaluation.distance
        ),
        leaks=leaked,
        others=leak_records,
        look=look,
        look_method=look_method,
        verification=verification,
        notices=tuple(notices),
    )
    write_content(path, content)


def write_content(path: str | Path, content: PageContent) -> None:
    """Write a page as one HTML file, whole or not at all.

    Raises InputError where the file cannot be written, an image cannot be read, lengths differ, labels are unknown, or
    umap-learn is missing.
    """
    content.check_lengths()
    overall = content.figures["overall"]
    list_names = [list_name(content.records), None]
    if content.others is not None:
        list_names[1] = list_name(content.others)
    score = "squared distance with a minus sign"
    if content.distance == "cosine":
        score = "cosine similarity"

    album = Album(content.load_image)
    data = {
        "title": content.title,
        "facts": _facts(content),
        "metrics": metrics_data(overall, content.definition),
        "counts": {name: overall[name] for name in ("queries", "lone_queries")},
        "categories": categories_data(content.figures),
        "score": score,
        "queries": examples_data(content, album),
        "histogram": histogram_data(content.histogram),
        "map": map_data(content),
        "label_pairs": _look_alikes(content.label_pairs, content.records, content.records, album),
        "leaks": _look_alikes(content.leaks, content.records, content.others, album),
        "lists": list_names,
        "look_method": content.look_method,
        "verification": content.verification,
        "notices": list(content.notices),
    }
    # Last, when the album has been given all that the page shows.
    data["items"], data["looks"] = album.contents()
    write_html(path, data)


def _facts(content: PageContent) -> list[list[str]]:
    """The facts, and the folder that is left out of the files' names."""
    facts = dict(content.facts)
    folder = Captions(content.records).folder
    if folder:
        facts["folder"] = folder
    return [[str(name), str(value)] for name, value in facts.items()]


def _look_alikes(pairs: LookAlikes | None, records: Records, others: Records | None, album: Album) -> dict | None:
    if pairs is None:
        return None
    shown = []
    for left, right, score in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.scores.tolist()):
        shown.append([album.number(records, left), album.number(others, right), round(score, 4)])
    floor = None
    if np.isfinite(pairs.floor):
        floor = pairs.floor
    return {"pairs": shown, "total": pairs.total, "floor": floor}
