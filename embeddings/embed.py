"""The images of a list to embeddings: batch by batch, or as one table in memory."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import distributed
from data.loader import BatchLoader
from data.records import Records
from embeddings.cache import cache_key, put_into_cache, take_from_cache
from embeddings.encoder import Encoder
from embeddings.known_network import keep_fingerprint
from embeddings.shard import open_shard
from embeddings.table import EmbeddingTable


def embed_list(
    records: Records,
    encoder: Encoder,
    cache_file: Path,
    *,
    cache: bool = True,
    shard_gallery: bool = False,
) -> EmbeddingTable | None:
    """The table of a list in memory. Several ranks share the work, and the first returns all of it, the others None.

    Options:
        cache: keep embeddings beside result.json for the next time
        shard_gallery: under torchrun each rank keeps the embeddings it makes

    cache_file: where embeddings are kept, and taken from if they are of the same packages, image contents and model.
    With shards every rank returns a table, around its Shard, and has a cache file of its own beside `cache_file`.
    """
    if shard_gallery and distributed.world_size() > 1:
        return _embed_shard(records, encoder, cache_file, cache)
    embeddings = key = None
    if cache and distributed.is_first():
        key = cache_key(records, encoder.facts, encoder.device)
        embeddings = take_from_cache(cache_file, key)
    if not distributed.broadcast_value(embeddings is not None):
        embeddings = embed(encoder.network, encoder.open_loader(records), encoder.device)
        if key is not None:
            put_into_cache(cache_file, key, embeddings)
    if key is not None:
        keep_fingerprint(cache_file.parent, encoder.origin, encoder.fingerprint)
    if not distributed.is_first():
        return None
    return EmbeddingTable(records, embeddings, encoder.fingerprint)


def _embed_shard(records: Records, encoder: Encoder, cache_file: Path, cache: bool) -> EmbeddingTable:
    """As embed_list, but each rank keeps those that it makes."""
    loader = encoder.open_loader(records)
    rows = loader.batch_sampler.rows()
    embeddings = None
    if cache:
        ranks = f"{distributed.rank()}_of_{distributed.world_size()}"
        cache_file = cache_file.with_name(f"{cache_file.stem}_{ranks}{cache_file.suffix}")
        key = cache_key(records.take(rows), encoder.facts, encoder.device)
        embeddings = take_from_cache(cache_file, key)
    if embeddings is None:
        embeddings = embed_own(encoder.network, loader, encoder.device)
        if cache:
            put_into_cache(cache_file, key, embeddings)
    shard = open_shard(embeddings, torch.from_numpy(rows), len(records), encoder.device)
    return EmbeddingTable(records, shard, encoder.fingerprint)


def embed(model: nn.Module, loader: BatchLoader, device: torch.device) -> torch.Tensor | None:
    """Embeddings of all N images behind `loader`, (N, D) float32 on the CPU, row i being image i.

    The model is put into evaluation mode meanwhile and left as it was. Several ranks embed the batches in turn; the
    first gets all embeddings, the others None.
    """
    embeddings = None
    if distributed.is_first():
        embeddings = torch.empty(len(loader.dataset), model.embedding_size)
    # Every rank has to run through all batches, though only the first gets any.
    for indices, batch in embed_batches(model, loader, device):
        embeddings[indices] = batch
    return embeddings


def embed_batches(
    model: nn.Module, loader: BatchLoader, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (indices (B,), embeddings (B, D) float32 on the CPU) of one batch after the other, as `embed`.

    On the first rank those of all ranks, on others none, but these have to run through it, too.
    """
    return distributed.gather_batches(_own_batches(model, loader, device))


def embed_own(model: nn.Module, loader: BatchLoader, device: torch.device) -> torch.Tensor:
    """As `embed`, but every rank gets the embeddings (n, D) of the images behind its own batches, and no others.

    They are in the order of `loader.batch_sampler.rows()`.
    """
    embeddings = torch.empty(len(loader.batch_sampler.rows()), model.embedding_size)
    start = 0
    for _, batch in _own_batches(model, loader, device):
        embeddings[start : start + len(batch)] = batch
        start += len(batch)
    return embeddings


@torch.inference_mode()
def _own_batches(
    model: nn.Module, loader: BatchLoader, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """As embed_batches, of this rank's batches."""
    was_training = model.training
    model.eval()
    hidden = None if distributed.is_first() else True  # None hides the bar where there is no terminal
    try:
        for images, _, indices in tqdm(loader, desc="embedding", unit="batch", leave=False, disable=hidden):
            yield indices, model(images.to(device, non_blocking=True)).float().cpu()
    finally:
        model.train(was_training)
