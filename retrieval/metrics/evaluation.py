"""All figures of one list's embeddings: metrics, pairs, shape, and what post-processing makes of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch

from core.console import log
from core.errors import InputError
from core.slices import search_memory
from core.text import counted
from core.types import Positive, Rates, SomeOf, Widths, Words
from retrieval.metrics.clustering import cluster_agreement
from retrieval.metrics.components import component_fractions
from retrieval.metrics.pairs import PairHistogram, fnmr_at_fmr, pair_histogram
from retrieval.metrics.per_query import Means, query_values, summary
from retrieval.metrics.photos import curve_of_photos
from retrieval.metrics.ranking import Ranked, describe, parse_metric, parse_metrics, values
from retrieval.metrics.spread import collapse_notes
from retrieval.query_gallery import QueryGallery
from retrieval.rerank import PairDistances, chain_options, open_chain
from retrieval.results import RetrievalResults
from retrieval.sharded import GalleryShard

MOST_CATEGORIES = 12  # printed; all of them are in result.json

Figures = dict[str, float | None | dict[str, float]]


class Vocabulary(Protocol):
    """The labels of a list; `codes` (N,) int64 are numbers in their place."""

    codes: np.ndarray


class Records(Protocol):
    """The list that embeddings are of, as far as figures need it (data/)."""

    vocabulary: Vocabulary

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Evaluation:
    """The figures of one list's embeddings, and how they were asked for.

    metrics: names, recall@1 among them. figures: {name: figure} overall; categories: {category: {name: figure}};
    values: {metric: (Q,)}, a figure a query; queries, lone: how many there are, and how many without a positive.
    found: what each query found; results: the same after post-processing; links: {link of the chain: figures after it};
    histogram: scores of all pairs; these are None or empty where nobody asked for them. notes: sentences on the
    embeddings as a whole.
    """

    query_gallery: QueryGallery
    records: Records
    metrics: tuple[str, ...]
    definition: str
    distance: str
    skip_lone: bool
    top: int
    postprocess: tuple[str, ...]
    postprocess_options: dict[str, object]
    figures: Figures
    categories: dict[str, Means]
    queries: int
    lone: int
    values: dict[str, torch.Tensor]
    histogram: PairHistogram | None
    found: RetrievalResults | None
    results: RetrievalResults | None
    links: dict[str, Figures]
    notes: tuple[str, ...]

    def as_result(self) -> dict[str, object]:
        """What result.json holds of it."""
        recall = {}
        for name in self.metrics:
            if "recall@" in name:
                recall[name.removeprefix("recall@")] = self.figures[name]
        postprocess = None
        if self.postprocess:
            postprocess = {"options": self.postprocess_options, "items": self.top, "metrics": self.links}
        return {
            "metrics": self.figures,
            "recall": recall,
            "categories": self.categories,
            "postprocess": postprocess,
            "definition": self.definition,
            "definitions": {name: describe(name, self.definition)[1] for name in self.metrics},
            "distance": self.distance,
            "images": len(self.records),
            "gallery": len(self.query_gallery.gallery_rows),
            "queries": self.queries,
            "queries_without_positive": self.lone,
            "lone_queries_skipped": self.skip_lone,
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """The figures as one table, with those after post-processing beside them, and what they are of."""
        # After post-processing a column a link; else a column a category, if they fit on a screen.
        columns = {"overall": self.figures}
        lines = []
        if self.postprocess:
            for number, (title, figures) in enumerate(self.links.items()):
                columns[f"+ {title}" if number else title] = figures
            lines.append(f"top {self.top}: as found, and then + one post-processor after the other")
        elif len(self.categories) <= MOST_CATEGORIES:
            for category, figures in self.categories.items():
                columns[category] = {name: figures[name] for name in self.metrics}
        if "best_threshold" in self.figures:
            best = self.figures["best_threshold"]
            lines.append(
                f"best threshold over all pairs, chosen on these very data: {self._threshold_text(best['score'])}, F1 "
                f"{best['f1']:.4f} (precision {best['precision']:.4f}, recall {best['recall']:.4f})"
            )
        rule = "left out" if self.skip_lone else "counted as misses"
        lines.append(
            f"{counted(len(self.records), self.records.noun)}, {counted(self.queries, 'query')}, "
            f"{len(self.query_gallery.gallery_rows)} in the gallery; "
            f"{counted(self.lone, 'query')} without a positive, {rule}"
        )
        return "\n".join([percent_table(columns), *lines])

    def _threshold_text(self, score: float) -> str:
        """A score in words, with the distance that it is to --postprocess=constant_threshold."""
        if self.distance == "cosine":
            return f"cosine {score:.3f}, which is --postprocess=constant_threshold --threshold={1 - score:.3f}"
        return f"squared distance {-score:.3f}, which is --postprocess=constant_threshold --threshold={-score:.3f}"


def threshold_facts(score: float, distance: str) -> dict[str, float]:
    """A score under the name of what it is, and as `threshold` the distance of --postprocess=constant_threshold."""
    if distance == "cosine":
        return {"cosine": score, "threshold": 1 - score}
    return {"squared_distance": -score, "threshold": -score}


def check_figures(
    metrics: Iterable[str], postprocess: Collection[str], distance: str, options: dict[str, object], top: int
) -> None:
    """Raise InputError for a metric that there is not, and for a post-processor that does not fit: before any work.

    top: items of each query that post-processors are handed.
    """
    parse_metrics(",".join(metrics))
    open_chain(postprocess, options, distance)
    top_n = chain_options(postprocess, options).get("top_n", 0)
    if top_n > top:
        raise InputError(
            f"--top_n={top_n} is to put more items of each query in order than the --top={top} that are found; "
            f"--top={top_n} finds as many"
        )


def evaluate(
    query_gallery: QueryGallery,
    embeddings: torch.Tensor | GalleryShard,
    records: Records,
    needs_results: bool = False,
    needs_histogram: bool = False,
    postprocess_options: dict[str, object] | None = None,
    pair_distances: PairDistances | None = None,
    *,
    metrics: Words = ("recall@1", "recall@5", "recall@10", "map@r", "r_precision", "mrr"),
    definition: Literal["standard", "oml", "pml"] = "standard",
    skip_lone_queries: bool | None = None,
    fmr: Rates = (),
    pcf: Rates = (),
    pairs: bool = False,
    clustering: bool = False,
    distance: Literal["cosine", "squared_euclidean"] = "cosine",
    search_memory_mb: Positive | None = None,
    postprocess: Annotated[tuple[str, ...], SomeOf("retrieval/rerank")] = (),
    top: Positive = 100,
    photos_curve: Widths = (),
) -> Evaluation:
    """The figures of a list's embeddings.

    Options:
        metrics: comma-separated, such as recall@1,map@r
        definition: where peers differ: standard, oml, pml
        skip_lone_queries: leave queries without a positive out (default: they are misses; left out by --definition=pml)
        fmr: false match rates at which to give the false non-match rate
        pcf: shares of the variance whose components to count
        pairs: areas and best threshold over all pairs
        clustering: how k-means clusters agree with the labels
        distance: one of cosine, squared_euclidean
        search_memory_mb: memory of a search beside the embeddings, in MB (default: 256, on an accelerator 1024)
        postprocess: comma-separated, one after the other: {retrieval/rerank}; their own flags:
            --postprocess=NAME --help
        top: items of each query that are re-ranked, saved, shown
        photos_curve: Recall@1 with so many photos of each label in the gallery, such as 1,2,4

    embeddings: (N, D), or this rank's GalleryShard of them, of which every rank then makes the same figures;
    query_gallery is of them, or of a placeholder; records: the list that they are of. needs_results, needs_histogram:
    whether `results` or `histogram` are wanted where no figure needs them. postprocess_options: {option: value} of the
    post-processors, their defaults for what is missing; pair_distances: for those that look at pairs. Raises
    InputError for what does not fit together.
    """
    # First, since it may refuse, and figures can take minutes.
    chain = open_chain(postprocess, postprocess_options or {}, distance, pair_distances)
    # Every result has this one: runs are told apart by it.
    if "recall@1" not in metrics:
        metrics = ("recall@1", *metrics)
    if skip_lone_queries is None:
        skip_lone_queries = definition == "pml"
    memory = search_memory(query_gallery.device.type, search_memory_mb)
    _note_large_k(metrics, len(query_gallery.gallery_rows))
    # With a shard, all ranks search together.
    shard = embeddings if isinstance(embeddings, GalleryShard) else None
    columns = query_values(query_gallery, metrics, definition, distance, memory, shard)
    means = summary(columns, query_gallery.positives(), query_gallery.query_categories, skip_lone_queries)
    # Counts are no figures, though they stand beside them.
    figures = means["overall"]
    queries = figures.pop("queries")
    lone = figures.pop("lone_queries")

    histogram = None
    if pairs or fmr or needs_histogram:
        histogram = pair_histogram(query_gallery, distance, memory)
    if pairs:
        figures["pr_auc"] = histogram.pr_auc()
        figures["average_precision"] = histogram.average_precision()
        best = histogram.best_threshold()
        figures["best_threshold"] = {**best._asdict(), **threshold_facts(best.score, distance)}
    if fmr:
        for rate, value in fnmr_at_fmr(query_gallery, fmr, distance, memory, histogram).items():
            figures[f"fnmr@fmr={rate:g}"] = value
    if pcf:
        # pml has no definition of its own.
        pcf_definition = "oml" if definition == "oml" else "standard"
        for variance, value in component_fractions(embeddings, pcf, pcf_definition).items():
            figures[f"pcf@{variance:g}"] = value
    if photos_curve:
        for point in curve_of_photos(query_gallery, photos_curve, 0, distance, memory):
            figures |= point.as_figures()
    if clustering:
        figures |= cluster_agreement(embeddings, records.vocabulary.codes)

    found = None
    results = None
    links = {}
    if postprocess or needs_results:
        found = RetrievalResults.from_query_gallery(query_gallery, top, distance, memory)
        # All figures of the chain, the first ones too, are over the items that results hold.
        results = found
        links[f"top {top}"] = _figures_of(results, metrics, definition, skip_lone_queries)
        for name, reranker in zip(postprocess, chain):
            results = reranker.process(results, query_gallery)
            links[name] = _figures_of(results, metrics, definition, skip_lone_queries)

    # By squared distances, embeddings that all point one way may still lie apart.
    notes = collapse_notes(embeddings) if distance == "cosine" else ()

    return Evaluation(
        query_gallery=query_gallery,
        records=records,
        metrics=metrics,
        definition=definition,
        distance=distance,
        skip_lone=skip_lone_queries,
        top=top,
        postprocess=postprocess,
        postprocess_options=chain_options(postprocess, postprocess_options or {}),
        figures=figures,
        categories=means["categories"],
        queries=queries,
        lone=lone,
        values=columns,
        histogram=histogram,
        found=found,
        results=results,
        links=links,
        notes=tuple(notes),
    )


def _note_large_k(metrics: tuple[str, ...], gallery_size: int) -> None:
    """Say which metrics ask for more items than there are."""
    beyond = []
    for name in metrics:
        _, k = parse_metric(name)
        if k is not None and k > gallery_size:
            beyond.append(name)
    if beyond:
        log(f"{', '.join(beyond)}: the gallery has {counted(gallery_size, 'item')}, so k is {gallery_size}")


def _figures_of(results: RetrievalResults, metrics: tuple[str, ...], definition: str, skip_lone: bool) -> Figures:
    """Means of the metrics that results can tell: a vote of neighbours needs labels that they do not hold."""
    names = [name for name in metrics if not name.startswith("knn")]
    columns = values(Ranked.of(results), names, definition)
    means = summary(columns, results.positives, skip_lone=skip_lone)["overall"]
    return {name: means[name] for name in names}


def percent_table(columns: dict[str, Figures]) -> str:
    """Columns {title: {row: figure}} as text, in %; figures that are no numbers are left out."""
    numbers = {}
    for title, figures in columns.items():
        numbers[title] = {row: figure for row, figure in figures.items() if not isinstance(figure, dict)}
    # A row for every figure, in the order in which columns first name it.
    rows = list(dict.fromkeys(row for figures in numbers.values() for row in figures))
    row_width = max(len(row) for row in rows) + 1
    widths = {title: max(8, len(title)) for title in columns}
    header = [f"{'%':<{row_width}}"]
    for title, width in widths.items():
        header.append(f"{title:>{width}}")
    lines = ["  ".join(header)]
    for row in rows:
        cells = [f"{row:<{row_width}}"]
        for title, figures in numbers.items():
            figure = figures.get(row)
            text = "–" if figure is None else f"{100 * figure:.2f}"
            cells.append(f"{text:>{widths[title]}}")
        lines.append("  ".join(cells))
    return "\n".join(lines)
