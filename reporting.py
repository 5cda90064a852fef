"""What training shows: pictures and embeddings on TensorBoard, and its closing words."""

import itertools

import torch

from core.console import log
from report.board import embedding_sample, worst_queries_picture


def show_on_board(board, step, task, images):
    """On TensorBoard: the worst queries as a picture, and a sample of the embeddings, with images, in the projector."""
    picture = worst_queries_picture(images, task)
    if picture is not None:
        board.add_image("test/worst_queries", picture, step, dataformats="HWC")
    sample = embedding_sample(images, task)
    texts = [[as_utf8(text) for text in row] for row in sample.texts]
    tiles = torch.from_numpy(sample.tiles).permute(0, 3, 1, 2).float() / 255
    board.add_embedding(sample.embeddings, texts, tiles, step, "test", metadata_header=list(sample.columns))


def as_utf8(text):
    """A text in which what is no UTF-8, as old file names have it, is written out: TensorBoard refuses it."""
    return text.encode(errors="backslashreplace").decode()


def finish(training):
    """Train, then say where everything is; `--enable_ce` adds the ancestor's machine-read lines."""
    result = training.fit()
    if result is None:
        return
    folder = training.run.folder
    log(f"Recall@1 {100 * result['recall']['1']:.2f} % on {result['tested_on']}")
    log(f"run: {folder}  (weights last.pt, figures result.json, curves: tensorboard --logdir {folder})")
    if training.args.enable_ce:
        for name, value in itertools.islice(result["train"].items(), 1, None):
            print(f"kpis\ttrain_{name}\t{value}")
        print(f"kpis\ttest_recall\t{result['recall']['1']}")
