"""OML's loggers on Lightning's trainer: what ours are told, names, tags, what is missing; a run that goes on."""

import hashlib
import json
import sys

import numpy as np
import pytest

pytest.importorskip("lightning", reason="loggers of OML's pipelines are for Lightning")
pyplot = pytest.importorskip("matplotlib.pyplot")
from test_remote_loggers import KEYS  # noqa: E402

from compat.oml.registry.loggers import LOGGERS_REGISTRY, get_logger, get_logger_by_cfg  # noqa: E402
from core.errors import InputError  # noqa: E402
from engine.loggers import LOGGERS, Logger  # noqa: E402


class Recorder(Logger):
    """Keeps what it is opened with and told."""

    calls = []

    @classmethod
    def open(cls, facts):
        cls.calls.append(("open", facts))
        return cls()

    def config(self, sections):
        self.calls.append(("config", json.loads(json.dumps(sections))))

    def log(self, figures, step, group):
        self.calls.append(("log", figures, step, group))

    def image(self, name, picture, step):
        self.calls.append(("image", name, picture.shape, picture.dtype, step))

    def checkpoint(self, path, step):
        self.calls.append(("checkpoint", path.name, step))

    def close(self):
        self.calls.append(("close",))


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """All loggers are recorders; no keys of whoever runs the tests."""
    for name in KEYS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in LOGGERS_REGISTRY:
        monkeypatch.setitem(LOGGERS._entries, name, LOGGERS._entries[name]._replace(registered=Recorder))
    monkeypatch.setattr(Recorder, "calls", [])
    monkeypatch.chdir(tmp_path)
    return Recorder.calls


SETTINGS = {
    "tensorboard": {"save_dir": "runs"},
    "wandb": {"project": "shelf", "name": "first", "save_dir": "runs", "log_model": True},
    "neptune": {"project": "shelf/toys", "mode": "offline"},
    "mlflow": {"experiment_name": "shelf", "save_dir": "runs"},
    "clearml": {"project_name": "shelf", "task_name": "first"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_pipeline_says_arrives(name, recorded, tmp_path, record_property):
    (tmp_path / "df.csv").write_text("label\n")
    logger = get_logger_by_cfg({"name": name, "args": SETTINGS[name]})
    cfg = {
        "seed": 1,
        "tags": ["mine"],
        "postfix": "late",
        "transforms_train": {"name": "norm_torch", "args": {}},
        "dataset_root": str(tmp_path),
        "dataframe_name": "df.csv",
    }
    logger.log_pipeline_info(cfg)
    logger.log_hyperparams({"lr": 0.1, "sizes": (1, 2), "model": object})
    logger.log_metrics({"loss": 0.5, "OVERALL/cmc/1": np.float32(0.25)}, step=7)
    logger.log_figure(pyplot.figure(figsize=(1, 2), dpi=50), "image_logs/worst", 3)
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    logger.after_save_checkpoint(type("Callback", (), {"best_model_path": str(tmp_path / "best.ckpt")}))
    logger.finalize("success")

    told = {}
    for kind, *rest in recorded:
        told.setdefault(kind, []).append(rest)
    facts = told["open"][0][0]
    assert facts.tags == ("mine", "late", tmp_path.name) and facts.project == logger.name
    assert str(facts.folder) == logger.log_dir and facts.folder.is_dir()
    settings, hyper = (sections for (sections,) in told["config"])
    assert (
        settings["config"]["seed"] == 1
        and "Normalize" in settings["transforms_train"]
        and "git" in settings["versions"]
    )
    assert settings["dataset"]["sha256"] == hashlib.sha256(b"label\n").hexdigest()
    assert hyper["hyperparameters"]["sizes"] == [1, 2]
    assert told["log"] == [[{"loss": 0.5}, 7, "train"], [{"cmc/1": 0.25}, 7, "OVERALL"]]
    assert told["image"] == [["image_logs/worst", (100, 50, 3), np.uint8, 3]]
    assert told.get("checkpoint", []) == ([["best.ckpt", 7]] if name in ("wandb", "neptune") else [])
    assert "close" in told
    record_property("reports that arrived", len(recorded))


def test_a_run_that_goes_on_is_the_same_run(recorded):
    logger = get_logger("tensorboard", save_dir="runs")
    logger.log_metrics({"loss": 1.0}, step=4)
    logger.finalize("success")
    logger.log_metrics({"loss": 0.5}, step=5)
    first, second = (call[1] for call in recorded if call[0] == "open")
    assert first.folder == second.folder and second.resumed and second.start == 5
    another = get_logger("tensorboard", save_dir="runs")
    assert (logger.version, another.version) == ("version_0", "version_1")


def test_what_is_missing_is_said_at_once(monkeypatch, tmp_path):
    from compat.oml._errors import UnknownName

    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnknownName, match="unknown logger 'wandbs'.*wandb"):
        get_logger("wandbs")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="needs the package mlflow"):
        get_logger("mlflow", experiment_name="shelf")
