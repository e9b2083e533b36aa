"""Where a figure comes from: the command, the code and the device that made it."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from mmhybrid.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def command() -> str:
    """The command line of this process, as it could be typed in the checkout."""
    script, *arguments = sys.argv
    if Path(script).is_absolute() and Path(script).is_relative_to(ROOT):
        script = str(Path(script).relative_to(ROOT))
    return shlex.join(["python", script, *arguments])


def commit() -> str:
    """The commit of the checkout, with ``+`` where files differ from it; outside, the release."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", "mmhybrid", "configs"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"release {__version__}"
    return head + ("+" if changes.strip() else "")


def device_name(device: str = "cpu") -> str:
    """The GPU's name, or the processor's with the number of threads that PyTorch uses."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def made(device: str = "cpu") -> dict[str, str]:
    """All of it, for a file of results."""
    return dict(
        command=command(),
        commit=commit(),
        device=device_name(device),
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
    )
