"""MLflow, the package mlflow or mlflow-skinny."""

import os
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.packages import needed
from engine.loggers._names import flat, plain_name, revision
from engine.loggers._protocol import Logger, RunFacts
from engine.loggers._registry import LOGGERS

PARAMETERS_AT_ONCE = 100  # more are refused
LONGEST_PARAMETER = 500  # characters, of an older server


@LOGGERS.register("mlflow", remote=True)
class MlflowLogger(Logger):
    """MLflow: figures, parameters, pictures and checkpoints as artifacts, on the server of MLFLOW_TRACKING_URI, else in
    the run's folder.

    client: an MlflowClient; run_id: of the run there. Figures stand there as GROUP/NAME.
    """

    files = ("mlflow.id",)

    def __init__(self, package: Any, client: Any, run_id: str):
        self.package = package
        self.client = client
        self.run_id = run_id

    @staticmethod
    def refuse_unready() -> None:
        needed("mlflow", "--loggers=mlflow", "loggers")

    @classmethod
    def open(cls, facts: RunFacts) -> Self:
        package = needed("mlflow", "--loggers=mlflow", "loggers")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri = (facts.folder.resolve() / "mlruns").as_uri()
            # Files are all that the small package can write, and later versions ask whether that is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        client = package.MlflowClient(tracking_uri=uri)
        run_id = facts.kept_id("mlflow")
        if run_id is None:
            experiment = client.get_experiment_by_name(facts.project)
            if experiment is None:
                experiment_id = client.create_experiment(facts.project)
            else:
                experiment_id = experiment.experiment_id
            tags = {tag: "tag" for tag in facts.tags}
            run_id = client.create_run(experiment_id, tags=tags, run_name=facts.folder.name).info.run_id
            facts.keep_id("mlflow", run_id)
        return cls(package, client, run_id)

    def config(self, sections: dict[str, object]) -> None:
        self.client.log_dict(self.run_id, sections, "config.json")
        git = revision(sections)
        if git:
            self.client.set_tag(self.run_id, "mlflow.source.git.commit", git)
        parameters = []
        for name, value in flat(sections).items():
            text = str(value)[:LONGEST_PARAMETER]
            parameters.append(self.package.entities.Param(plain_name(name), text))
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(self.run_id, params=parameters[start : start + PARAMETERS_AT_ONCE])

    def log(self, figures: dict[str, float], step: int, group: str) -> None:
        now = int(time.time() * 1000)
        metrics = []
        for name, value in figures.items():
            metrics.append(self.package.entities.Metric(plain_name(f"{group}/{name}"), float(value), now, step))
        self.client.log_batch(self.run_id, metrics=metrics)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self.client.log_image(self.run_id, picture, artifact_file=f"pictures/{name}_{step:06d}.png")

    def checkpoint(self, path: Path, step: int) -> None:
        self.client.log_artifact(self.run_id, str(path), "checkpoints")

    def close(self) -> None:
        self.client.set_terminated(self.run_id)
