"""Resuming from a file that may be anybody's.

MMEngine's ``Runner.resume`` executes ``meta["config"]``, a text in the checkpoint, to compare the
number of GPUs, and its ``CheckpointHook`` removes whatever path the checkpoint calls its best one:
the best file of the run that is gone on from, or any file or folder. Here the runner is handed the
same checkpoint without these. What it says of files counts where they lie in the run's own folder,
which is the one that the checkpoint lies in too.
"""

import functools
import os.path as osp
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights.errors import CheckpointError

GPU_IDS = re.compile(r"^gpu_ids = (\[[\d, ]{0,9999}\]|range\(0, \d{1,9}\))$", re.MULTILINE)
MOST_LOOKED_UP = 10**7  # MMEngine looks all names of the message hub up anew for each of them


def without_code_and_paths(checkpoint: Any, filename: str, folders: list[str]) -> dict[str, Any]:
    """A checkpoint to resume from, without the text of its config and without paths of others.

    Args:
        checkpoint: as it was read; it stays as it is.
        filename: where from.
        folders: in which the run writes checkpoints.

    Raises:
        CheckpointError: It has no record of a training.
    """
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    meta, hub = entries.get("meta"), entries.get("message_hub")
    steps = [meta.get(key) for key in ("epoch", "iter")] if isinstance(meta, dict) else []
    parts = (
        [hub.get(key) for key in ("log_scalars", "runtime_info", "resumed_keys")]
        if isinstance(hub, dict)
        else []
    )
    if not parts or [type(one) for one in steps] != [int, int]:
        raise CheckpointError(
            f"{filename} cannot be resumed from: it holds no epoch, iteration and message hub of a "
            "training, maybe weights alone. Start from its weights with load_from (--weights)."
        )
    if not all(isinstance(one, dict) for one in parts):
        raise CheckpointError(f"{filename} cannot be resumed from: its message hub is damaged")
    scalars, info, keys = parts
    if len(keys) * (len(scalars) + len(info)) > MOST_LOOKED_UP:
        raise CheckpointError(f"{filename} cannot be resumed from: its message hub has too much")
    meta = {key: value for key, value in meta.items() if key != "config"}
    text = entries["meta"].get("config")
    if isinstance(text, str) and (gpu_ids := GPU_IDS.search(text)):
        meta["config"] = gpu_ids[0]
    hub = dict(hub, runtime_info=own_files_only(info, filename, folders))
    present = {*scalars, *hub["runtime_info"]}
    hub["resumed_keys"] = {key: keys[key] for key in keys if key in present}
    return dict(entries, meta=meta, message_hub=hub)


def own_files_only(info: dict[str, Any], filename: str, folders: list[str]) -> dict[str, Any]:
    """What a message hub knows, without checkpoints that the run has not written itself."""
    folder = osp.dirname(filename)
    is_own = any(_same(folder, one) for one in folders)
    kept = {}
    for key, value in info.items():
        if key == "keep_ckpt_ids":
            steps = value if is_own and isinstance(value, list) else []
            value = [step for step in steps if type(step) is int and step >= 0]
        elif key == "last_ckpt" or key.startswith("best_ckpt"):
            # By its name, as the folder may have been moved or copied.
            name = osp.basename(value) if isinstance(value, str) else ""
            path = osp.join(folder, name)
            if not is_own or not name.endswith(".pth") or not osp.exists(path):
                continue
            if key != "last_ckpt" and not name.startswith("best_"):
                continue
            value = path
        kept[key] = value
    for key in [key for key in kept if key.startswith("best_score")]:
        best = key.replace("score", "ckpt", 1)
        if best not in kept or not isinstance(kept[key], int | float | np.number):
            del kept[key]
            kept.pop(best, None)
    return kept


def _same(one: str, other: str) -> bool:
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    return osp.realpath(one or ".") == osp.realpath(other or ".")


def _folders(runner: Any) -> list[str]:
    """Those in which a runner's CheckpointHooks write."""
    work_dir = str(runner.work_dir)
    given = (getattr(hook, "out_dir", None) for hook in runner.hooks)
    name = osp.basename(work_dir.rstrip("/"))
    return [work_dir, *(osp.join(one, name) for one in given if isinstance(one, str))]


def _replace(cls: type, reader_of: Callable[[Any], tuple[Any, str]]) -> None:
    """Has ``cls.resume`` get what its reader reads without code and paths."""
    original = cls.resume

    @functools.wraps(original)
    def resume(self: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        owner, name = reader_of(self)
        read = getattr(owner, name)

        def read_safely(*args: Any, **kwargs: Any) -> Any:
            return without_code_and_paths(read(*args, **kwargs), filename, _folders(self))

        setattr(owner, name, read_safely)
        try:
            original(self, filename, *args, **kwargs)
        finally:
            delattr(owner, name)  # the class's own is there again

    cls.resume = resume


def _patch_runner(module: ModuleType) -> None:
    _replace(module.Runner, lambda runner: (runner, "load_checkpoint"))


def _patch_flexible_runner(module: ModuleType) -> None:
    _replace(module.FlexibleRunner, lambda runner: (runner.strategy, "resume"))


def apply() -> None:
    """Changes MMEngine's runners when they are imported."""
    add_import_hook("mmengine.runner.runner", _patch_runner)
    add_import_hook("mmengine.runner._flexible_runner", _patch_flexible_runner)
