"""The flags of eval.py's figures, which `retrieval.metrics.evaluation.evaluate` takes."""

import distributed
from core.errors import InputError
from core.types import boolean, in_argparse, one_of, rates
from retrieval.metrics.ranking import DEFAULT, DEFINITIONS, parse_metrics
from retrieval.rerank import POSTPROCESSORS

NEED_ALL = ("embeddings", "pairs", "fmr", "pcf", "clustering", "postprocess")  # flags that need all embeddings at once
NEED_ALL += ("save_embeddings", "save_results", "picture", "report")
FIGURE_FLAGS = ("metrics", "definition", "skip_lone_queries", "fmr", "pcf", "pairs", "clustering", "distance")
FIGURE_FLAGS += ("search_memory_mb", "postprocess", "top")


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


def figure_flags(args):
    """The keywords of `evaluate` out of the flags, {name: value}."""
    return {name: getattr(args, name) for name in FIGURE_FLAGS}


def postprocess_options(args):
    """The options of the post-processors that --postprocess names, {name: value}."""
    chosen = [option.name for name in args.postprocess for option in POSTPROCESSORS.options(name)]
    return {name: getattr(args, name) for name in chosen}


def shards_gallery(args):
    """Whether each rank keeps its own embeddings. Raises InputError for flags that need them all in one place."""
    if not args.shard_gallery or distributed.world_size() == 1:
        return False
    given = [f"--{name}" for name in NEED_ALL if getattr(args, name)]
    if given:
        raise InputError(f"--shard_gallery leaves no rank with all embeddings, as {', '.join(given)} would need")
    return True
