"""The run's folder: what it records of the machine."""

import pytest

from core.errors import InputError
from core.versions import versions
from engine.run import Run


def test_a_machine_without_git_has_no_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = versions()
    assert found["git"] is None and found["torch"] and found["python"]


@pytest.mark.parametrize("kept", ["last.pt", "step_3.pt", "model.safetensors", "result.json"])
def test_a_folder_is_free_again_where_its_run_came_to_nothing(tmp_path, kept):
    for loss in (1.0, 2.0):
        run = Run(tmp_path)
        run.begin({"flags": {}})
        run.log("a step", 1, {"loss": loss}, "train")
    assert (tmp_path / "metrics.jsonl").read_text().count("loss") == 1
    (tmp_path / kept).write_text("something")
    with pytest.raises(InputError, match="already holds a run"):
        Run(tmp_path).begin({"flags": {}})
    assert (tmp_path / kept).read_text() == "something"
