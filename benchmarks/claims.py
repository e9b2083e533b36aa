"""The claim of the depth-wise shortcut on CIFAR-10, trained for as long as it is given.

ViT-T and Swin-T, with and without shortcuts, by the published configs. Each run in turn gets a
share of the time, is stopped by SIGTERM, which saves it, and goes on in the next start.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"ViT-T": "dw_vit_t_cifar10", "Swin-T": "dw_swin_t_cifar10"}
PLAIN = "model.backbone.dw_kernel_sizes=()"  # the host without shortcuts
LONGEST_STOP = 300.0  # seconds that a run may take to save itself


def train_claims(
    folder: Path,
    seconds: float,
    seeds: int = 3,
    configs: Iterable[str] = (),
    share: float = 1800.0,
    options: Iterable[str] = (),
    amp_dtype: str | None = None,
) -> str:
    """Trains, round by round until all runs have ended or the time has; compares what there is.

    Args:
        folder (Path): For the work folders; runs that are there go on.
        seconds (float): Of all.
        seeds (int): Runs of each model. Defaults to 3.
        configs (Iterable[str]): Names of configs of classifiers with shortcuts. Default to both.
        share (float): Seconds that a run trains before the next one's turn.
        options (Iterable[str]): ``KEY=VALUE`` of ``--cfg-options`` for all runs.
        amp_dtype (str, optional): Of mixed precision. Defaults to what ``tools/train.py --amp``
            takes on a GPU, and to float32 on a CPU.

    Raises:
        UserError: A training failed.
    """
    end = time.monotonic() + seconds
    chosen = {name: name for name in configs} or CONFIGS
    runs = {
        folder / f"{config}_{kind}_{seed}": (config, seed, kind)
        for seed in range(seeds)
        for config in chosen.values()
        for kind in ("plain", "shortcuts")
    }
    while time.monotonic() < end and (left := [run for run in runs if not _has_ended(run)]):
        for run in left:
            config, seed, kind = runs[run]
            words = [f"randomness.seed={seed}", *([PLAIN] if kind == "plain" else []), *options]
            time_left = end - time.monotonic()
            if time_left > 0:
                _train(config, run, words, min(share, time_left), amp_dtype)
    found = [
        f"{name}, {kind}={folder / f'{config}_{kind}_*'}"
        for name, config in chosen.items()
        for kind in ("plain", "shortcuts")
        if any(folder.glob(f"{config}_{kind}_*/*/vis_data/scalars.json"))
    ]
    command = [sys.executable, "tools/compare_runs.py", *found, "--out", str(folder / "claims")]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"the runs in {folder} have nothing to compare yet: train longer")
    return (folder / "claims.md").read_text()


def _has_ended(run: Path) -> bool:
    return (run / "result.json").is_file()


def _train(
    config: str, run: Path, options: list[str], seconds: float, amp_dtype: str | None
) -> None:
    import torch

    command = [sys.executable, "tools/train.py", f"configs/{config}.py", "--work-dir", str(run)]
    command += ["--resume", *(["--amp"] if amp_dtype or torch.cuda.is_available() else [])]
    command += ["--amp-dtype", amp_dtype] if amp_dtype else []
    print(f"{run.name}: {seconds:.0f} s", flush=True)
    process = subprocess.Popen([*command, "--cfg-options", *options], cwd=ROOT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait(LONGEST_STOP)
    if code not in (0, 128 + signal.SIGTERM):
        raise UserError(f"training {run.name} failed; what it printed is above")
