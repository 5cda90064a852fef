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
from core.device import open_device
from core.errors import InputError
from core.files import make_folder, replace_json
from core.types import boolean, positive
from core.versions import versions
from data.lists import open_list, refuse_broken_images
from embeddings.cache import embed_list, embed_shard
from embeddings.files import load_embeddings, save_embeddings
from embeddings.fingerprint import fingerprint
from engine.provenance import list_facts, note_other_list
from evaluation import Evaluation, add_figure_flags, open_chain, shards_gallery
from models import BACKBONES, RUNTIMES, fast_model
from models.pooling import POOLINGS
from reporting import add_result_flags, draw_evenly, save_found, write_page
from retrieval.rerank._steps import POSTPROCESSORS
from retrieval.scores import DISTANCES
from session import (
    data_flags,
    model_flags,
    open_model,
    open_output,
    open_test_loader,
)

EXACT = {"precision": "fp32", "runtime": "torch"}  # figures are those of the very network unless asked otherwise


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


def open_embedder(args):
    """(function from ImageList to a function from cache file to embeddings, facts for result.json, fingerprint)."""
    device, precision = open_device(use_gpu=args.use_gpu, precision=args.precision, runtime=args.runtime)
    distributed.init(device)
    flags = model_flags(args)
    model = open_model(args.pretrained_model, flags).to(device)
    card, way = fingerprint(model, flags), {"precision": precision, "runtime": args.runtime}
    if way != EXACT:
        model = fast_model(model, precision, args.runtime, flags["image_shape"])

    def open_images(images):
        loader = open_test_loader(images, flags, args.batch_size, args.num_workers, device)
        return partial(
            embed_shard if shards_gallery(args) else embed_list, images, loader, model, device, {**card, **way}
        )

    return open_images, {"pretrained_model": args.pretrained_model, "model": flags, **way}, card


def open_sources(args):
    """What is evaluated and what it is held against, each (ImageList, function from cache file to embeddings) or None,
    and the facts for result.json and the model's fingerprint."""
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
    open_images, facts, card = (None, {"embeddings": args.embeddings}, None) if args.embeddings else open_embedder(args)
    sources = []
    for name, images in zip(names, lists):
        if images is not None:
            sources.append((images, open_images(images)))
        elif name is None:
            sources.append(None)
        else:
            images, embeddings, own = load_embeddings(name)
            card = card or own
            sources.append((images, lambda cache, embeddings=embeddings: embeddings))
    for note in sources[0][0].notes:
        log(f"note: {note}")
    if not args.embeddings:
        facts["list"] = list_facts(lists[0])
        note_other_list(args.pretrained_model, "test", facts["list"])
    return *sources, facts, card


def main(argv):
    args = parse(argv)
    open_chain(args)
    sharded = shards_gallery(args)
    (images, embed), others, facts, card = open_sources(args)
    files = {
        "embeddings": open_output(args.save_embeddings, ".npz"),
        "found": open_output(args.save_results, (".npz", ".json")),
        "picture": open_output(args.picture, ".png"),
        "report": open_output(args.report, ".html"),
    }
    folder = make_folder(result_folder(args))
    began = time.perf_counter()
    embeddings = embed(folder / "embeddings.npz" if args.cache else None)
    if others and files["report"]:
        others = others[0], others[1](folder / "embeddings_leaks.npz" if args.cache else None)
    if not (sharded or distributed.is_first()):
        return
    done = time.perf_counter()
    evaluation = Evaluation(args, images, embeddings)
    if not distributed.is_first():
        return
    seconds = {"embed": done - began, "search": time.perf_counter() - done}
    files["result"] = folder / "result.json"
    replace_json(files["result"], {**evaluation.result(), **facts, "seconds": seconds, "versions": versions()})
    if files["embeddings"]:
        save_embeddings(files["embeddings"], images, embeddings, card)
    if files["found"]:
        save_found(files["found"], evaluation)
    if files["picture"]:
        draw_evenly(files["picture"], evaluation, args.picture_queries)
    if files["report"]:
        write_page(files["report"], evaluation, embeddings, args.projection, others)
    print(evaluation.report())
    print(f"written: {', '.join(str(path) for path in files.values() if path)}")
    print(f"End test {len(images)}, test_recall {evaluation.figures['recall@1']:.5f}")


if __name__ == "__main__":
    options.run_script(main)
