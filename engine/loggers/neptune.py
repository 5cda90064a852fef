"""Neptune, the package neptune."""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.errors import InputError
from core.packages import needed
from engine.loggers._names import flat, revision
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS

OFFLINE = ("offline", "debug")


@LOGGERS.register("neptune", remote=True)
class NeptuneLogger(Logger):
    """Neptune: figures, pictures, settings, checkpoints as files; NEPTUNE_MODE=offline keeps all of it in .neptune.

    run: what neptune.init_run gave. The project is NEPTUNE_PROJECT, as WORKSPACE/NAME, since only Neptune makes one.
    """

    files = ("neptune.id",)

    def __init__(self, package: Any, run: Any):
        self.package = package
        self.run = run

    @staticmethod
    def refuse_unready() -> None:
        needed("neptune", "--loggers=neptune", "loggers")
        if os.environ.get("NEPTUNE_MODE") in OFFLINE:
            return
        missing = [name for name in ("NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT") if not os.environ.get(name)]
        if missing:
            raise InputError(f"--loggers=neptune has no key: set {' and '.join(missing)}, or NEPTUNE_MODE=offline")

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        package = needed("neptune", "--loggers=neptune", "loggers")
        identity = facts.kept_id("neptune")
        is_offline = os.environ.get("NEPTUNE_MODE") in OFFLINE
        settings = {"with_id": identity} if identity and not is_offline else {"name": facts.folder.name}
        # Everything that a run shows comes from here: it is not to look into the process itself.
        run = package.init_run(
            tags=list(facts.tags),
            source_files=[],
            capture_stdout=False,
            capture_stderr=False,
            capture_hardware_metrics=False,
            capture_traceback=False,
            git_ref=False,
            **settings,
        )
        if not is_offline:
            facts.keep_id("neptune", run["sys/id"].fetch())
        return cls(package, run)

    def config(self, sections: dict[str, object]) -> None:
        for name, value in flat(sections).items():
            self.run[f"config/{name}"] = "" if value is None else value
        self.run["revision"] = revision(sections) or ""

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        for name, value in figures.items():
            self.run[f"{group}/{name}"].append(value, step=step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.run[f"pictures/{name}"].append(self.package.types.File.as_image(picture / 255), step=step)

    def checkpoint(self, path: Path, step: int) -> None:
        self.run[f"checkpoints/{path.name}"].upload(str(path), wait=True)

    def close(self) -> None:
        self.run.stop()
