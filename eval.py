"""Evaluate a run, a weights file, an untrained model or saved embeddings on labels never trained on.

python eval.py --pretrained_model=output --picture=neighbours.png
python eval.py --embeddings=embeddings.npz --metrics=recall@1,map@r --postprocess=k_reciprocal --k1=7
python eval.py --model=ResNet50 --pretrained_model=imagenet --data_dir=data/Stanford_Online_Products
"""

if __name__ == "__main__":  # before torch is loaded
    from core import openmp  # noqa: F401
import time
from functools import partial
from pathlib import Path

import distributed
from config import options
from core.console import log
from core.errors import InputError
from core.files import make_folder, replace_json
from core.types import boolean, positive
from core.versions import versions
from data.lists import open_list, refuse_broken_images
from embeddings.embed import embed_list
from embeddings.encoder import open_encoder
from embeddings.files import load_table
from evaluation import Evaluation, add_figure_flags, open_chain, shards_gallery
from models import BACKBONES, RUNTIMES
from models.pooling import POOLINGS
from reporting import add_result_flags, draw_evenly, save_found, write_page
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
)


def parse(argv):
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
    add_result_flags(parser)
    return options.parse(parser, argv, POSTPROCESSORS, foreign=("report",))


def result_folder(args):
    """Where result.json goes: into the evaluated run, if it is one."""
    source = Path(args.pretrained_model or "")
    return args.output_dir or (source if (source / "config.json").is_file() else Path("output")) / "eval"


def open_model_encoder(args):
    """(the Encoder that the flags name, facts for result.json)."""
    device, precision = choose_place(args)
    flags = model_flags(args)
    model = open_model(args.pretrained_model, flags)
    encoder = open_encoder(
        model, flags, device, precision, args.runtime, args.num_workers, keeps_exact=True, batch_size=args.batch_size
    )
    way = {"precision": precision, "runtime": args.runtime}
    return encoder, {"pretrained_model": args.pretrained_model, "model": flags, **way}


def open_sources(args):
    """What is evaluated and what it is held against, each a function from cache file to EmbeddingTable, or None, and
    the facts for result.json."""
    data = {} if args.embeddings else data_flags(args)
    names = args.embeddings or data["test_list"], args.leaks_from
    if args.embeddings and args.pretrained_model:
        raise InputError("--embeddings are evaluated as they are; leave --pretrained_model out")
    if args.embeddings and args.leaks_from and not args.leaks_from.endswith(".npz"):
        raise InputError(f"--leaks_from={args.leaks_from} has to be embeddings (.npz), too, where --embeddings are")
    lists = [
        None if name is None or name.endswith(".npz") else open_list(name, data["data_dir"], split)
        for name, split in zip(names, ("test", "train"))
    ]
    refuse_broken_images([images for images in lists if images is not None])
    facts = {"embeddings": args.embeddings}
    if not args.embeddings:
        encoder, facts = open_model_encoder(args)
    sources = []
    for name, records in zip(names, lists):
        if records is not None:
            sources.append(partial(embed_list, records, encoder, cache=args.cache, shard_gallery=args.shard_gallery))
        elif name is None:
            sources.append(None)
        else:
            table = load_table(name)
            sources.append(lambda cache_file, table=table: table)
    records = lists[0] if lists[0] is not None else sources[0](None).records
    for note in records.notes:
        log(f"note: {note}")
    if not args.embeddings:
        facts["list"] = list_facts(records)
        note_other_list(args.pretrained_model, "test", facts["list"])
    return *sources, facts


def main(argv):
    args = parse(argv)
    open_chain(args)
    sharded = shards_gallery(args)
    embed, embed_others, facts = open_sources(args)
    files = {
        "embeddings": open_output(args.save_embeddings, ".npz"),
        "found": open_output(args.save_results, (".npz", ".json")),
        "picture": open_output(args.picture, ".png"),
        "report": open_output(args.report, ".html"),
    }
    folder = make_folder(result_folder(args))
    began = time.perf_counter()
    table, others = embed(folder / "embeddings.npz"), None
    if embed_others and files["report"]:
        others = embed_others(folder / "embeddings_leaks.npz")
    if not (sharded or distributed.is_first()):
        return
    done = time.perf_counter()
    evaluation = Evaluation(args, table.records, table.matrix)
    if not distributed.is_first():
        return
    seconds = {"embed": done - began, "search": time.perf_counter() - done}
    files["result"] = folder / "result.json"
    replace_json(files["result"], {**evaluation.result(), **facts, "seconds": seconds, "versions": versions()})
    if files["embeddings"]:
        table.save(files["embeddings"])
    if files["found"]:
        save_found(files["found"], evaluation)
    if files["picture"]:
        draw_evenly(files["picture"], evaluation, args.picture_queries)
    if files["report"]:
        leaks = others and (others.records, others.matrix)
        write_page(files["report"], evaluation, table.matrix, args.projection, leaks)
    print(evaluation.report())
    print(f"written: {', '.join(str(path) for path in files.values() if path)}")
    print(f"End test {len(table)}, test_recall {evaluation.figures['recall@1']:.5f}")


if __name__ == "__main__":
    options.run_script(main)
