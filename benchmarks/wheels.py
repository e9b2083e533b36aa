"""Fetching the wheels that a machine with PyTorch, torchvision and OpenCV alone lacks."""

import subprocess
import sys
from pathlib import Path

from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
# One by one: what else these ask for is there with PyTorch, or is a second OpenCV.
NAMES = (
    *("mmengine", "mmcv-lite", "mmdet", "mmsegmentation", "mmpretrain"),
    *("addict", "yapf", "platformdirs", "termcolor", "terminaltables", "prettytable", "wcwidth"),
    *("shapely", "pycocotools", "ftfy", "regex", "modelindex", "model-index", "ordered-set"),
    *(
        "six",
        "mat4py",
        "importlib-metadata",
        "zipp",
        "msgspec",
        "timm",
        "hypothesis",
        "sortedcontainers",
    ),
)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
LARGEST = 60 * 2**20


def fetch(folder: Path) -> str:
    """Fetches them for Python 3.12 on 64-bit x86 Linux, and says how to use them there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    command += [f"--platform={name}_x86_64" for name in PLATFORMS]
    command += ["-c", str(ROOT / "requirements" / "constraints.txt"), "-d", str(folder), *NAMES]
    if subprocess.run(command).returncode:
        raise UserError("pip could not fetch the wheels; its own words are above")
    size = sum(one.stat().st_size for one in folder.glob("*.whl"))
    if size > LARGEST:
        raise UserError(f"the wheels are {size / 2**20:.0f} MiB, more than {LARGEST / 2**20:.0f}")
    return (
        f"{size / 2**20:.0f} MiB in {folder}. On the machine, in a copy of this folder:\n"
        f"  python -m pip install --no-index --no-deps --target SITE {folder}/*.whl\n"
        "  PYTHONPATH=SITE make gpu"
    )
