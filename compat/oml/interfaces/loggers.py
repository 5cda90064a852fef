"""What a logger of a pipeline is asked for."""

from abc import ABC, abstractmethod
from typing import Any

from compat.oml.const import TCfg


class IFigureLogger(ABC):
    """Takes figures of matplotlib."""

    @abstractmethod
    def log_figure(self, fig: Any, title: str, idx: int) -> None:
        """A figure of the step or epoch idx."""


class IPipelineLogger(IFigureLogger):
    """A logger of Lightning that is told of a whole pipeline, too."""

    @abstractmethod
    def log_pipeline_info(self, cfg: TCfg) -> None:
        """The pipeline's configuration, before anything else."""


__all__ = ["IFigureLogger", "IPipelineLogger"]
