"""Evaluate a run, a weights file or an untrained model: Recall@1, 5, 10 on labels never trained on.

python eval.py --pretrained_model=output --picture=neighbours.png
python eval.py --model=ResNet50 --pretrained_model=imagenet --data_dir=data/Stanford_Online_Products
"""

import time
from pathlib import Path

import numpy as np

import reader
from engine import options
from engine.device import choose_device, choose_precision
from engine.embed import embed
from engine.flag_types import positive
from engine.run import make_folder, versions, write_json
from models import BACKBONES
from models.embedder import POOLINGS
from retrieval.picture import neighbour_sheet
from retrieval.results import RetrievalResults
from retrieval.task import Task
from session import list_facts, model_flags, open_model, open_output, open_test_loader, recalls


def parse(argv):
    parser = options.new_parser(__doc__)
    options.add_model_flags(parser, BACKBONES, POOLINGS)
    group = options.add_data_flags(parser)
    group.add_argument("--batch_size", type=positive, default=50, help="images in a batch")
    options.add_device_flags(parser, precision="fp32")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir", help="folder of result.json (default: eval/ in the run's folder, else output/eval)"
    )
    group.add_argument("--save_embeddings", help="write paths, labels and embeddings to this .npz")
    group.add_argument("--picture", help="write some queries with their five nearest to this .png")
    group.add_argument("--picture_queries", type=positive, default=8, help="rows of the picture")
    return options.parse(parser, argv)


def result_folder(args):
    """Where result.json goes: into the evaluated run, if it is one."""
    if args.output_dir:
        return args.output_dir
    source = Path(args.pretrained_model or "")
    return source / "eval" if (source / "config.json").is_file() else Path("output") / "eval"


def draw(path, embeddings, images, rows):
    """Evenly spaced queries with their five nearest; the same queries for every model of the same list."""
    candidates = np.flatnonzero(images.is_query)
    queries = candidates[np.linspace(0, len(candidates) - 1, min(rows, len(candidates)), dtype=int)]
    asked = np.zeros(len(images), dtype=bool)
    asked[queries] = True
    results = RetrievalResults.from_task(Task.of(embeddings, images.labels, asked, images.is_gallery), 5)
    sheet = []
    for query, found, distances in zip(queries, results.retrieved_ids, results.distances):
        right = images.labels[found.numpy()] == images.labels[query]
        shown = [(reader.load(images, i), bool(r), 1 - d) for i, r, d in zip(found, right, distances.tolist())]
        sheet.append((reader.load(images, query), shown))
    neighbour_sheet(sheet, path)


def main(argv):
    args = parse(argv)
    device = choose_device(args.use_gpu)
    precision = choose_precision(args.precision, device)
    images = reader.open_list(args.test_list, args.data_dir, "test")
    flags = model_flags(args)
    model = open_model(args.pretrained_model, flags).to(device)
    loader = open_test_loader(images, flags, args.batch_size, args.num_workers, device)
    table, picture = open_output(args.save_embeddings, (".npz",)), open_output(args.picture, (".png",))
    folder = make_folder(result_folder(args))
    began = time.perf_counter()
    embeddings = embed(model, loader, device, precision)
    embedded = time.perf_counter()
    recall = recalls(embeddings, images)
    searched = time.perf_counter()
    result = {
        "recall": {str(k): value for k, value in recall.items()},
        "images": len(images),
        "queries": int(images.is_query.sum()),
        "queries_without_positive": reader.lone_queries(images),
        "pretrained_model": args.pretrained_model,
        "model": flags,
        "list": list_facts(images),
        "precision": precision,
        "seconds": {"embed": embedded - began, "search": searched - embedded},
        "versions": versions(),
    }
    write_json(folder / "result.json", result)
    if table:
        columns = {"paths": images.paths, "labels": images.labels, "embeddings": embeddings.numpy()}
        np.savez(table, **columns)
    if picture:
        draw(picture, embeddings, images, args.picture_queries)
    report(result, [folder / "result.json", table, picture])


def report(result, files):
    """The figures as a table, where everything went, and the ancestor's closing line."""
    print(f"{'metric':<12} {'%':>7}")
    for k, value in result["recall"].items():
        print(f"{'Recall@' + k:<12} {100 * value:7.2f}")
    print(
        f"{result['images']} images, {result['queries']} queries, {result['queries_without_positive']} of them without "
        "a positive (counted as misses)"
    )
    print(f"written: {', '.join(str(file) for file in files if file)}")
    print(f"End test {result['images']}, test_recall {result['recall']['1']:.5f}")


if __name__ == "__main__":
    options.run_script(main)
