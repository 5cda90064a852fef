"""Evaluate a run, a weights file, an untrained model or saved embeddings on labels never trained on.

python eval.py --pretrained_model=output --picture=neighbours.png
python eval.py --embeddings=embeddings.npz --metrics=recall@1,map@r --postprocess=k_reciprocal --k1=7
python eval.py --model=ResNet50 --pretrained_model=imagenet --data_dir=data/Stanford_Online_Products
"""

import time
from functools import partial
from pathlib import Path

import torch

import reader
from embedding import embed_list, fingerprint, load_embeddings, save_embeddings
from engine import options
from engine.device import choose_device, choose_precision
from engine.flag_types import boolean, positive
from engine.run import make_folder, versions, write_json
from errors import InputError
from evaluation import Evaluation, add_figure_flags, open_chain
from models import BACKBONES
from models.embedder import POOLINGS
from retrieval.picture import neighbour_sheet
from retrieval.postprocess import POSTPROCESSORS
from retrieval.results import RetrievalResults
from retrieval.space import DISTANCES
from session import list_facts, model_flags, open_model, open_output, open_test_loader


def parse(argv):
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--embeddings", help="evaluate those of this .npz (of infer.py, or your own) and no model")
    group.add_argument("--batch_size", type=positive, default=50, help="images in a batch")
    group.add_argument(
        "--cache", type=boolean, default=True, help="keep embeddings beside result.json for the next time"
    )
    options.add_device_flags(parser, precision="fp32")
    add_figure_flags(parser)
    options.add_search_flags(parser, DISTANCES)
    options.add_postprocess_flags(parser, POSTPROCESSORS, argv)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir", help="folder of result.json (default: eval/ in the run's folder, else output/eval)"
    )
    group.add_argument("--save_embeddings", help="write the embeddings and the list's columns to this .npz")
    group.add_argument("--save_results", help="write what each query found to this .npz or .json")
    group.add_argument("--top", type=positive, default=100, help="items of each query that are re-ranked, saved, shown")
    group.add_argument("--picture", help="write some queries with their five nearest to this .png")
    group.add_argument("--picture_queries", type=positive, default=8, help="rows of the picture")
    return options.parse(parser, argv, POSTPROCESSORS, foreign=True)


def result_folder(args):
    """Where result.json goes: into the evaluated run, if it is one."""
    if args.output_dir:
        return args.output_dir
    source = Path(args.pretrained_model or "")
    return source / "eval" if (source / "config.json").is_file() else Path("output") / "eval"


def open_source(args):
    """What is evaluated: (ImageList, a function from cache file to embeddings, facts for result.json, fingerprint)."""
    if args.embeddings:
        if args.pretrained_model:
            raise InputError("--embeddings are evaluated as they are; leave --pretrained_model out")
        images, embeddings, card = load_embeddings(args.embeddings)
        return images, lambda cache: embeddings, {"embeddings": args.embeddings}, card
    device = choose_device(args.use_gpu)
    precision = choose_precision(args.precision, device)
    images = reader.open_list(args.test_list, args.data_dir, "test")
    flags = model_flags(args)
    model = open_model(args.pretrained_model, flags).to(device)
    loader = open_test_loader(images, flags, args.batch_size, args.num_workers, device)
    facts = {"pretrained_model": args.pretrained_model, "model": flags, "precision": precision}
    embed = partial(embed_list, images, loader, model, flags, device, precision)
    return images, embed, {**facts, "list": list_facts(images)}, fingerprint(model, flags)


def draw(path, evaluation, rows):
    """Evenly spaced queries with their five nearest; the same queries for every model of the same list."""
    task, results, images = evaluation.task, evaluation.results, evaluation.images
    chosen = torch.linspace(0, len(task.query_rows) - 1, min(rows, len(task.query_rows))).long()
    places = chosen.tolist()
    if results is None:
        results, places = RetrievalResults.from_task(task.query_slice(chosen), 5), range(len(chosen))
    sheet = []
    for query, place in zip(task.query_rows[chosen].tolist(), places):
        columns = results.padded_ids, results.hits, results.padded_distances
        found = zip(*(column[place, :5].tolist() for column in columns))
        shown = [(reader.load(images, row), right, 1 - distance) for row, right, distance in found if row >= 0]
        sheet.append((reader.load(images, query), shown))
    neighbour_sheet(sheet, path)


def save_found(path, evaluation):
    """What each query found: .npz for RetrievalResults.load, .json with the paths that its ids and queries number."""
    results = evaluation.results
    if path.suffix == ".npz":
        results.save(path)
    else:
        rows = evaluation.task.query_rows.tolist()
        write_json(path, {"paths": evaluation.images.paths.tolist(), "queries": rows, "found": results.to_dicts()})


def main(argv):
    args = parse(argv)
    open_chain(args)
    images, embed, facts, card = open_source(args)
    table, picture = open_output(args.save_embeddings, (".npz",)), open_output(args.picture, (".png",))
    found = open_output(args.save_results, (".npz", ".json"))
    folder = make_folder(result_folder(args))
    began = time.perf_counter()
    embeddings = embed(folder / "embeddings.npz" if args.cache else None)
    done = time.perf_counter()
    evaluation = Evaluation(args, images, embeddings)
    seconds = {"embed": done - began, "search": time.perf_counter() - done}
    file = folder / "result.json"
    write_json(file, {**evaluation.result(), **facts, "seconds": seconds, "versions": versions()})
    if table:
        save_embeddings(table, images, embeddings, card)
    if found:
        save_found(found, evaluation)
    if picture:
        draw(picture, evaluation, args.picture_queries)
    print(evaluation.report())
    print(f"written: {', '.join(str(path) for path in (file, table, found, picture) if path)}")
    print(f"End test {len(images)}, test_recall {evaluation.figures['recall@1']:.5f}")


if __name__ == "__main__":
    options.run_script(main)
