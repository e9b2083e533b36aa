"""Train for hours, restarted every few minutes, and watch memory and open files.

`make soak HOURS=2`. Each period is a process of its own: `tools/train.py CONFIG --quick --resume`,
ended by SIGTERM, so that it saves and the next one goes on. A period's memory is compared between
its second and its last quarter, when it has warmed up; that of the last period with the second.
Needs Linux, whose /proc it reads.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_GROWTH = 0.02
CONFIG = f"""
_base_ = {str(ROOT / "configs" / "dw_vit_t_cifar10.py")!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=96, depth=6), patch_size=16),
    head=dict(in_channels=96),
)
custom_hooks = [dict(type="EMAHook", momentum=0.001)]
quick = dict(iterations=10_000_000, batch_size=16, train_images=480, val_images=32, size=64)
"""
OPTIONS = ["default_hooks.checkpoint.interval=4", "train_cfg.val_interval=4"]


def memory_and_files(pid: int) -> tuple[float, int]:
    """Resident memory in MiB, and the number of open files of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))


def run_period(folder: Path, seconds: float) -> list[tuple[float, int]]:
    """Train for some time after the first iterations; return samples of memory and files."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(folder / "config.py")]
    command += ["--quick", "--resume", "--work-dir", str(folder / "run"), "--cfg-options", *OPTIONS]
    log = folder / "log"
    before = log.stat().st_size if log.exists() else 0
    with open(log, "a") as file:
        run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder)
    while "Epoch(train)" not in log.read_text()[before:]:
        if run.poll() is not None:
            sys.exit(f"training failed:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.5)
        samples.append(memory_and_files(run.pid))
    run.send_signal(signal.SIGTERM)
    code = run.wait()
    if code != 128 + signal.SIGTERM:
        sys.exit(f"training left with {code}:\n{log.read_text()[-3000:]}")
    return samples


def quarter(samples: list[tuple[float, int]], number: int) -> tuple[float, ...]:
    """The medians of memory and files in a quarter (0 to 3) of the samples."""
    size = len(samples) // 4
    part = samples[number * size : (number + 1) * size]
    return tuple(statistics.median(values) for values in zip(*part, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=5, help="of a period (default: 5)")
    parser.add_argument("--folder", type=Path, default=ROOT / "work_dirs" / "soak")
    args = parser.parse_args()
    folder = args.folder / time.strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(CONFIG)
    began = time.monotonic()
    failed = False
    last: list[float] = []
    while time.monotonic() - began < args.hours * 3600:
        samples = run_period(folder, args.minutes * 60)
        (before, files_before), (after, files_after) = (quarter(samples, n) for n in (1, 3))
        growth = after / before - 1
        bad = growth >= MOST_GROWTH or files_after != files_before
        failed |= bad
        last.append(after)
        saved = Path((folder / "run" / "last_checkpoint").read_text()).name
        print(
            f"{(time.monotonic() - began) / 60:6.1f} min: memory {before:.1f} -> {after:.1f} MiB "
            f"({growth:+.2%}), open files {files_before:.0f} -> {files_after:.0f}, saved {saved}"
            f"{' TOO MUCH' if bad else ''}",
            flush=True,
        )
    if len(last) > 2:
        growth = last[-1] / last[1] - 1
        failed |= growth >= MOST_GROWTH
        print(f"last period against the second: {growth:+.2%}")
    print(
        f"{(time.monotonic() - began) / 3600:.2f} hours, {len(last)} periods: "
        f"{'memory or open files GREW' if failed else 'memory and open files stay'}"
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
