"""Evaluate a run, a weights file, an untrained model or saved embeddings on labels never trained on.

python eval.py --pretrained_model=output --picture=neighbours.png
python eval.py --embeddings=embeddings.npz --metrics=recall@1,map@r --postprocess=k_reciprocal --k1=7
python eval.py --model=ResNet50 --pretrained_model=imagenet --data_dir=data/Stanford_Online_Products
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import distributed
from config import options
from core.console import log
from core.errors import InputError
from core.files import make_folder, replace_json
from core.types import boolean, one_of, positive
from core.versions import versions
from data.lists import open_list, refuse_broken_images
from data.records import Records
from embeddings.cache import embed_list, embed_shard
from embeddings.files import load_embeddings, save_embeddings
from embeddings.fingerprint import fingerprint
from evaluation import Evaluation, add_figure_flags, open_chain, shards_gallery
from models import BACKBONES, RUNTIMES, fast_model
from models.pooling import POOLINGS
from report.outputs import EvalOutputs, save_results
from report.page import write_page
from report.page.projection import METHODS
from report.queries import draw_queries, evenly_spaced
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.scores import DISTANCES
from session import (
    choose_place,
    data_flags,
    list_facts,
    model_flags,
    note_other_list,
    open_model,
    open_output,
    open_test_loader,
)

# Figures are those of the very network unless asked otherwise.
EXACT = ("fp32", "torch")


def main(argv: list[str]) -> None:
    args = parse(argv)
    # What does not fit together is refused before any work.
    open_chain(args)
    is_sharded = shards_gallery(args)
    outputs = choose_outputs(args)
    source, leak_source = open_sources(args)
    encoder = None
    if not args.embeddings:
        encoder = open_model_encoder(args)
    facts = describe_source(source, encoder, args)
    files = open_files(outputs)
    folder = make_folder(outputs.result_folder(args.pretrained_model))

    # Every rank embeds its share. Of a gallery that stays in shards all make the figures, of a whole one the first.
    began = time.perf_counter()
    table = embed_source(source, encoder, folder / "embeddings.npz", args)
    leaks = None
    if leak_source is not None and outputs.report:
        leaks = embed_source(leak_source, encoder, folder / "embeddings_leaks.npz", args)
    if not (is_sharded or distributed.is_first()):
        return
    embedded = time.perf_counter()
    evaluation = evaluate_table(table, args)
    if not distributed.is_first():
        return
    seconds = {"embed": embedded - began, "search": time.perf_counter() - embedded}

    files["result"] = folder / "result.json"
    result = {**evaluation.as_result(), **facts, "seconds": seconds, "versions": versions()}
    replace_json(files["result"], result)
    write_files(files, outputs, table, evaluation, args.pretrained_model, leaks)
    print(evaluation.as_text())
    print(f"written: {', '.join(str(path) for path in files.values())}")
    print(f"End test {len(table.records)}, test_recall {evaluation.figures['recall@1']:.5f}")


def parse(argv: list[str]) -> Namespace:
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--embeddings", help="evaluate those of this .npz (of infer.py, or your own) and no model")
    group.add_argument("--batch_size", type=positive, default=50, help="images in a batch")
    group.add_argument(
        "--cache", type=boolean, default=True, help="keep embeddings beside result.json for the next time"
    )
    options.add_device_flags(parser, precision="fp32", runtimes=RUNTIMES)
    add_figure_flags(parser)
    options.add_search_flags(parser, DISTANCES)
    options.add_postprocess_flags(parser, POSTPROCESSORS, argv)
    add_output_flags(parser)
    return options.parse(parser, argv, POSTPROCESSORS, foreign=("report",))


def add_output_flags(parser: ArgumentParser) -> None:
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


def choose_outputs(args: Namespace) -> EvalOutputs:
    """The flags of `add_output_flags` but --top."""
    return EvalOutputs(
        output_dir=args.output_dir,
        save_embeddings=args.save_embeddings,
        save_results=args.save_results,
        picture=args.picture,
        picture_queries=args.picture_queries,
        report=args.report,
        projection=args.projection,
        leaks_from=args.leaks_from,
    )


@dataclass(frozen=True)
class EmbeddingTable:
    """The embeddings (N, D) of N records, and what tells their model apart, None where that is not known."""

    records: Records
    matrix: torch.Tensor
    fingerprint: dict | None


@dataclass(frozen=True)
class Encoder:
    """A network on its device with the model flags, what tells it apart, and how it embeds."""

    network: nn.Module
    settings: dict
    device: torch.device
    fingerprint: dict
    precision: str
    runtime: str


def open_sources(args: Namespace) -> tuple[Records | EmbeddingTable, Records | EmbeddingTable | None]:
    """What is evaluated, and what to look for leaks in: lists to embed, or embeddings from a file."""
    if args.embeddings and args.pretrained_model:
        raise InputError("--embeddings are evaluated as they are; leave --pretrained_model out")
    if args.embeddings and args.leaks_from and not args.leaks_from.endswith(".npz"):
        raise InputError(f"--leaks_from={args.leaks_from} has to be embeddings (.npz), too, where --embeddings are")
    if args.embeddings:
        source, data_dir = load_table(args.embeddings), None
    else:
        data = data_flags(args)
        data_dir = data["data_dir"]
        source = open_list(data["test_list"], data_dir, "test")

    leak_source = None
    if args.leaks_from is not None:
        if args.leaks_from.endswith(".npz"):
            leak_source = load_table(args.leaks_from)
        else:
            leak_source = open_list(args.leaks_from, data_dir, "train")
    refuse_broken_images([opened for opened in (source, leak_source) if isinstance(opened, Records)])
    return source, leak_source


def load_table(path: str) -> EmbeddingTable:
    return EmbeddingTable(*load_embeddings(path))


def open_model_encoder(args: Namespace) -> Encoder:
    device, precision = choose_place(args)
    settings = model_flags(args)
    network = open_model(args.pretrained_model, settings).to(device)
    identity = fingerprint(network, settings)
    if (precision, args.runtime) != EXACT:
        network = fast_model(network, precision, args.runtime, settings["image_shape"])
    return Encoder(network, settings, device, identity, precision, args.runtime)


def describe_source(source: Records | EmbeddingTable, encoder: Encoder | None, args: Namespace) -> dict:
    """What result.json says the figures are of; says what should be known of the list."""
    records = source
    if isinstance(source, EmbeddingTable):
        records = source.records
    for note in records.notes:
        log(f"note: {note}")
    if encoder is None:
        return {"embeddings": args.embeddings}
    facts = list_facts(records)
    note_other_list(args.pretrained_model, "test", facts)
    return {
        "pretrained_model": args.pretrained_model,
        "model": encoder.settings,
        "precision": encoder.precision,
        "runtime": encoder.runtime,
        "list": facts,
    }


def open_files(outputs: EvalOutputs) -> dict[str, Path]:
    """The files that are asked for, by their flags; their folders are made."""
    suffixes = {"save_embeddings": ".npz", "save_results": (".npz", ".json"), "picture": ".png", "report": ".html"}
    files = {}
    for flag, allowed in suffixes.items():
        path = getattr(outputs, flag)
        if path is not None:
            files[flag] = open_output(path, allowed)
    return files


def embed_source(
    source: Records | EmbeddingTable, encoder: Encoder | None, cache_file: Path, args: Namespace
) -> EmbeddingTable:
    """The embeddings that were in a file, or those that the model makes of a list; the first rank has them."""
    if isinstance(source, EmbeddingTable):
        return source
    loader = open_test_loader(source, encoder.settings, args.batch_size, args.num_workers, encoder.device)
    decisive = {**encoder.fingerprint, "precision": encoder.precision, "runtime": encoder.runtime}
    embed = embed_list
    if shards_gallery(args):
        embed = embed_shard
    if not args.cache:
        cache_file = None
    matrix = embed(source, loader, encoder.network, encoder.device, decisive, cache_file)
    return EmbeddingTable(source, matrix, encoder.fingerprint)


def evaluate_table(table: EmbeddingTable, args: Namespace) -> Evaluation:
    return Evaluation(args, table.records, table.matrix)


def write_files(
    files: dict[str, Path],
    outputs: EvalOutputs,
    table: EmbeddingTable,
    evaluation: Evaluation,
    pretrained_model: str | None,
    leaks: EmbeddingTable | None,
) -> None:
    """Write what is asked for beside result.json."""
    query_gallery = evaluation.query_gallery
    if "save_embeddings" in files:
        save_embeddings(files["save_embeddings"], table.records, table.matrix, table.fingerprint)
    if "save_results" in files:
        save_results(files["save_results"], table.records, query_gallery, evaluation.results)
    if "picture" in files:
        queries = evenly_spaced(len(query_gallery.query_rows), outputs.picture_queries)
        draw_queries(table.records, query_gallery, queries, evaluation.results, files["picture"], evaluation.distance)
    if "report" in files:
        model_name = pretrained_model or "saved embeddings"
        write_page(files["report"], evaluation, table, model_name, outputs.projection, leaks)


if __name__ == "__main__":
    options.run_script(main)
