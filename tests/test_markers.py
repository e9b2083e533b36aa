"""A test that is slow has a marker that says why, or fails."""

import subprocess
import sys

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

SLOW = {
    "process": lambda: subprocess.run([sys.executable, "-c", ""]),
    "train": lambda: Runner.train(None),
    "compile": lambda: torch.compile(nn.ReLU()),
    "onnx": lambda: torch.onnx.export(nn.ReLU(), (torch.ones(1),)),
}


@pytest.mark.parametrize("marker", SLOW)
def test_a_forgotten_marker_fails(marker: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=f"needs the marker '{marker}'"):
        SLOW[marker]()


def test_what_answers_at_once_needs_none() -> None:
    assert "git" in subprocess.run(["git", "--version"], capture_output=True, text=True).stdout
