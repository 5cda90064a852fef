"""EasyDL's trainers: a network by name, a loss by name, Adam, and a file of weights an epoch.

Lists, tests on the way, recipes and runs that go on: train_elem.py with `--loss_name=proxy_anchor` or `arcmargin`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from compat.easydl._errors import check_columns
from compat.easydl.common_trainer import train_xy_model_for_epochs
from compat.easydl.data import GenericXYLambdaAutoLabelEncoderDataset
from compat.easydl.dml.loss import ArcFaceLoss, ProxyAnchorLoss
from compat.easydl.dml.pytorch_models import IMAGENET, DMLModelManager, MetricModel
from compat.easydl.image import CommonImageToDlTensorForTraining
from core.errors import InputError, unknown
from engine.optimiser import build_optimiser

LOSS_NAMES = ("arcface_loss", "proxy_anchor_loss")


def train_deep_metric_learning_image_model_ver777(
    model_name: str = "resnet18",
    train_df: Any = None,
    loss_name: str = "proxy_anchor_loss",
    embedding_dim: int = 128,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    num_epochs: int = 100,
    default_model_weights_suffix: str | None = IMAGENET,
    model_param_path: str | None = None,
    use_accelerator: bool = False,
    lr: float = 1e-4,
) -> MetricModel:
    """Train on a data frame with columns `x`, what names an image, and `y`, its label of any kind; returns the model.

    Writes model_epoch_001.pth and so on (CommonCallbackConfig). model_param_path: weights to begin with.
    use_accelerator is taken and has no effect: whatever accelerator there is is used. Raises InputError for what is
    missing or unknown.
    """
    if train_df is None:
        raise InputError("train_df is missing; it is a data frame with columns 'x' and 'y'")
    check_columns(train_df, "x", "y")
    _check_loss(loss_name)
    model = DMLModelManager.get_model(model_name, embedding_dim, default_model_weights_suffix)
    if model_param_path is not None:
        model.load_weights(model_param_path)
    dataset = GenericXYLambdaAutoLabelEncoderDataset.from_df(train_df)
    dataset.extend_lambda_dict({"x": _train_transform(model)})
    _train(model, dataset, dataset.get_number_of_classes(), loss_name, batch_size, num_epochs, lr, device)
    return model


class DeepMetricLearningImageTrainverV871:
    """ResNet18 by ArcFace on what two functions of an index load."""

    @staticmethod
    def turn_df_to_x_y_loader(df: Any) -> tuple[Callable[[int], Any], Callable[[int], Any], int]:
        """The loaders of a data frame with columns `x` and `y`, and how many rows it has."""
        return df["x"].tolist().__getitem__, df["y"].tolist().__getitem__, len(df)

    @staticmethod
    def train_resnet18_with_arcface_loss(
        x_loader: Callable[[int], Any],
        y_loader: Callable[[int], Any],
        size_of_dataset: int,
        embedding_dim: int = 128,
        batch_size: int = 256,
        num_epochs: int = 10,
        lr: float = 1e-4,
        weights: str | None = IMAGENET,
    ) -> MetricModel:
        """Train, write a file an epoch, and return the model."""
        model = DMLModelManager.get_model("resnet18", embedding_dim, weights)
        dataset = GenericXYLambdaAutoLabelEncoderDataset(x_loader, y_loader, size_of_dataset)
        dataset.extend_lambda_dict({"x": _train_transform(model)})
        _train(model, dataset, dataset.get_number_of_classes(), "arcface_loss", batch_size, num_epochs, lr)
        return model


class DeepMetricLearningImageTrainverV971:
    """Trains when it is made; `model` is what it made.

    ds_train: items {"x": what the model takes, "y": the label's code, 0 to number_of_classes - 1}. num_classes is
    another word for number_of_classes.
    """

    def __init__(
        self,
        ds_train: Dataset,
        number_of_classes: int | None = None,
        model_name: str = "resnet18",
        loss_name: str = "arcface_loss",
        embedding_dim: int = 128,
        batch_size: int = 256,
        num_epochs: int = 10,
        lr: float = 1e-4,
        *,
        num_classes: int | None = None,
        weights: str | None = IMAGENET,
    ) -> None:
        classes = num_classes if number_of_classes is None else number_of_classes
        if classes is None:
            raise InputError("number_of_classes is missing; it is how many labels ds_train has")
        _check_loss(loss_name)
        self.model = DMLModelManager.get_model(model_name, embedding_dim, weights)
        self.number_of_classes = classes
        _train(self.model, ds_train, classes, loss_name, batch_size, num_epochs, lr)


def _train(
    model: MetricModel,
    dataset: Dataset,
    classes: int,
    loss_name: str,
    batch_size: int,
    num_epochs: int,
    lr: float,
    device: torch.device | str | None = None,
) -> None:
    loss = _build_loss(loss_name, model.embedding_size, classes)
    optimiser = build_optimiser(model, loss, optimiser="adam", lr=lr, weight_decay=0.0)
    batches = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    train_xy_model_for_epochs(model, batches, optimiser, loss, device, num_epochs)


def _check_loss(name: str) -> None:
    """Raise InputError for a loss that there is not, before weights are downloaded."""
    if name not in LOSS_NAMES:
        raise unknown("loss", name, LOSS_NAMES)


def _build_loss(name: str, width: int, classes: int) -> nn.Module:
    return ArcFaceLoss(width, classes) if name == "arcface_loss" else ProxyAnchorLoss(classes, width)


def _train_transform(model: MetricModel) -> Callable[[Any], torch.Tensor]:
    """A random crop of images of 256 pixels, where the network takes 224, else the geometry of its weights."""
    if (model.transform.height, model.transform.width) == (224, 224):
        return CommonImageToDlTensorForTraining()
    return model.image_transform
