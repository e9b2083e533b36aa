"""What is collected for a report of a bug."""

from typing import Any

import pytest
import torch

import mmhybrid
from mmhybrid.apis import environment


@pytest.fixture
def basics(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine's part, which asks compilers for their versions."""
    monkeypatch.setattr(environment, "collect_basics", lambda: {"PyTorch": torch.__version__})


@pytest.mark.usefixtures("basics")
def test_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mmhybrid.collect_env()
    assert found["PyTorch"] == torch.__version__
    assert found["mmhybrid"].startswith(f"{mmhybrid.__version__}, ")
    assert found["Kernels of mmcv"] in ("torchvision's, through mmhybrid", "compiled")
    assert found["numpy"]
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert "no-such-package" not in mmhybrid.collect_env()


def test_the_tool_prints_them(run_tool: Any, capsys: Any) -> None:
    run_tool("collect_env.py")
    printed = capsys.readouterr().out
    for name in ("sys.platform", "PyTorch", "mmhybrid", "Kernels of mmcv"):
        assert f"\n{name}: " in f"\n{printed}"
