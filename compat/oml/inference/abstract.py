"""Embeddings of all items of a dataset, distances of pairs of them, and embeddings kept for the next time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from compat.oml.datasets.pairs import PairDataset
from compat.oml.inference._keys import dataset_facts
from compat.oml.inference._ranks import gathered, own_rows
from compat.oml.interfaces.datasets import IBaseDataset, IIndexedDataset
from compat.oml.interfaces.models import IPairwiseModel
from core.errors import InputError
from core.files import replacing
from embeddings.fingerprint import tensors_digest
from models.plain_weights import read_weights

BATCH_SIZE = 32


def inference(
    model: nn.Module,
    dataset: IBaseDataset,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    verbose: bool = False,
    use_fp16: bool = False,
    accumulate_on_cpu: bool = True,
) -> torch.Tensor:
    """Embeddings (N, D) of a dataset in its order. The network is in evaluation mode meanwhile, and left as it was.

    use_fp16: the network's products in half precision; on a CPU it has no effect. Several ranks of torch.distributed
    share the work, and each gets all embeddings.
    """
    device = device_of(model)

    def embed(batch: Mapping[str, Any]) -> torch.Tensor:
        return model(moved(batch[dataset.input_tensors_key], device))

    return _outputs(model, embed, dataset, batch_size, num_workers, verbose, use_fp16, accumulate_on_cpu)


def pairwise_inference(
    model: IPairwiseModel,
    base_dataset: IBaseDataset,
    pair_ids: Sequence[tuple[int, int]],
    num_workers: int = 0,
    batch_size: int = BATCH_SIZE,
    verbose: bool = True,
    use_fp16: bool = False,
    accumulate_on_cpu: bool = True,
) -> torch.Tensor:
    """Distances (P,) of pairs of items, as the network predicts them; otherwise as `inference`."""
    device = device_of(model)
    dataset = PairDataset(base_dataset, pair_ids)

    def compare(batch: Mapping[str, Any]) -> torch.Tensor:
        first = moved(batch[dataset.input_tensors_key_1], device)
        second = moved(batch[dataset.input_tensors_key_2], device)
        return model.predict(first, second)

    return _outputs(model, compare, dataset, batch_size, num_workers, verbose, use_fp16, accumulate_on_cpu)


def inference_cached(
    model: nn.Module,
    dataset: IBaseDataset,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    use_fp16: bool = False,
    verbose: bool = True,
    accumulate_on_cpu: bool = True,
    cache_path: str | Path = "inference_cache.pth",
) -> torch.Tensor:
    """As `inference`, taken from a file where it holds those of the same weights, items and transform."""
    key = _key(model, dataset, use_fp16)
    embeddings = _cached(cache_path, key)
    if embeddings is not None:
        print(f"embeddings taken from {cache_path} (same weights and items)")
        return embeddings
    embeddings = inference(model, dataset, batch_size, num_workers, verbose, use_fp16, accumulate_on_cpu)
    with replacing(cache_path) as part:
        torch.save({"key": key, "embeddings": embeddings}, part)
    print(f"embeddings written to {cache_path}")
    return embeddings


def device_of(model: nn.Module) -> torch.device:
    """Where a network's weights are; the CPU for one without any."""
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")


def moved(inputs: Any, device: torch.device) -> Any:
    """A batch's inputs on a device: a tensor, or what has several by their names."""
    if hasattr(inputs, "to"):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@torch.no_grad()
def _outputs(
    model: nn.Module,
    apply: Callable[[Mapping[str, Any]], torch.Tensor],
    dataset: IIndexedDataset,
    batch_size: int,
    num_workers: int,
    verbose: bool,
    use_fp16: bool,
    accumulate_on_cpu: bool,
) -> torch.Tensor:
    rows = own_rows(len(dataset))
    loader = DataLoader(Subset(dataset, rows.tolist()), batch_size, num_workers=num_workers)
    device = device_of(model)
    halves = use_fp16 and device.type != "cpu"
    was_training = model.training
    model.eval()
    outputs = []
    try:
        with torch.autocast(device.type, torch.float16 if halves else None, enabled=halves):
            for batch in tqdm(loader, desc=str(device), disable=not verbose):
                output = apply(batch).float()
                outputs.append(output.cpu() if accumulate_on_cpu else output)
    finally:
        model.train(was_training)
    return gathered(rows, torch.cat(outputs), len(dataset))


def _cached(file: str | Path, key: str) -> torch.Tensor | None:
    """The embeddings of a file that holds those of this key; None of any other."""
    try:
        cached = read_weights(file)
    except InputError:  # not there, or not to be read
        return None
    if cached.get("key") != key:
        return None
    return cached["embeddings"]


def _key(model: nn.Module, dataset: IBaseDataset, use_fp16: bool) -> str:
    """What tells these embeddings from others, hexadecimal."""
    digest = tensors_digest(model.state_dict().items())
    digest.update(f"{type(model).__name__} {use_fp16}".encode())
    for fact in dataset_facts(dataset):
        digest.update(fact)
    return digest.hexdigest()


__all__ = ["inference", "inference_cached", "pairwise_inference"]
