"""OML's loggers for Lightning's trainer: engine/loggers/ under its names.

A server that is slow, or gone, neither ends a run nor slows it. Keys and addresses that are given stand in the
environment, where the packages of these servers look for them.
"""

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from compat.lightning import lightning
from compat.oml.const import TCfg
from compat.oml.interfaces.loggers import IPipelineLogger
from compat.oml.registry.transforms import get_transforms_by_cfg
from compat.oml.utils.images.images import figure_to_nparray
from core.errors import InputError
from core.versions import versions
from engine.loggers import LOGGERS, Background, Logger, RunFacts
from engine.loggers._names import flat

ALONE = "train"  # the group of a figure that names none


class PipelineLogger(lightning().loggers.Logger, IPipelineLogger):
    """The logger `kind` of engine/loggers/, opened with the first that it is told, in save_dir/name/version.

    name: of the project; version: of the run, by default the next number. tags: besides those of a configuration.
    log_model: whether the best weights go there as well, when a run ends. Raises InputError where a package or a key is
    missing.
    """

    kind: str

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None,
        version: str | int | None = None,
        tags: Sequence[str] = (),
        log_model: bool = False,
        **environment: str | None,
    ) -> None:
        super().__init__()
        os.environ.update({key: value for key, value in environment.items() if value})
        LOGGERS[self.kind].refuse_unready()
        self._save_dir = Path(save_dir)
        self._name = name or "lightning_logs"
        self._version = version
        self._tags = tuple(tags)
        self._sends_weights = log_model
        self._checkpoints: Any = None
        self._logger: Logger | None = None
        self._was_open = False
        self._last_step = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        if self._version is None:
            taken = [path.name for path in Path(self._save_dir, self._name).glob("version_*")]
            self._version = next(number for number in range(len(taken) + 1) if f"version_{number}" not in taken)
        return f"version_{self._version}" if isinstance(self._version, int) else self._version

    @property
    def save_dir(self) -> str:
        return str(self._save_dir)

    @property
    def log_dir(self) -> str:
        """The folder of the run."""
        return str(self._save_dir / self.name / self.version)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *further: Any) -> None:
        """Settings of a module."""
        settings = vars(params) if isinstance(params, Namespace) else params
        if settings:
            self._tell("config", {"hyperparameters": _plain(settings)})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures by name; what stands before the first slash is their group."""
        self._last_step = self._last_step if step is None else step
        groups: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            group, slash, rest = name.partition("/")
            groups.setdefault(group if slash else ALONE, {})[rest or name] = float(value)
        for group, figures in groups.items():
            self._tell("log", figures, self._last_step, group)

    def log_figure(self, fig: Any, title: str, idx: int) -> None:
        self._tell("image", title, figure_to_nparray(fig), idx)

    def log_pipeline_info(self, cfg: TCfg) -> None:
        """The configuration, its transforms, its table's SHA-256, the revision of this code; its tags."""
        self._tags += tuple(prepare_tags(cfg))
        sections = {"config": _plain(cfg), "dir": Path.cwd().name, "versions": versions()}
        for key, section in cfg.items():
            if "transforms" in key and section:
                sections[key] = repr(get_transforms_by_cfg(section))
        file = Path(str(cfg.get("dataset_root", "")), str(cfg.get("dataframe_name", "")))
        if file.is_file():
            sections["dataset"] = {"file": str(file), "sha256": sha256(file.read_bytes()).hexdigest()}
        self._tell("config", sections)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._checkpoints = checkpoint_callback

    def finalize(self, status: str) -> None:
        """Send what still waits; what comes later opens the same run again."""
        best = getattr(self._checkpoints, "best_model_path", "")
        if self._sends_weights and best and Path(best).is_file():
            self._tell("checkpoint", Path(best), self._last_step)
        if self._logger is not None:
            self._logger.close()
            self._logger = None

    def _tell(self, method: str, *arguments: Any) -> None:
        """Hand something on; of several processes the first alone does."""
        if lightning().utilities.rank_zero_only.rank:
            return
        if self._logger is None:
            folder = Path(self.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            facts = RunFacts(folder, self._last_step, self._was_open, self._was_open, self.name, self._tags)
            open_logger = partial(LOGGERS[self.kind].open, facts)
            is_remote = LOGGERS.fact(self.kind, "remote", False)
            self._logger = Background(self.kind, open_logger) if is_remote else open_logger()
            self._was_open = True
        getattr(self._logger, method)(*arguments)


class TensorBoardPipelineLogger(PipelineLogger):
    """TensorBoard's files in save_dir/name/version. `experiment`: torch's SummaryWriter, once there is something."""

    kind = "tensorboard"

    def __init__(
        self, save_dir: str | Path, name: str | None = "lightning_logs", version: int | str | None = None
    ) -> None:
        super().__init__(save_dir, name, version)

    @property
    def experiment(self) -> Any:
        return getattr(self._logger, "writer", None)


class WandBPipelineLogger(PipelineLogger):
    """Weights & Biases, by WANDB_API_KEY, or offline in save_dir."""

    kind = "wandb"

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | Path = ".",
        version: str | None = None,
        offline: bool = False,
        project: str | None = None,
        log_model: bool = False,
        tags: Sequence[str] = (),
    ) -> None:
        mode = "offline" if offline else None
        super().__init__(save_dir, project, name or version, tags, log_model, WANDB_MODE=mode)


class NeptunePipelineLogger(PipelineLogger):
    """Neptune, by NEPTUNE_API_TOKEN and NEPTUNE_PROJECT, or what is given in their place."""

    kind = "neptune"

    def __init__(
        self,
        *,
        api_key: str | None = None,
        project: str | None = None,
        name: str | None = None,
        log_model_checkpoints: bool = True,
        tags: Sequence[str] = (),
        mode: str | None = None,
    ) -> None:
        settings = {"NEPTUNE_API_TOKEN": api_key, "NEPTUNE_PROJECT": project, "NEPTUNE_MODE": mode}
        super().__init__(
            ".neptune", project and project.replace("/", "_"), name, tags, log_model_checkpoints, **settings
        )


class MLFlowPipelineLogger(PipelineLogger):
    """MLflow, on the server tracking_uri, or of MLFLOW_TRACKING_URI, or in save_dir."""

    kind = "mlflow"

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        save_dir: str | Path = "./mlruns",
        log_model: bool = False,
    ) -> None:
        names = [f"{key}={value}" for key, value in (tags or {}).items()]
        super().__init__(save_dir, experiment_name, run_name, names, log_model, MLFLOW_TRACKING_URI=tracking_uri)


class ClearMLPipelineLogger(PipelineLogger):
    """ClearML, by its configuration, or offline, as by default."""

    kind = "clearml"

    def __init__(
        self, project_name: str | None = None, task_name: str | None = None, offline_mode: bool = True
    ) -> None:
        mode = "1" if offline_mode else None
        super().__init__(".clearml", project_name, task_name, CLEARML_OFFLINE_MODE=mode)


def prepare_config_to_logging(cfg: TCfg, sep: str = "|") -> dict[str, Any]:
    """A configuration as one table, {"a|b": value}, with the name of the folder that one is in."""
    return {name.replace("/", sep): value for name, value in flat({**cfg, "dir": Path.cwd().name}).items()}


def prepare_tags(cfg: TCfg) -> list[str]:
    """The tags of a configuration, its postfix, and the name of the folder that one is in."""
    return [str(tag) for tag in (*cfg.get("tags", ()), cfg.get("postfix"), Path.cwd().name) if tag]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them; what it has not, as text. Raises InputError for keys that are no texts."""

    def simpler(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        return list(value) if isinstance(value, (Sequence, set)) else str(value)

    try:
        return json.loads(json.dumps(dict(settings), default=simpler))
    except TypeError as error:
        raise InputError(f"settings cannot be written down: {error}") from None


__all__ = [
    "ClearMLPipelineLogger",
    "IPipelineLogger",
    "MLFlowPipelineLogger",
    "NeptunePipelineLogger",
    "TensorBoardPipelineLogger",
    "WandBPipelineLogger",
    "prepare_config_to_logging",
    "prepare_tags",
]
