"""The run whose results a pair scorer is to put in order: what its network makes of both lists of a training."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import distributed
from core.errors import InputError
from core.files import make_folder
from data.loader import OnBad
from data.records import Records
from embeddings.embed import embed_batches, embed_list
from embeddings.encoder import Encoder, open_encoder
from engine.assembly import Start
from models import ModelSettings, read_towers, trained_settings
from models.weights import is_published


@dataclass(frozen=True)
class RetrievalRun:
    """An earlier run, whose figures are those of eval.py: in fp32.

    source: its folder or weights. kept_in: the folder in which embeddings are kept for the next training, or None.
    """

    source: str
    encoder: Encoder
    kept_in: Path | None = None

    def embed(self, records: Records, name: str, on_bad: OnBad | None = None) -> torch.Tensor:
        """Embeddings (N, D) float32 of a list, on the CPU of every rank.

        name: of the file that keeps them. on_bad: as of a loader; what it is told of is zeros, and nothing is kept.
        """
        network = self.encoder.network
        table = torch.zeros(len(records), network.embedding_size)
        if self.kept_in is not None and on_bad is None:
            if distributed.is_first():
                make_folder(self.kept_in)
            made = embed_list(records, self.encoder, self.kept_in / name)
            if made is not None:  # on the first rank
                table = made.matrix
        else:
            batches = self.encoder.open_loader(records, on_bad)
            for rows, embeddings in embed_batches(network, batches, self.encoder.device):
                table[rows] = embeddings
        # The others may wait for long.
        distributed.barrier()
        distributed.broadcast_tensors([table])
        return table


def open_retrieval_run(
    start: Start,
    pretrained_model: str | None,
    num_workers: int | str,
    *,
    retrieval_model: str | None = None,
    cache: bool = True,
) -> RetrievalRun:
    """The run whose results are put in order.

    Options:
        retrieval_model: the run whose results are put in order, and by whose embeddings pairs are hard (default:
            --pretrained_model)
        cache: keep that run's embeddings of the lists in its folder eval/ for the next time

    Raises InputError where neither names a run or weights of a network that embeds.
    """
    source = retrieval_model or pretrained_model
    if not source or is_published(source):
        raise InputError(
            "a re-ranker learns from what a run finds: give the run as --pretrained_model, or as --retrieval_model "
            f"where the network is to start from elsewhere (got {source!r})"
        )
    if read_towers(source) is not None:
        raise InputError(f"{source} holds two networks; a re-ranker is for the results of one")
    settings = replace(ModelSettings(**trained_settings(source)), pretrained_model=source)
    encoder = open_encoder(
        settings, start.device, "fp32", "torch", num_workers, True, batch_size=start.settings.test_batch_size
    )
    return RetrievalRun(source, encoder, _kept_in(source) if cache else None)


def _kept_in(source: str) -> Path | None:
    """Where eval.py keeps a run's embeddings; None for what is no run's folder, or one that is not to be written to."""
    run = Path(source)
    if not (run / "config.json").is_file():
        return None
    folder = run / "eval"
    if os.access(folder if folder.is_dir() else run, os.W_OK):
        return folder
    return None
