"""The record of a run, a JSON file: its metrics, and their origin.

An origin has a type: ``"trained"``, ``"converted"`` (published weights, evaluated here) or
``"evaluated"`` (any other checkpoint).
"""

import datetime
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import dump
from mmengine.runner import Runner

from mmhybrid.datasets.whole_files import write_whole
from mmhybrid.engine.runner.report import read_log
from mmhybrid.version import __version__
from mmhybrid.weights.downloading import DOWNLOADED
from mmhybrid.weights.writing import sha256_of_file

ROOT = Path(__file__).resolve().parents[3]


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all. Its folder is made."""
    text = dump(content, file_format="json", indent=1, ensure_ascii=False)
    write_whole(Path(path), text.encode())


def write_training_result(runner: Runner, config: str, quick: bool = False) -> Path | None:
    """Writes ``result.json`` into the work folder: the last metrics of a training run.

    It has the SHA-256 of the last checkpoint and of the best ones, so that what is evaluated later
    with one of them names this run as its origin. None where nothing was evaluated.
    """
    _, evaluations = read_log(Path(runner.log_dir) / "vis_data" / "scalars.json")
    if not evaluations or runner.rank != 0:
        return None
    origin = training_origin(runner)
    about = _about(config, quick, runner.train_dataloader)
    info = runner.message_hub.runtime_info.items()
    saved = [Path(str(v)) for k, v in info if k == "last_ckpt" or k.startswith("best_ckpt")]
    checkpoints = {path.name: sha256_of_file(path) for path in saved if path.is_file()}
    file = Path(runner.work_dir) / "result.json"
    write_json(file, dict(about, metrics=evaluations[-1], origin=origin, checkpoints=checkpoints))
    return file


def training_origin(runner: Runner) -> dict[str, Any]:
    """The origin of weights that this process trains."""
    return dict(type="trained", command=command(), seed=runner.seed, **_code_and_device(runner))


def write_test_result(
    path: str,
    metrics: Mapping[str, Any],
    runner: Runner,
    config: str,
    quick: bool = False,
    *,
    tta: bool = False,
    published: bool = False,
) -> None:
    """Writes the ``metrics`` that an evaluation returned, with the checkpoint's SHA-256 and origin.

    Of a quick run, the data are not the config's; with ``tta`` a note says that images were
    augmented; others may have ``published`` the checkpoint.
    """
    if runner.rank != 0:
        return
    about = _about(config, quick, runner.test_dataloader)
    about |= dict(note="test-time augmentation") if tta else {}
    checkpoint = str(runner._load_from)
    sha256 = sha256_of_file(Path(checkpoint)) if Path(checkpoint).is_file() else "not kept"
    origin = _checkpoint_origin(checkpoint, published, sha256, **_code_and_device(runner))
    # A confusion matrix is left out.
    scalars = {k: v for k, v in metrics.items() if np.ndim(v) == 0 and not isinstance(v, str)}
    numbers = {key: float(value) for key, value in scalars.items()}
    write_json(path, dict(about, metrics=numbers, sha256=sha256, origin=origin))


def _checkpoint_origin(
    checkpoint: str, published: bool, sha256: str = "not kept", **made_by: str
) -> dict[str, Any]:
    """That of the training whose ``result.json`` beside a checkpoint has its SHA-256; else
    ``'converted'`` where it has an address or is published."""
    # Nothing may be there, or not the record of a training.
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        training = json.loads(Path(checkpoint).with_name("result.json").read_text("utf-8"))
        if sha256 in training["checkpoints"].values():
            return training["origin"]
    published = published or checkpoint.startswith((*DOWNLOADED, "mim://"))
    origin = dict(type="converted" if published else "evaluated", checkpoint=checkpoint)
    return origin | dict(sha256=sha256, command=command(), **made_by)


def _about(config: str, quick: bool, loader: Any) -> dict[str, Any]:
    name = type(loader.dataset).__name__
    return dict(type="run", config=Path(config).stem, dataset=name, quick=quick)


def _code_and_device(runner: Runner) -> dict[str, str]:
    return dict(commit=commit(), device=device_name(str(next(runner.model.parameters()).device)))


def command() -> str:
    """The command line of this process, as typed in the checkout."""
    script, *arguments = sys.argv
    if Path(script).is_absolute() and Path(script).is_relative_to(ROOT):
        script = str(Path(script).relative_to(ROOT))
    return shlex.join(["python", script, *arguments])


def commit() -> str:
    """The commit of this project's checkout, with ``+`` where files differ; else the release."""

    def git(*words: str) -> str:
        run = ["git", "-C", str(ROOT), *words]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        # In an environment inside somebody else's repository, git would name a commit of theirs.
        git("ls-files", "--error-unmatch", "setup.py", "mmhybrid/version.py")
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            status = git(
                "status", "--porcelain", "--untracked-files=no", "--", "mmhybrid", "configs"
            )
            return git("rev-parse", "--short=12", "HEAD") + ("+" if status else "")
    return f"release {__version__}"


def device_name(device: str = "cpu") -> str:
    """The GPU's name, or the processor's with the number of threads that PyTorch uses."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    named = (
        re.search(r"^model name\s*:(.*)", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    )
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def made(device: str = "cpu") -> dict[str, str]:
    """Command, commit, device, PyTorch's version and date, for a file of results."""
    about = dict(command=command(), commit=commit(), device=device_name(device))
    return about | dict(torch=torch.__version__, date=datetime.date.today().isoformat())
