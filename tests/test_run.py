"""The run's folder: what it records of the machine."""

from engine.run import versions


def test_a_machine_without_git_has_no_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = versions()
    assert found["git"] is None and found["torch"] and found["python"]
