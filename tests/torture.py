"""Kill quick trainings with SIGKILL at random moments, resume them, and compare how they end.

`make torture RUNS=20`. Every second kill is aimed at a save: it comes while a checkpoint is being
written. Each process is forked from this one, so that libraries are imported once; apart from that
it is `tools/train.py CONFIG --quick --resume`.
"""

import argparse
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

CONFIG = f"""
_base_ = {str(ROOT / "configs" / "dw_vit_t_cifar10.py")!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=48, depth=4), patch_size=16),
    head=dict(in_channels=48),
)
custom_hooks = [dict(type="EMAHook", momentum=0.01)]
quick = dict(iterations=12, batch_size=8, train_images=48, val_images=8, size=32)
"""
OPTIONS = ["default_hooks.checkpoint.interval=2", "default_hooks.checkpoint.by_epoch=False"]
SAVES = 6


def train(folder: Path) -> None:
    """Be `tools/train.py`, in a process of its own."""
    os.chdir(folder)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["train.py", str(folder / "config.py"), "--quick", "--resume", "--work-dir"]
    sys.argv += [str(folder / "run"), "--cfg-options", *OPTIONS]
    code: int | str | None = 1
    try:
        runpy.run_path(str(ROOT / "tools" / "train.py"), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        if isinstance(code, str):
            print(code)
        sys.stdout.flush()
        os._exit(1 if isinstance(code, str) else code or 0)


def start(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.py").write_text(CONFIG)
    child = os.fork()
    if not child:
        train(folder)
    return child


def wait_for(child: int, folder: Path, options: int = 0) -> bool:
    """Wait until a process ends well; return whether it has, which os.WNOHANG leaves open."""
    ended, status = os.waitpid(child, options)
    if status != 0:
        sys.exit(f"a run failed by itself:\n{(folder / 'log').read_text()[-3000:]}")
    return ended != 0


def kill_at_random(child: int, folder: Path, seconds: float, in_save: bool) -> str | None:
    """Kill a process within the seconds of a run or, `in_save`, while it writes a checkpoint.

    Returns where that was, or None if it ended before.
    """
    end = time.monotonic() + random.uniform(0, seconds)
    saves_left = random.randrange(1, SAVES + 1)
    writing = False
    while in_save or time.monotonic() < end:
        if wait_for(child, folder, os.WNOHANG):
            return None
        before, writing = writing, any((folder / "run").glob("*.pth.part"))
        saves_left -= writing and not before
        if in_save and writing and saves_left <= 0:
            time.sleep(random.uniform(0, 0.01))
            break
        time.sleep(0.003)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    saved = folder / "run" / "last_checkpoint"
    after = Path(saved.read_text()).stem if saved.exists() else "the start"
    left = [path.name for path in (folder / "run").glob("*.part")]
    return f"after {after}" + (f" with a half-written {left[0]}" if left else "")


def result(folder: Path) -> dict[str, Any]:
    """All of the last checkpoint that must not depend on interruptions."""
    from mmhybrid.weights import read_checkpoint

    checkpoint = read_checkpoint((folder / "run" / "last_checkpoint").read_text())
    names = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
    scalars = checkpoint["message_hub"]["log_scalars"]
    kept = {name: checkpoint[name] for name in names}
    kept["losses"] = scalars["train/loss"].data
    kept["accuracy"] = scalars["val/accuracy/top1"].data
    kept["progress"] = {name: checkpoint["meta"][name] for name in ("epoch", "iter")}
    return kept


def differences(a: Any, b: Any) -> list[str]:
    """Where two results are not the same to the last bit."""
    import numpy as np
    from torch.utils._pytree import keystr, tree_flatten_with_path

    (leaves, form), (others, other_form) = map(tree_flatten_with_path, (a, b))
    if form != other_form:
        return ["other names or lengths"]
    pairs = zip(leaves, others, strict=True)
    same = lambda x, y: type(x) is type(y) and np.array_equal(x, y)  # noqa: E731
    return [keystr(path) for (path, x), (_, y) in pairs if not same(x, y)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=2, help="most of a run (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, default=ROOT / "work_dirs" / "torture")
    args = parser.parse_args()
    from command_line import prepare

    prepare()
    import torch

    torch.set_num_threads(1)
    # Imported here, and not in each process, is what a training imports.
    import torch._dynamo
    from mmengine.runner import Runner
    from mmpretrain.utils import register_all_modules

    import mmhybrid.engine.hooks.signal_hook
    import mmhybrid.engine.runner.check_config
    import mmhybrid.engine.runner.quick
    import mmhybrid.engine.runner.report
    import mmhybrid.engine.runner.run_config
    import mmhybrid.visualization.report_page

    register_all_modules(init_default_scope=False)
    # What a runner prints of compilers and libraries takes longer than these trainings.
    Runner._log_env = lambda *args: None
    mmhybrid.engine.runner.report.write_report = lambda runner, log: {}
    mmhybrid.visualization.report_page.write_page = lambda *args: None
    random.seed(args.seed)
    folder = args.folder / f"{time.strftime('%Y%m%d_%H%M%S')}_{args.seed}"
    began = time.monotonic()
    wait_for(start(folder / "unkilled"), folder / "unkilled")
    seconds = time.monotonic() - began
    expected = result(folder / "unkilled")
    print(f"unkilled: {seconds:.1f} s", flush=True)
    same = kills = in_saves = 0
    for number in range(1, args.runs + 1):
        here = folder / f"run_{number:02d}"
        moments: list[str] = []
        while True:
            child = start(here)
            aimed = (number + len(moments)) % 2 == 0
            if len(moments) == args.kills:
                wait_for(child, here)
                break
            where = kill_at_random(child, here, seconds, aimed)
            if where is None:
                break
            moments.append(where)
        kills += len(moments)
        in_saves += sum("half" in one for one in moments)
        different = differences(expected, result(here))
        same += not different
        how = f"DIFFERS in {different[:5]}" if different else "identical"
        print(
            f"run {number}: killed {len(moments)} times ({'; '.join(moments)}): {how}", flush=True
        )
    print(
        f"{same} of {args.runs} runs end bit-identical to the unkilled one; {kills} kills, "
        f"{in_saves} of them within a save; {(time.monotonic() - began) / 60:.1f} minutes"
    )
    sys.exit(same != args.runs)


if __name__ == "__main__":
    main()
