"""ClearML, the package clearml."""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.errors import InputError
from core.packages import needed
from engine.loggers._names import flat, revision
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS


@LOGGERS.register("clearml", remote=True)
class ClearmlLogger(Logger):
    """ClearML: figures, pictures, parameters, checkpoints as artifacts; CLEARML_OFFLINE_MODE=1 keeps all of it on this
    machine.

    task: what Task.init gave. Of a figure GROUP is the title, its name the series.
    """

    files = ("clearml.id",)

    def __init__(self, task: Any):
        self.task = task
        self.logger = task.get_logger()

    @staticmethod
    def refuse_unready() -> None:
        needed("clearml", "--loggers=clearml", "loggers")
        if is_offline() or os.environ.get("CLEARML_API_ACCESS_KEY"):
            return
        file = Path(os.environ.get("CLEARML_CONFIG_FILE", "~/clearml.conf")).expanduser()
        if not file.is_file():
            raise InputError(
                "--loggers=clearml has no key: run `clearml-init`, set CLEARML_API_ACCESS_KEY and "
                "CLEARML_API_SECRET_KEY, or set CLEARML_OFFLINE_MODE=1"
            )

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        package = needed("clearml", "--loggers=clearml", "loggers")
        if is_offline():
            package.Task.set_offline(True)
        # It is opened from a thread, where its own thread and its own process get into each other's way: the one starts
        # git, the other, forked meanwhile, holds the pipe that git's start waits for, and closing waits minutes.
        calm = {"vcs_repo_detect_async": False, "report_use_subprocess": False}
        package.config.config_obj.set_overrides({"sdk": {"development": calm}})
        # Everything that a run shows comes from here: it is not to look into the process itself.
        task = package.Task.init(
            project_name=facts.project,
            task_name=facts.folder.name,
            tags=list(facts.tags),
            reuse_last_task_id=False,
            continue_last_task=facts.kept_id("clearml") or False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        facts.keep_id("clearml", task.id)
        return cls(task)

    def config(self, sections: dict[str, object]) -> None:
        self.task.connect_configuration(sections, name="config.json")
        self.task.set_parameters({name: str(value) for name, value in flat(sections).items()})
        git = revision(sections)
        if git:
            self.task.set_parameter("revision", git)

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        for name, value in figures.items():
            self.logger.report_scalar(group, name, value, step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        group, _, series = name.partition("/")
        self.logger.report_image(group, series, step, image=picture)

    def checkpoint(self, path: Path, step: int) -> None:
        self.task.upload_artifact(path.name, str(path), metadata={"step": step}, wait_on_upload=True)

    def close(self) -> None:
        self.task.close()


def is_offline() -> bool:
    return os.environ.get("CLEARML_OFFLINE_MODE", "0").lower() in ("1", "true", "yes")
