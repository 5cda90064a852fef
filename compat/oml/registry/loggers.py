"""OML's names of loggers, for Lightning's trainer."""

from typing import Any

from compat.oml._tables import entry, options_of
from compat.oml.const import TCfg
from compat.oml.interfaces.loggers import IPipelineLogger
from compat.oml.lightning.pipelines.logging import (
    ClearMLPipelineLogger,
    MLFlowPipelineLogger,
    NeptunePipelineLogger,
    TensorBoardPipelineLogger,
    WandBPipelineLogger,
)

LOGGERS_REGISTRY = {
    "wandb": WandBPipelineLogger,
    "neptune": NeptunePipelineLogger,
    "tensorboard": TensorBoardPipelineLogger,
    "mlflow": MLFlowPipelineLogger,
    "clearml": ClearMLPipelineLogger,
}


def get_logger(name: str, **options: Any) -> IPipelineLogger:
    """The logger of that name. Raises UnknownName, and InputError where its package or its key is missing."""
    return entry("logger", name, LOGGERS_REGISTRY)(**options)


def get_logger_by_cfg(cfg: TCfg) -> IPipelineLogger:
    """The logger of a section, of which some have a `name` of their own."""
    return entry("logger", cfg["name"], LOGGERS_REGISTRY)(**options_of(cfg))


__all__ = ["LOGGERS_REGISTRY", "get_logger", "get_logger_by_cfg"]
