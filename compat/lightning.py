"""OML's modules and its callback for PyTorch Lightning 2: training, figures in validation, several processes.

from compat.lightning import ExtractorModule, MetricValCallback
from compat.oml.metrics import EmbeddingMetrics

Needs `pip install -r requirements/lightning.txt`, or pytorch-lightning: the classes are for the one of both that is
imported first. The trainer of the house is engine/trainer.py, which this does not use. docs/lightning.md says more.
"""

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from compat.hello_mnist import SiameseNetwork
from core.errors import InputError
from core.packages import needed
from core.text import counted

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
INPUT_TENSORS_KEY = "input_tensors"
LABELS_KEY = "labels"
EMBEDDINGS_KEY = "embeddings"
INDEX_KEY = "idx"
VAL_BATCH = 32  # items of a batch where a data set is given in place of a loader

Loaders = DataLoader | Dataset | Sequence[DataLoader] | Mapping[str, DataLoader]


def lightning() -> ModuleType:
    """The package of Lightning that is in use, or else the one that is there. Raises InputError without any.

    A trainer of one package takes no modules of the other.
    """
    for name in PACKAGES:
        if name in sys.modules:
            return sys.modules[name]
    try:
        return needed("lightning.pytorch", "compat.lightning", "lightning")
    except InputError as error:
        try:
            return needed("pytorch_lightning", "compat.lightning", "lightning")
        except InputError:
            raise error from None


class ExtractorModule(lightning().LightningModule):
    """Trains a network by a loss over embeddings and labels; validation hands its embeddings to MetricValCallback.

    extractor: from a batch's input to embeddings (B, D). criterion(embeddings, labels): a scalar. optimizer, scheduler:
    torch's; scheduler_interval: step or epoch, of which each scheduler_frequency-th moves it; scheduler_monitor_metric:
    the figure that ReduceLROnPlateau looks at. The keys are those of a batch, a dictionary.

    freeze_n_epochs: epochs, from the first, in which the backbone stays as it is, statistics of its BatchNorms
    included. The network has `hold_backbone` and `release_backbone` (models.Embedder), or `freeze` and `unfreeze`.
    Raises InputError where it has none of them.
    """

    def __init__(
        self,
        extractor: nn.Module,
        criterion: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        scheduler_interval: str = "step",
        scheduler_frequency: int = 1,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        labels_key: str = LABELS_KEY,
        embeddings_key: str = EMBEDDINGS_KEY,
        scheduler_monitor_metric: str | None = None,
        freeze_n_epochs: int = 0,
    ) -> None:
        super().__init__()
        if scheduler_interval not in ("step", "epoch"):
            raise InputError(f"scheduler_interval is {scheduler_interval!r}; it is step or epoch")
        if freeze_n_epochs < 0:
            raise InputError(f"freeze_n_epochs is {freeze_n_epochs}; it is 0 or more")
        if freeze_n_epochs and _freezing(extractor) is None:
            raise InputError(
                f"freeze_n_epochs={freeze_n_epochs} needs a network that can be frozen, with freeze() and unfreeze(), "
                f"which {type(extractor).__name__} has not"
            )
        self.model = extractor
        self.criterion = criterion
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.scheduler_frequency = scheduler_frequency
        self.monitor_metric = scheduler_monitor_metric
        self.input_tensors_key = input_tensors_key
        self.labels_key = labels_key
        self.embeddings_key = embeddings_key
        self.freeze_n_epochs = freeze_n_epochs
        self._is_frozen = False
        self._frozen: list[nn.Parameter] = []
        self._stilled: list[nn.Module] = []

    def forward(self, x: Any) -> torch.Tensor:
        """A batch's input to embeddings (B, D)."""
        return self.model(x)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """The loss of a batch; it is logged, and so is what the loss says of it."""
        if self.criterion is None:
            raise InputError("criterion is not given; training needs a loss")
        embeddings = self.model(batch[self.input_tensors_key])
        loss = self.criterion(embeddings, batch[self.labels_key])
        size = len(embeddings)
        name = (getattr(self.criterion, "criterion_name", "") + "_loss").strip("_")
        self.log(name, loss.detach(), prog_bar=True, batch_size=size, on_step=True, on_epoch=True)
        # OML's losses call it last_logs, those of the house logs.
        figures = getattr(self.criterion, "last_logs", None) or getattr(self.criterion, "logs", None)
        if figures:
            self.log_dict({key: float(value) for key, value in figures.items()}, batch_size=size, on_step=True)
        self._log_rate(size)
        return loss

    def _log_rate(self, batch_size: int) -> None:
        """The rate that a schedule is at."""
        if self.scheduler is not None:
            rate = self.scheduler.optimizer.param_groups[0]["lr"]
            self.log("lr", rate, prog_bar=True, batch_size=batch_size, on_step=True, on_epoch=False)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, *further: int) -> dict[str, Any]:
        """The batch with its embeddings."""
        extract = getattr(self.model, "extract", self.model)
        return {**batch, self.embeddings_key: extract(batch[self.input_tensors_key])}

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int, *further: int) -> dict[str, Any]:
        """The batch with its embeddings."""
        return self.validation_step(batch, batch_idx, *further)

    def configure_optimizers(self) -> Any:
        if self.scheduler is None:
            return self.optimizer
        plan = {
            "scheduler": self.scheduler,
            "interval": self.scheduler_interval,
            "frequency": self.scheduler_frequency,
        }
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            plan["monitor"] = self.monitor_metric
        return [self.optimizer], [plan]

    def on_train_epoch_start(self) -> None:
        """Freeze or release the backbone, as the epoch has it."""
        if not self.freeze_n_epochs:
            return
        freeze, release = _freezing(self.model)
        if self.current_epoch < self.freeze_n_epochs:
            if not self._is_frozen:
                learning = [weight for weight in self.model.parameters() if weight.requires_grad]
                freeze()
                self._frozen = [weight for weight in learning if not weight.requires_grad]
                self._stilled = _norms_of(self.model, self._frozen)
                self._is_frozen = True
            # Anew in each epoch, whoever has set the network to training between.
            for norm in self._stilled:
                norm.eval()
            # Several processes wait for the gradients of all weights that they began with; these are dropped then.
            if self.trainer.world_size > 1:
                for weight in self._frozen:
                    weight.requires_grad_(True)
        elif self._is_frozen:
            release()
            for norm in self._stilled:
                norm.train()
            self._frozen = []
            self._stilled = []
            self._is_frozen = False

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """No step for what is frozen, whatever momentum and decay of weights would make of a gradient of 0."""
        for weight in self._frozen:
            weight.grad = None


class ModuleDDP(lightning().LightningModule):
    """A module that has its loaders itself, and parts what they give among the processes.

    loaders_train, loaders_val: a loader, several as a list or a dictionary, or a data set. Each process takes every
    n-th batch of a train loader with a batch sampler, every n-th item of others; call `trainer.fit(module)` without
    loaders.
    """

    def __init__(
        self, loaders_train: Loaders | None = None, loaders_val: Loaders | None = None, *first: Any, **further: Any
    ) -> None:
        if loaders_train is None and loaders_val is None:
            raise InputError("neither loaders_train nor loaders_val is given; the module needs one of them")
        # What further arguments mean, the class behind this one knows.
        super().__init__(*first, **further)
        self.loaders_train = loaders_train
        self.loaders_val = loaders_val

    def train_dataloader(self) -> Any:
        if self.loaders_train is None:
            raise InputError("loaders_train is not given; fit() trains on them")
        self._keep_samplers()
        return _parted(self.loaders_train, shuffle=True)

    def val_dataloader(self) -> Any:
        if self.loaders_val is None:
            return []
        self._keep_samplers()
        return _parted(self.loaders_val, shuffle=False)

    def _keep_samplers(self) -> None:
        """What is parted here is not to be parted once more, whether the trainer was told so or not."""
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if hasattr(connector, "use_distributed_sampler"):
            connector.use_distributed_sampler = False


class ExtractorModuleDDP(ModuleDDP, ExtractorModule):
    """An ExtractorModule that has its loaders itself."""

    def __init__(
        self,
        extractor: nn.Module,
        criterion: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        loaders_train: Loaders | None = None,
        loaders_val: Loaders | None = None,
        **further: Any,
    ) -> None:
        super().__init__(
            loaders_train, loaders_val, extractor=extractor, criterion=criterion, optimizer=optimizer, **further
        )


class PairwiseModule(ExtractorModule):
    """Trains a network that says of two items whether they differ, by pairs that `pairs_miner` finds in a batch.

    A batch has, beside inputs and labels, the embeddings that pairs are found by, under `embeddings_key`.
    criterion(predictions, targets): a scalar; the target of a pair of two labels is 1. Validation gives back its
    batches: their embeddings are known, and a PairwiseReranker of the metric asks this network.
    """

    def __init__(
        self,
        pairwise_model: nn.Module,
        pairs_miner: Any,
        criterion: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scheduler_interval: str = "step",
        scheduler_frequency: int = 1,
        input_tensors_key: str = INPUT_TENSORS_KEY,
        labels_key: str = LABELS_KEY,
        embeddings_key: str = EMBEDDINGS_KEY,
        scheduler_monitor_metric: str | None = None,
        freeze_n_epochs: int = 0,
    ) -> None:
        super().__init__(
            pairwise_model,
            criterion,
            optimizer,
            scheduler,
            scheduler_interval,
            scheduler_frequency,
            input_tensors_key,
            labels_key,
            embeddings_key,
            scheduler_monitor_metric,
            freeze_n_epochs,
        )
        self.miner = pairs_miner

    def forward(self, x1: Any, x2: Any) -> torch.Tensor:
        """What the network says of each pair of two batches' inputs (B,)."""
        return self.model(x1, x2)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """The loss of a batch's pairs; it is logged."""
        labels = batch[self.labels_key]
        first, second, is_negative = self.miner.sample(batch[self.embeddings_key], labels)
        inputs = batch[self.input_tensors_key]
        predictions = self.model(inputs[first], inputs[second])
        loss = self.criterion(predictions, is_negative.float().to(predictions.device))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(labels), on_step=True, on_epoch=True)
        self._log_rate(len(labels))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, *further: int) -> dict[str, Any]:
        """The batch as it is."""
        return dict(batch)


class PairwiseModuleDDP(ModuleDDP, PairwiseModule):
    """A PairwiseModule that has its loaders itself; they come first, and all else as there."""


class MetricValCallback(lightning().Callback):
    """Gives the embeddings of a whole validation list to a metric, and logs its figures, as `OVERALL/cmc/1`.

    metric: has `setup(num_samples=...)`, `update(embeddings=..., indices=...)` and `compute_metrics()`, as
    EmbeddingMetrics of compat.oml. log_images: the metric's `visualize()` as pictures, where the logger takes any.
    loader_idx: of several validation loaders the one that it looks at.

    Of several processes each hands over what it has embedded, and the metric puts that together. Raises InputError
    where items are missing.
    """

    def __init__(self, metric: Any, log_images: bool = False, loader_idx: int = 0) -> None:
        lacking = [name for name in ("setup", "update", "compute_metrics") if not hasattr(metric, name)]
        if lacking:
            raise InputError(
                f"metric is {metric!r}, without {lacking[0]}(); it is an EmbeddingMetrics, or one of its form"
            )
        if log_images and not getattr(metric, "ready_to_visualize", bool)():
            raise InputError(f"log_images needs a metric that can be shown, which {type(metric).__name__} is not")
        self.metric = metric
        self.log_images = log_images
        self.loader_idx = loader_idx
        self._embeddings: list[torch.Tensor] = []
        self._indices: list[torch.Tensor] = []

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._embeddings = []
        self._indices = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx != self.loader_idx:
            return
        key = getattr(pl_module, "embeddings_key", EMBEDDINGS_KEY)
        self._embeddings.append(outputs[key].detach().cpu())
        self._indices.append(torch.as_tensor(outputs[INDEX_KEY]).cpu())

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # That a trainer begins with a look at two batches is no validation.
        if trainer.sanity_checking:
            return
        loaders = _as_list(trainer.val_dataloaders)
        if not 0 <= self.loader_idx < len(loaders):
            raise InputError(
                f"loader_idx is {self.loader_idx}; with {len(loaders)} validation loaders it is below that"
            )
        indices = torch.cat(self._indices)
        wanted = len(loaders[self.loader_idx].dataset)
        seen = _distinct_of_all(indices)
        if seen != wanted:
            raise InputError(
                f"validation has seen {seen} of the {counted(wanted, 'item')} of its list; figures are of all of "
                "them, so loaders leave none out (drop_last, overfit_batches, limit_val_batches)"
            )
        self.metric.setup(num_samples=wanted)
        self.metric.update(embeddings=torch.cat(self._embeddings), indices=indices)
        suffix = f"/dataloader_idx_{self.loader_idx}" if len(loaders) > 1 else ""
        figures = {name + suffix: value for name, value in _flat(self.metric.compute_metrics())}
        # Every process has the same, and each of them may be asked for the figure that chooses checkpoints.
        pl_module.log_dict(figures, sync_dist=trainer.world_size > 1, add_dataloader_idx=False)
        if self.log_images and trainer.is_global_zero:
            self._show(trainer)

    def _show(self, trainer: Any) -> None:
        for figure, title in zip(*self.metric.visualize(), strict=True):
            for logger in trainer.loggers:
                board = getattr(logger, "experiment", None)
                if hasattr(logger, "log_figure"):
                    logger.log_figure(fig=figure, title=title, idx=trainer.current_epoch)
                elif hasattr(board, "add_figure"):
                    board.add_figure(title, figure, trainer.current_epoch)


class SiameseModule(SiameseNetwork, lightning().LightningModule):
    """The hello world's network (compat/hello_mnist.py) as a LightningModule, trained by Adam."""

    def __init__(self, backbone: nn.Module | None = None, loss_func: nn.Module | None = None, lr: float = 1e-3) -> None:
        super().__init__(backbone, loss_func)
        self.lr = lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Part(Sampler):
    """Every n-th of what a sampler gives, for one of n processes; its beginning is given twice where n does not divide.

    What a sampler draws is drawn by the first process for all, so that they have parts of one draw.
    """

    def __init__(self, sampler: Any, rank: int, processes: int) -> None:
        self.sampler = sampler
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.processes)

    def __iter__(self) -> Any:
        drawn = [list(self.sampler)]
        if dist.is_initialized():
            dist.broadcast_object_list(drawn)
        drawn = drawn[0]
        for number in range(len(self)):
            yield drawn[(self.rank + number * self.processes) % len(drawn)]

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on to a sampler that asks for it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def _freezing(network: nn.Module) -> tuple[Any, Any] | None:
    """What freezes a network and what releases it; None where it has neither."""
    for freeze, release in (("freeze", "unfreeze"), ("hold_backbone", "release_backbone")):
        if hasattr(network, freeze) and hasattr(network, release):
            return getattr(network, freeze), getattr(network, release)
    return None


def _norms_of(network: nn.Module, weights: Sequence[nn.Parameter]) -> list[nn.Module]:
    """The modules in training that keep statistics of batches, and whose weights are among these."""
    numbers = {id(weight) for weight in weights}
    norms = [module for module in network.modules() if getattr(module, "running_mean", None) is not None]
    return [norm for norm in norms if norm.training and {id(weight) for weight in norm.parameters()} & numbers]


def _parted(loaders: Loaders, shuffle: bool) -> Any:
    """Loaders of this process's part of the data."""
    if isinstance(loaders, Mapping):
        return {name: _parted(loader, shuffle) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return [_parted(loader, shuffle) for loader in loaders]
    if not isinstance(loaders, DataLoader):
        loaders = DataLoader(loaders, batch_size=VAL_BATCH, shuffle=shuffle)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return loaders
    rank, processes = dist.get_rank(), dist.get_world_size()
    settings = {
        "num_workers": loaders.num_workers,
        "collate_fn": loaders.collate_fn,
        "pin_memory": loaders.pin_memory,
        "worker_init_fn": loaders.worker_init_fn,
        "persistent_workers": loaders.persistent_workers,
    }
    # A loader that was given a batch size made its batch sampler itself.
    if loaders.batch_size is not None:
        sampler = Part(loaders.sampler, rank, processes)
        return DataLoader(
            loaders.dataset,
            batch_size=loaders.batch_size,
            sampler=sampler,
            drop_last=loaders.drop_last,
            **settings,
        )
    return DataLoader(loaders.dataset, batch_sampler=Part(loaders.batch_sampler, rank, processes), **settings)


def _distinct_of_all(indices: torch.Tensor) -> int:
    """How many different indices all processes have together."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, indices)
        indices = torch.cat(parts)
    return len(indices.unique())


def _as_list(loaders: Any) -> list[DataLoader]:
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    if isinstance(loaders, list | tuple):
        return list(loaders)
    return [loaders]


def _flat(figures: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, float]]:
    """(OVERALL/cmc/1, figure) of nested dictionaries."""
    flat = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            flat.extend(_flat(value, f"{prefix}{key}/"))
        else:
            flat.append((f"{prefix}{key}", float(value)))
    return flat
