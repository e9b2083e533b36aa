"""What every test may use."""

import os
from pathlib import Path

# Threads that wait without spinning let other processes work; set before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference values and sample pictures; not part of the project."""
    folder = Path(os.environ.get("MMHYBRID_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (set MMHYBRID_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_default_scope() -> None:
    """Forget the package whose classes an earlier test used; a config of its own names it."""
    DefaultScope._instance_dict.clear()
