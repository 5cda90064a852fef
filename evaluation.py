"""What eval.py tells of an embedded list: its flags, the figures, post-processing, the table."""

import distributed
from core.console import log
from core.device import choose_device
from core.errors import InputError
from core.types import boolean, in_argparse, one_of, rates
from retrieval.metrics.measure import summary, task_values
from retrieval.metrics.pairs import fnmr_at_fmr, pair_histogram
from retrieval.metrics.ranking import DEFAULT, DEFINITIONS, Ranked, parse_metric, parse_metrics, values
from retrieval.metrics.shape import clustering, component_fractions
from retrieval.metrics.wording import describe
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.results import RetrievalResults
from retrieval.sharded import Shard
from session import task_of

MOST_CATEGORIES = 12  # printed; all of them are in result.json
NEED_ALL = ("embeddings", "pairs", "fmr", "pcf", "clustering", "postprocess")  # flags that need all embeddings at once
NEED_ALL += ("save_embeddings", "save_results", "picture", "report")


def add_figure_flags(parser):
    group = parser.add_argument_group("figures (docs/metrics.md)")
    group.add_argument(
        "--metrics", type=in_argparse(parse_metrics), default=DEFAULT, help="comma-separated, such as recall@1,map@r"
    )
    group.add_argument(
        "--definition",
        type=one_of(DEFINITIONS),
        default="standard",
        help=f"where peers differ: {', '.join(DEFINITIONS)}",
    )
    group.add_argument(
        "--skip_lone_queries",
        type=boolean,
        help="leave queries without a positive out (default: they are misses; left out by --definition=pml)",
    )
    group.add_argument(
        "--fmr", type=rates, default=(), help="false match rates at which to give the false non-match rate"
    )
    group.add_argument("--pcf", type=rates, default=(), help="shares of the variance whose components to count")
    group.add_argument("--pairs", type=boolean, default=False, help="areas and best threshold over all pairs")
    group.add_argument("--clustering", type=boolean, default=False, help="how k-means clusters agree with the labels")
    group.add_argument(
        "--shard_gallery", type=boolean, default=False, help="under torchrun each rank keeps the embeddings it makes"
    )


def shards_gallery(args):
    """Whether each rank keeps its own embeddings. Raises InputError for flags that need them all in one place."""
    if not args.shard_gallery or distributed.world_size() == 1:
        return False
    given = [f"--{name}" for name in NEED_ALL if getattr(args, name)]
    if given:
        raise InputError(f"--shard_gallery leaves no rank with all embeddings, as {', '.join(given)} would need")
    return True


class Evaluation:
    """The figures of one embedded list, made by the flags `args`.

    figures: {name: figure} overall; categories: {category: {name: figure}}; values: {metric: (Q,)}, a figure a query;
    found: what each query found; results: the same after post-processing; links: {post-processor: figures after it};
    histogram: scores of all pairs; these where they were asked for. embeddings: (N, D), or this rank's Shard of them,
    of which every rank then makes the same figures.
    """

    def __init__(self, args, images, embeddings):
        self.args, self.images = args, images
        self.task = task_of(embeddings, images, choose_device(args.use_gpu))
        self.query_gallery, self.distance, self.definition = self.task, args.distance, args.definition
        self.metrics = args.metrics if "recall@1" in args.metrics else ("recall@1", *args.metrics)
        self.skip_lone = args.definition == "pml" if args.skip_lone_queries is None else args.skip_lone_queries
        self.memory = args.search_memory_mb * 2**20
        gallery = len(self.task.gallery_rows)
        beyond = [name for name in self.metrics if (parse_metric(name)[1] or 0) > gallery]
        if beyond:
            log(f"{', '.join(beyond)}: the gallery has {gallery} items, so k is {gallery}")
        shard = embeddings if isinstance(embeddings, Shard) else None
        self.values = task_values(self.task, self.metrics, args.definition, args.distance, self.memory, shard)
        means = summary(self.values, self.task.positives(), self.task.query_categories, self.skip_lone)
        self.figures, self.categories = means["overall"], means["categories"]
        self.queries, self.lone = self.figures.pop("queries"), self.figures.pop("lone_queries")
        self.figures |= self._further(embeddings)
        self.found, self.results, self.links = None, None, {}
        if args.postprocess or args.save_results or args.report:
            self.found = RetrievalResults.from_task(self.task, args.top, args.distance, self.memory)
            self.results, self.links = self._postprocess(self.found)

    def _further(self, embeddings):
        """The figures that have flags of their own."""
        args, found, self.histogram = self.args, {}, None
        if args.pairs or args.fmr or args.report:
            self.histogram = pair_histogram(self.task, args.distance, self.memory)
        if args.pairs:
            score, f1, precision, recall = self.histogram.best_threshold()
            found["pr_auc"], found["average_precision"] = self.histogram.pr_auc(), self.histogram.average_precision()
            found["best_threshold"] = {"score": score, "f1": f1, "precision": precision, "recall": recall}
        if args.fmr:
            fnmr = fnmr_at_fmr(self.task, args.fmr, args.distance, self.memory, self.histogram)
            found |= {f"fnmr@fmr={rate:g}": value for rate, value in fnmr.items()}
        if args.pcf:
            definition = "oml" if args.definition == "oml" else "standard"
            fractions = component_fractions(embeddings, args.pcf, definition)
            found |= {f"pcf@{variance:g}": value for variance, value in fractions.items()}
        return found | (clustering(embeddings, self.images.vocabulary.codes) if args.clustering else {})

    def _postprocess(self, results):
        """The chain, link by link; all figures, the first too, are over the items that results hold."""
        links = {f"top {self.args.top}": self._of_results(results)}
        for number, processor in enumerate(open_chain(self.args)):
            results = processor.process(results, self.task)
            links[self.args.postprocess[number]] = self._of_results(results)
        return results, links

    def _of_results(self, results):
        names = [name for name in self.metrics if not name.startswith("knn")]
        overall = summary(
            values(Ranked.of(results), names, self.args.definition), results.positives, None, self.skip_lone
        )
        return {name: overall["overall"][name] for name in names}

    def as_result(self):
        """What result.json holds of it."""
        args = self.args
        recall = {name.removeprefix("recall@"): self.figures[name] for name in self.metrics if "recall@" in name}
        options = {o.name: getattr(args, o.name) for name in args.postprocess for o in POSTPROCESSORS.options(name)}
        return {
            "metrics": self.figures,
            "recall": recall,
            "categories": self.categories,
            "postprocess": {"options": options, "items": args.top, "metrics": self.links} if args.postprocess else None,
            "definition": args.definition,
            "definitions": {name: describe(name, args.definition)[1] for name in self.metrics},
            "distance": args.distance,
            "images": len(self.images),
            "gallery": len(self.task.gallery_rows),
            "queries": self.queries,
            "queries_without_positive": self.lone,
            "lone_queries_skipped": self.skip_lone,
        }

    def as_text(self):
        """The figures as one table, with those after post-processing beside them, and what they are of."""
        args, columns, lines = self.args, {"overall": self.figures}, []
        if args.postprocess:
            columns |= {f"{'+ ' * (number > 0)}{title}": own for number, (title, own) in enumerate(self.links.items())}
            lines = [f"top {args.top}: as found, and then + one post-processor after the other"]
        elif len(self.categories) <= MOST_CATEGORIES:
            columns |= {name: {metric: own[metric] for metric in self.metrics} for name, own in self.categories.items()}
        if "best_threshold" in self.figures:
            best = self.figures["best_threshold"]
            lines.append(
                f"best threshold over all pairs, chosen on these very data: {self._as_distance(best['score'])}, F1 "
                f"{best['f1']:.4f} (precision {best['precision']:.4f}, recall {best['recall']:.4f})"
            )
        rule = "left out" if self.skip_lone else "counted as misses"
        lines.append(
            f"{len(self.images)} images, {self.queries} queries, {len(self.task.gallery_rows)} in the gallery; "
            f"{self.lone} queries without a positive, {rule}"
        )
        return "\n".join([table(columns), *lines])

    def _as_distance(self, score):
        """A score in words, with the distance that it is to --postprocess=constant_threshold."""
        if self.args.distance == "cosine":
            return f"cosine {score:.3f}, which is --threshold={1 - score:.3f}"
        return f"squared distance {-score:.3f}, which is --threshold={-score:.3f}"


def open_chain(args):
    """The post-processors of --postprocess with their options. Raises InputError where one does not fit."""
    for name in args.postprocess:
        if args.distance != "cosine" and not name.endswith("_threshold"):
            raise InputError(f"{name} goes by cosine and does not work with --distance={args.distance}")
    return [
        POSTPROCESSORS[name](**{option.name: getattr(args, option.name) for option in POSTPROCESSORS.options(name)})
        for name in args.postprocess
    ]


def table(columns):
    """Columns {title: {row: figure}} as text, in %; figures that are no numbers are left out."""
    numbers = {title: {row: f for row, f in own.items() if not isinstance(f, dict)} for title, own in columns.items()}
    rows = list(dict.fromkeys(row for own in numbers.values() for row in own))
    first = max(map(len, rows)) + 1
    widths = {title: max(8, len(title)) for title in columns}
    lines = [[f"{'%':<{first}}", *(f"{title:>{width}}" for title, width in widths.items())]]
    for row in rows:
        figures = [own.get(row) for own in numbers.values()]
        cells = ["–" if figure is None else f"{100 * figure:.2f}" for figure in figures]
        lines.append([f"{row:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths.values()))])
    return "\n".join("  ".join(line) for line in lines)
