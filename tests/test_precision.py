"""The precision that --precision=auto becomes in training, and that a run goes on in the one it began with."""

import pytest
import torch
from runs import read_json, run, train_flags
from torch import nn

from core.device import choose_precision

CPU = torch.device("cpu")
AMD = {"cpu_name": "AMD EPYC 9654", "avx512_bf16": True}
INTEL = {"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True}
DENSE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Linear(8, 8))
DEPTHWISE = nn.Sequential(DENSE, nn.Conv2d(8, 8, 3, groups=8))
RECURRENT = nn.Sequential(nn.LSTM(8, 8))
CASES = [
    (AMD, DENSE, "bf16"),
    (AMD, DEPTHWISE, "fp32"),
    (AMD, RECURRENT, "fp32"),
    (AMD, None, "fp32"),  # of which nobody says what it is
    ({**AMD, "avx512_bf16": False}, DENSE, "fp32"),
    (INTEL, DENSE, "fp32"),
    ({**INTEL, "amx_bf16": True}, DENSE, "bf16"),
    ({**INTEL, "amx_bf16": True}, DEPTHWISE, "bf16"),
    ({}, DENSE, "fp32"),
]


def on_processor(monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("capabilities, network, expected", CASES)
def test_auto_goes_by_processor_and_network(monkeypatch, capabilities, network, expected):
    on_processor(monkeypatch, capabilities)
    assert choose_precision("auto", CPU, network) == expected
    assert choose_precision("fp32", CPU, network) == "fp32" and choose_precision("bf16", CPU, network) == "bf16"


def test_a_run_goes_on_in_the_precision_it_began_with(monkeypatch, sop_tree, tmp_path):
    """To the bit, on a processor for which `auto` would be another one."""

    def train(name, steps, capabilities, *words):
        on_processor(monkeypatch, capabilities)
        flags = train_flags(sop_tree, tmp_path / name, loss_name="softmax", precision="auto", total_iter_num=steps)
        printed = run("train_elem", words or flags)
        assert "cpu, bf16;" in printed and read_json(tmp_path / name / "config.json")["flags"]["precision"] == "bf16"
        return torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]

    whole = train("whole", 3, AMD)
    train("parts", 2, AMD)
    on = [f"--checkpoint={tmp_path / 'parts'}", "--total_iter_num=3", "--allow_changed=total_iter_num"]
    for name, value in train("parts", 3, {}, *on).items():
        assert torch.equal(value, whole[name]), name
