"""Loggers that talk to servers: what they keep offline; a server that is gone neither ends a run nor slows it."""

import base64
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import read_json, run, train_flags

from config.script import run_script
from core.errors import InputError, first_line
from engine.loggers import LOGGERS, Background, RunFacts, WandbLogger, _background, refuse_unready
from engine.loggers._names import flat, plain_name, revision
from engine.loggers._protocol import Logger

ROOT = Path(__file__).resolve().parents[1]
PICTURE = np.full((6, 8, 3), 200, np.uint8)
SECTIONS = {"flags": {"lr": 0.1, "lr_steps": [3, 4], "tags": None}, "versions": {"git": "abc1234", "torch": "2"}}
KEYS = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "CLEARML_OFFLINE_MODE")
KEYS += ("CLEARML_API_ACCESS_KEY", "NEPTUNE_MODE", "NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    """None of whoever runs the tests."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "clearml.conf"))


class Recorder(Logger):
    """Keeps what it is told; `delay` before each call, `broken` ones of which raise."""

    def __init__(self, delay=0.0, broken=()):
        self.calls = []
        self.delay = delay
        self.broken = broken

    def _take(self, *call):
        time.sleep(self.delay)
        if call[0] in self.broken:
            raise ConnectionError(f"no {call[0]} today\nsecond line")
        self.calls.append(call)

    def config(self, sections):
        self._take("config", sections)

    def log(self, figures, step, group):
        self._take("log", figures, step, group)

    def image(self, name, picture, step):
        self._take("image", name, step)

    def checkpoint(self, path, step):
        self._take("checkpoint", path.name, step)

    def close(self):
        self._take("close")


def tell_everything(logger, folder):
    (folder / "best.pt").write_bytes(b"weights")
    logger.config(SECTIONS)
    logger.log({"loss": 0.5, "lr": 0.1}, 1, "train")
    logger.log({"recall@1": 0.25}, 1, "test")
    logger.image("test/worst_queries", PICTURE, 1)
    logger.embedding("test", torch.eye(2), ("label",), [["a"], ["b"]], np.stack([PICTURE, PICTURE]), 1)
    logger.checkpoint(folder / "best.pt", 1)
    logger.close()


def test_all_calls_come_in_order(tmp_path, capsys):
    recorder = Recorder()
    tell_everything(Background("it", lambda: recorder), tmp_path)
    assert [call[0] for call in recorder.calls] == ["config", "log", "log", "image", "checkpoint", "close"]
    assert recorder.calls[1] == ("log", {"loss": 0.5, "lr": 0.1}, 1, "train")
    assert capsys.readouterr().out == ""


def test_what_a_server_refuses_is_said_once(tmp_path, capsys):
    recorder = Recorder(broken=("log", "close"))
    tell_everything(Background("it", lambda: recorder), tmp_path)
    assert [call[0] for call in recorder.calls] == ["config", "image", "checkpoint"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "it: 2 of 6 reports are lost: ConnectionError: no log today; the run itself is whole" in line


def test_a_logger_that_does_not_open(tmp_path, capsys):
    def fail():
        sys.exit("no server")

    tell_everything(Background("it", fail), tmp_path)
    assert "it: 6 of 6 reports are lost: SystemExit: no server" in capsys.readouterr().out


def test_a_server_that_hangs_slows_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_background, "ANSWER_SECONDS", 0.2)
    hanging = threading.Event()
    began = time.monotonic()

    def opened():
        hanging.wait()
        return Recorder()

    logger = Background("it", opened)
    for step in range(500):
        logger.log({"loss": 1.0}, step, "train")
    assert time.monotonic() - began < 1
    logger.close()
    assert time.monotonic() - began < 2
    assert "it: 500 of 500 reports are lost: its server does not answer" in capsys.readouterr().out
    hanging.set()


def test_a_call_that_hung_before_the_end_is_not_waited_for(tmp_path, capsys, monkeypatch):
    """Nor do files, which a server that works is given time for, keep a run that has none; idle time is no call's."""
    monkeypatch.setattr(_background, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(_background, "BYTES_A_SECOND", 1.0)
    (tmp_path / "last.pt").write_bytes(bytes(100))
    hanging = threading.Event()
    logger = Background("it", lambda: hanging.wait() and Recorder())
    time.sleep(0.4)
    logger.checkpoint(tmp_path / "last.pt", 1)
    began = time.monotonic()
    logger.close()
    assert time.monotonic() - began < 50  # of the 100 of its file
    assert "it: 1 of 1 report is lost: its server does not answer" in capsys.readouterr().out
    hanging.set()

    recorder = Recorder(delay=0.1)
    logger = Background("it", lambda: recorder)
    time.sleep(0.4)
    logger.checkpoint(tmp_path / "last.pt", 1)
    logger.close()
    assert [call[0] for call in recorder.calls] == ["checkpoint", "close"] and capsys.readouterr().out == ""


@pytest.mark.parametrize("is_left", [True, False])
def test_a_script_does_not_wait_for_what_its_loggers_wait_for(is_left, monkeypatch, capsys):
    """wandb, for one, has Python wait at its end until the server has been given up."""
    monkeypatch.setattr(_background, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(os, "_exit", lambda status: print("left with", status))
    hanging = threading.Event()
    logger = Background("it", lambda: (is_left and hanging.wait(), Recorder())[1])
    run_script(lambda words: logger.close())
    hanging.set()
    logger.thread.join()
    assert ("left with 0" in capsys.readouterr().out) == is_left


def test_what_hangs_at_its_end_is_said(capsys, monkeypatch):
    monkeypatch.setattr(_background, "ANSWER_SECONDS", 0.2)
    hanging = threading.Event()
    recorder = Recorder()
    recorder.close = hanging.wait
    logger = Background("it", lambda: recorder)
    logger.log({"loss": 1.0}, 1, "train")
    logger.close()
    assert "its package has not come to its end; what it still holds may be lost" in capsys.readouterr().out
    hanging.set()


def test_the_queue_has_an_end(capsys, monkeypatch):
    monkeypatch.setattr(_background, "MOST_CALLS", 10)
    monkeypatch.setattr(_background, "MOST_BYTES", 3 * PICTURE.nbytes)
    begun = threading.Event()
    recorder = Recorder()

    def opened():
        begun.wait()
        return recorder

    logger = Background("it", opened)
    for step in range(5):
        logger.image("a", PICTURE, step)
    for step in range(20):
        logger.log({"loss": 1.0}, step, "train")
    begun.set()
    logger.close()
    assert len(recorder.calls) == 3 + 7 + 1
    assert "it: 15 of 25 reports are lost: more came than its server takes" in capsys.readouterr().out


def test_a_slow_server_gets_all_the_same(capsys):
    recorder = Recorder(delay=0.01)
    logger = Background("it", lambda: recorder)
    for step in range(30):
        logger.log({"loss": 1.0}, step, "train")
    logger.close()
    assert len(recorder.calls) == 31 and capsys.readouterr().out == ""


def test_the_reason_of_a_package_is_its_first_line_with_words():
    assert (
        first_line(RuntimeError("\n\x1b[95m\n----NoSuchToken----\n\x1b[0m\nThe token is invalid.\n"))
        == "The token is invalid."
    )
    assert first_line(KeyError()) == "KeyError" and first_line(ValueError(" one\ntwo")) == "one"


def test_names_for_servers():
    assert flat(SECTIONS)["flags/lr_steps"] == "3,4" and flat(SECTIONS)["versions/git"] == "abc1234"
    assert revision(SECTIONS) == "abc1234" and revision({}) is None
    assert plain_name("test/b.csv/fnmr@fmr=0.1") == "test/b.csv/fnmr_at_fmr_0.1"


REMOTE = [name for name in LOGGERS if LOGGERS.fact(name, "remote", False)]


@pytest.mark.parametrize("name", REMOTE)
def test_a_logger_without_its_package(name, monkeypatch, sop_tree, tmp_path, tiny):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"--loggers={name} needs the package {name}: .*requirements/loggers.txt"):
        run("train_elem", train_flags(sop_tree, tmp_path / "run", loss_name="softmax", loggers=name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, sentence", [("wandb", "WANDB_API_KEY"), ("clearml", "clearml-init"), ("neptune", "NEPTUNE")]
)
def test_a_logger_without_its_key(name, sentence, monkeypatch):
    monkeypatch.setitem(sys.modules, name, type(sys)(name))
    with pytest.raises(InputError, match=f"--loggers={name} has no key: .*{sentence}"):
        refuse_unready(["jsonl", name])


def test_keys_and_modes_are_enough(monkeypatch):
    for name in REMOTE:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    for name, value in (("WANDB_MODE", "offline"), ("CLEARML_OFFLINE_MODE", "1"), ("NEPTUNE_MODE", "offline")):
        monkeypatch.setenv(name, value)
    refuse_unready(REMOTE)
    for name in ("WANDB_MODE", "CLEARML_OFFLINE_MODE", "NEPTUNE_MODE"):
        monkeypatch.delenv(name)
    for name in ("WANDB_API_KEY", "CLEARML_API_ACCESS_KEY", "NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT"):
        monkeypatch.setenv(name, "k" * 40)
    refuse_unready(REMOTE)


def offline(name, tmp_path, monkeypatch):
    """The logger, opened offline, for a run in tmp_path/run."""
    pytest.importorskip(name)
    for key, value in (("WANDB_MODE", "offline"), ("CLEARML_OFFLINE_MODE", "1"), ("NEPTUNE_MODE", "offline")):
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return LOGGERS[name].open(RunFacts(tmp_path / "run", project="shelf", tags=("mine", "toys")))


def test_mlflow_keeps_everything(tmp_path, monkeypatch):
    logger = offline("mlflow", tmp_path, monkeypatch)
    tell_everything(logger, tmp_path / "run")
    client = logger.client
    kept = client.get_run(logger.run_id)
    assert kept.data.metrics == {"train/loss": 0.5, "train/lr": 0.1, "test/recall_at_1": 0.25}
    assert kept.data.params["flags/lr_steps"] == "3,4" and kept.info.status == "FINISHED"
    assert kept.data.tags["mlflow.source.git.commit"] == "abc1234" and kept.data.tags["toys"] == "tag"
    assert client.get_experiment(kept.info.experiment_id).name == "shelf"
    files = {path.name for path in (tmp_path / "run" / "mlruns").rglob("*") if path.is_file()}
    assert {"worst_queries_000001.png", "best.pt", "config.json"} <= files
    again = LOGGERS["mlflow"].open(RunFacts(tmp_path / "run", resumed=True, project="shelf"))
    assert again.run_id == logger.run_id


def test_wandb_keeps_everything(tmp_path, monkeypatch):
    logger = offline("wandb", tmp_path, monkeypatch)
    tell_everything(logger, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    content = record.read_bytes()
    for text in (b"train/loss", b"test/recall@1", b"abc1234", b"toys", b"shelf", b"lr_steps", b"best.pt"):
        assert text in content, text
    assert list(folder.rglob("*.png"))
    assert (tmp_path / "run" / "wandb.id").read_text().strip() in record.name


def test_wandb_is_torn_down_at_once_where_its_service_is_gone():
    """Python's end would do so otherwise, and print a traceback; whose other runs are alive keeps them."""
    torn = []

    def finish():
        raise ConnectionResetError("Connection lost")

    package = SimpleNamespace(teardown=lambda: torn.append("down"))
    WandbLogger(package, SimpleNamespace(finish=lambda: None)).close()
    assert not torn
    with pytest.raises(ConnectionResetError):
        WandbLogger(package, SimpleNamespace(finish=finish)).close()
    assert torn == ["down"]


def test_clearml_keeps_everything(tmp_path, monkeypatch):
    import zipfile

    logger = offline("clearml", tmp_path, monkeypatch)
    folder = Path(logger.task.get_offline_mode_folder())
    tell_everything(logger, tmp_path / "run")
    texts = b""
    for path in folder.rglob("*"):
        texts += path.read_bytes() if path.is_file() else b""
    for file in folder.parent.glob(f"{folder.name}*.zip"):
        archive = zipfile.ZipFile(file)
        texts += b"".join(archive.read(name) for name in archive.namelist())
    for text in (b"loss", b"recall@1", b"abc1234", b"toys", b"shelf", b"lr_steps", b"best.pt", b"worst_queries"):
        assert text in texts, text


def test_clearml_starts_neither_a_thread_nor_a_process(tmp_path, monkeypatch):
    """A fork of the one may hold the pipe that a program of the other waits for, and closing then takes minutes."""
    told = []
    task = SimpleNamespace(id="7", get_logger=lambda: None)
    package = SimpleNamespace(
        config=SimpleNamespace(config_obj=SimpleNamespace(set_overrides=told.append)),
        Task=SimpleNamespace(set_offline=told.append, init=lambda **options: told.append(options) or task),
    )
    monkeypatch.setitem(sys.modules, "clearml", package)
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    LOGGERS["clearml"].open(RunFacts(tmp_path, project="shelf", tags=("mine",)))
    offline, settings, options = told
    assert offline is True
    calm = {"vcs_repo_detect_async": False, "report_use_subprocess": False}
    assert settings == {"sdk": {"development": calm}}
    assert options["project_name"] == "shelf" and options["tags"] == ["mine"]


def test_neptune_keeps_everything(tmp_path, monkeypatch):
    logger = offline("neptune", tmp_path, monkeypatch)
    tell_everything(logger, tmp_path / "run")
    files = [path for path in (tmp_path / ".neptune").rglob("*") if path.is_file()]
    texts = b"".join(path.read_bytes() for path in files)
    for text in (b"loss", b"recall@1", b"abc1234", b"toys", b"lr_steps", b"worst_queries", b"checkpoints"):
        assert text in texts, text


class Server:
    """A server on a port of its own: one that takes a request and never answers, or one that refuses each."""

    def __init__(self, hangs):
        self.hangs = hangs
        self.end = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                if server.hangs:
                    server.end.wait(60)
                self.send_response(403)
                self.end_headers()

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(params=["hangs", "refuses", "is gone"])
def address(request):
    """Of a server that hangs, that refuses, and of none."""
    if request.param == "is gone":
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            number = port.getsockname()[1]
        yield f"http://127.0.0.1:{number}"
        return
    server = Server(request.param == "hangs")
    yield server.address
    server.close()


def neptune_token(address):
    """As Neptune makes them: the server's address stands in it."""
    return base64.b64encode(json.dumps({"api_address": address, "api_url": address, "api_key": "k"}).encode()).decode()


ADDRESSES = {
    "mlflow": lambda address: {"MLFLOW_TRACKING_URI": address},
    "wandb": lambda address: {"WANDB_BASE_URL": address, "WANDB_API_KEY": "k" * 40},
    "clearml": lambda address: {
        "CLEARML_API_HOST": address,
        "CLEARML_WEB_HOST": address,
        "CLEARML_FILES_HOST": address,
        "CLEARML_API_ACCESS_KEY": "k",
        "CLEARML_API_SECRET_KEY": "k",
    },
    "neptune": lambda address: {"NEPTUNE_API_TOKEN": neptune_token(address), "NEPTUNE_PROJECT": "a/b"},
}
# A program that ends as a training script does, with short patience.
PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from config.script import run_script
from engine.loggers import _background, open_loggers
_background.ANSWER_SECONDS = 2
_background.CLOSING_SECONDS = 4
def main(_):
    began = time.monotonic()
    (logger, _) = open_loggers(Path(sys.argv[1]), names=[sys.argv[2]], project="p", tags=("a",))
    logger.config({"flags": {"lr": 1}})
    for step in range(50):
        logger.log({"loss": 1.0}, step, "train")
    logger.image("test/worst", np.zeros((4, 4, 3), np.uint8), 1)
    print("told in", time.monotonic() - began, flush=True)
    logger.close()
    print("closed", flush=True)
run_script(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDRESSES)
def test_a_server_that_is_gone(name, address, tmp_path):
    pytest.importorskip(name)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **ADDRESSES[name](address), "PYTHONPATH": os.pathsep.join(paths)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    told = float(done.stdout.partition("told in ")[2].split()[0])
    assert told < 1 and "closed" in done.stdout and seconds < 60
    assert f"{name}: " in done.stdout and "lost" in done.stdout


def test_a_run_with_a_logger_that_hangs_is_whole(tiny, sop_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(_background, "ANSWER_SECONDS", 0.2)
    hanging = threading.Event()

    class Hanging(Recorder):
        @classmethod
        def open(cls, facts):
            hanging.wait()

    monkeypatch.setitem(LOGGERS._entries, "mlflow", type(LOGGERS._entries["mlflow"])(Hanging, {"remote": True}))
    flags = {"loss_name": "softmax", "loggers": "jsonl,mlflow", "tags": "a,b"}
    printed = run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    assert "reports are lost: its server does not answer" in printed
    assert read_json(tmp_path / "run" / "result.json")["step"] == 3
    assert not list((tmp_path / "run").glob("events*")) and (tmp_path / "run" / "metrics.jsonl").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["flags"]["tags"] == ["a", "b"]
    hanging.set()


def test_weights_go_to_the_loggers_at_the_end(tiny, sop_tree, tmp_path, monkeypatch):
    recorder = Recorder()

    class Kept(Recorder):
        @classmethod
        def open(cls, facts):
            assert facts.project == "shelf" and facts.tags == ("a",)
            return recorder

    monkeypatch.setitem(LOGGERS._entries, "mlflow", type(LOGGERS._entries["mlflow"])(Kept, {"remote": True}))
    flags = {"loss_name": "softmax", "loggers": "mlflow", "project": "shelf", "tags": "a", "report": True}
    run("train_elem", train_flags(sop_tree, tmp_path / "run", **flags))
    kept = [call for call in recorder.calls if call[0] == "checkpoint"]
    best = read_json(tmp_path / "run" / "result.json")["best"]["step"]
    assert kept == [
        ("checkpoint", "last.pt", 3),
        ("checkpoint", "best.pt", best),
        ("checkpoint", "model.safetensors", 3),
    ]
    assert ("image", "test/worst_queries", 3) in recorder.calls and recorder.calls[-1] == ("close",)
