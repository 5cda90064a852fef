"""The precision that --precision=auto becomes in training, and that a run goes on in the one it began with."""

import pytest
import torch
from runs import read_json, run, train_flags

from core.device import choose_precision

CPU = torch.device("cpu")
AMD = {"cpu_name": "AMD EPYC 9654", "avx512_bf16": True}
INTEL = {"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True}
AMX = {**INTEL, "amx_bf16": True}
CASES = [
    (AMD, "fp32"),
    (INTEL, "fp32"),
    (AMX, "bf16"),
    ({}, "fp32"),
]

pytestmark = pytest.mark.usefixtures("tiny")


def on_processor(monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize("capabilities, expected", CASES)
def test_auto_goes_by_the_processor(monkeypatch, capabilities, expected):
    on_processor(monkeypatch, capabilities)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("fp32", CPU) == "fp32" and choose_precision("bf16", CPU) == "bf16"


def test_a_run_goes_on_in_the_precision_it_began_with(monkeypatch, sop_tree, tmp_path):
    """To the bit, on a processor for which `auto` would be another one."""

    def train(name, steps, capabilities, *words):
        on_processor(monkeypatch, capabilities)
        flags = train_flags(sop_tree, tmp_path / name, loss_name="softmax", precision="auto", total_iter_num=steps)
        printed = run("train_elem", words or flags)
        assert "cpu, bf16;" in printed and read_json(tmp_path / name / "config.json")["flags"]["precision"] == "bf16"
        return torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]

    whole = train("whole", 3, AMX)
    train("parts", 2, AMX)
    on = [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=3", "--allow_changed=total_iter_num"]
    for name, value in train("parts", 3, {}, *on).items():
        assert torch.equal(value, whole[name]), name
