"""EasyDL's embeddings of a data set whose items are dictionaries."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from compat.easydl.data import GenericLambdaDataset
from compat.easydl.dml.interface import ImageTensorToEmbeddingTensorInterface
from core.errors import InputError


def infer_x_dataset_without_post_processing(
    dataset: Dataset, model: Callable, batch_size: int = 20
) -> list[np.ndarray]:
    """What a model makes of the `x` of each batch, by the device that it is on, in evaluation mode."""
    if dataset[0].get("x") is None:
        raise InputError("items of the data set have no 'x'")
    model.eval()
    device = next(model.parameters()).device
    batches = []
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=batch_size):
            batches.append(model(batch["x"].to(device)).cpu().numpy())
    return batches


def infer_x_dataset_with_simple_stacking(dataset: Dataset, model: Callable, batch_size: int = 20) -> np.ndarray:
    """The same in one array, (N, D)."""
    return np.concatenate(infer_x_dataset_without_post_processing(dataset, model, batch_size))


def infer_x_dataset_with_image_tensor_to_embedding_tensor_model(
    dataset: GenericLambdaDataset, model: ImageTensorToEmbeddingTensorInterface, batch_size: int = 20
) -> np.ndarray:
    """Embeddings (N, D) of a data set whose `x` are images, behind the model's own transform; it stays as it is."""
    if not isinstance(model, ImageTensorToEmbeddingTensorInterface):
        raise InputError(f"{type(model).__name__} has no image transform of its own")
    transformed = GenericLambdaDataset(dataset.lambda_dict, len(dataset))
    transformed.extend_lambda_dict({"x": model.get_image_transform_function()})
    return infer_x_dataset_with_simple_stacking(transformed, model, batch_size)
