"""Saving so that nothing is lost, and finding what was saved."""

import copy
import logging
import os
import shutil
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from mmhybrid.engine.runner.accumulation import (
    accumulated_gradients,
    average_accumulated,
    is_accumulating,
    load_accumulated_gradients,
)
from mmhybrid.engine.runner.checkpoint_config import KEY, describe
from mmhybrid.engine.runner.run_config import by_first_process
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, CheckpointWriteError, read_checkpoint
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints
from mmhybrid.weights.reading import mark_verified
from mmhybrid.weights.writing import UNFINISHED, durable_file

BEST = "best.pth"  # another name of MMEngine's best_METRIC_epoch_N.pth
INTERRUPTED = "interrupted.pth"  # what a signal saves
LAST_CHECKPOINT = "last_checkpoint"  # MMEngine's own name


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """MMEngine's checkpoints, in an order that loses none. Its arguments are ``CheckpointHook``'s.

    A checkpoint is written whole, then named in ``last_checkpoint``, and only then the one beyond
    ``max_keep_ckpts`` is removed. One that cannot be written, because the disk is full say, is
    logged; training goes on, keeps the one before it and tries again when the next is due, and once
    more at the end. Gradients that are being accumulated are saved too. While the run lasts,
    :func:`mmhybrid.enable_safe_checkpoints` holds.

    The best one has weights alone and is ``best.pth`` too; ``save_best='auto'`` takes mIoU, or else
    the first metric. Every checkpoint says its config, classes and origin as plain data.
    """

    description: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        self.safe_checkpoints = enable_safe_checkpoints()
        # A run that ends by an exception never comes to after_run.
        weakref.finalize(runner, self.safe_checkpoints.undo)
        loop = runner._train_loop
        if isinstance(loop, BaseLoop):
            loop.run = self._while_safe()(loop.run)

    @contextmanager
    def _while_safe(self) -> Iterator[None]:
        with self.safe_checkpoints:
            yield

    def after_run(self, runner: Runner) -> None:
        self.safe_checkpoints.undo()

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.unsaved = False
        if is_main_process():
            for rest in Path(str(self.out_dir)).glob(f"*.pth{UNFINISHED}"):
                rest.unlink()  # a run was killed while it was writing this

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        average_accumulated(runner)
        kept: list[int] = []
        before = dict(runner.message_hub.runtime_info)
        if self.max_keep_ckpts > 0:
            kept = [*(one for one in self.keep_ckpt_ids if one != step), step]
            runner.message_hub.update_info("keep_ckpt_ids", kept[-self.max_keep_ckpts :])
        path = self._path_of(step)
        runner.message_hub.update_info("last_ckpt", path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                self.filename_tmpl.format(step),
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=dict(meta),
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            self.last_ckpt = path
            if is_main_process():
                set_last_checkpoint(runner.work_dir, path)
        except (OSError, CheckpointWriteError) as error:
            self.unsaved = True
            _undo_and_log(runner, before, error)
            return
        self.unsaved = False
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
        if is_main_process():
            for old in kept[: -self.max_keep_ckpts]:
                self._remove(self._path_of(old))
            self._remove(str(Path(runner.work_dir) / INTERRUPTED))

    def _path_of(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed saves folders
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best or not self._choose_metric(runner, metrics):
            return
        # MMEngine removes the best one so far before it saves the next.
        before = dict(runner.message_hub.runtime_info)
        best = copy.deepcopy({k: v for k, v in vars(self).items() if k.startswith("best_ckpt")})
        backend = self.file_backend
        self.file_backend = _LaterRemover(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
            removed = self.file_backend.removed
        except (OSError, CheckpointWriteError) as error:
            vars(self).update(best)
            _undo_and_log(runner, before, error)
            return
        finally:
            self.file_backend = backend
        several = getattr(self, "best_ckpt_path_dict", {}).values()
        kept = [getattr(self, "best_ckpt_path", None), *several]
        if is_main_process() and (path := next(filter(None, kept), None)):
            try:
                _name_also(Path(path), Path(path).with_name(BEST))
            except OSError as error:
                runner.logger.error(f"{BEST} is not the best now, which is {path}: {error}")
        for path in set(removed).difference(kept):
            self._remove(path)

    def _choose_metric(self, runner: Runner, metrics: dict[str, float]) -> bool:
        """Has ``'auto'`` mean one of these; False where nobody knows which value is better."""
        if "auto" not in self.key_indicators:
            return True
        names = list(metrics)
        chosen = next((name for name in names if name.endswith("mIoU")), names[0])
        try:
            self._init_rule(self.rules, [chosen])
        except ValueError:
            runner.logger.warning(
                f"No best checkpoint is kept: is a high or a low {chosen} better? Say so with "
                f"default_hooks.checkpoint.save_best={chosen} and .rule=greater or less"
            )
            self.save_best = None
        return bool(self.save_best)

    def after_train(self, runner: Runner) -> None:
        if self.unsaved:
            # Under the step of now, as the weights are those of now.
            now = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, now["epoch" if self.by_epoch else "iter"], now)
        if self.unsaved:
            raise UserError(
                f"the last checkpoint could not be written to {self.out_dir}. Make room, or name "
                "another folder with --work-dir, and go on from the one before it with --resume."
            )
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if self.description is None:
            self.description = describe(runner)
        checkpoint["meta"][KEY] = self.description
        if "optimizer" not in checkpoint:
            checkpoint.pop("ema_state_dict", None)  # what EMAHook would go on from
        elif is_accumulating(runner):
            checkpoint["accumulated_gradients"] = accumulated_gradients(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if runner._resume:
            load_accumulated_gradients(runner, checkpoint.get("accumulated_gradients") or {})


def _name_also(path: Path, name: Path) -> None:
    """Gives a file another name too, in one step, and without a copy where the disk can."""
    if not path.is_file() or (name.exists() and name.samefile(path)):
        return
    unfinished = name.with_name(name.name + UNFINISHED)
    unfinished.unlink(missing_ok=True)
    try:
        os.link(path, unfinished)
    except OSError:
        shutil.copyfile(path, unfinished)
    os.replace(unfinished, name)


class _LaterRemover:
    """A file backend that only notes what it should remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def _undo_and_log(runner: Runner, before: dict[str, Any], error: Exception) -> None:
    runner.message_hub.runtime_info.clear()
    runner.message_hub.runtime_info.update(before)
    runner.logger.error(
        f"NOT SAVED: {error}. Training goes on and tries again when the next checkpoint is due; "
        "what was saved before is still there."
    )


def set_last_checkpoint(work_dir: str, path: str) -> None:
    """Name the newest checkpoint in ``work_dir/last_checkpoint``, where MMEngine looks for it."""
    with durable_file(Path(work_dir) / LAST_CHECKPOINT) as file:
        file.write(str(path).encode())


def newest_whole_checkpoint(work_dir: str) -> str | None:
    """The newest checkpoint that a run can go on from, or None where nothing was saved yet.

    Tried are what ``last_checkpoint`` names, and then the others of the folder, the newest first.
    Damaged ones are logged. Of several processes, the first looks and tells the others, which then
    need not compare checksums again.

    Raises:
        UserError: There are checkpoints, but none can be used.
    """
    answer = by_first_process(lambda: _newest_whole_checkpoint(Path(work_dir)))
    if answer is not None:
        mark_verified(answer)
    return answer


def _newest_whole_checkpoint(folder: Path) -> str | None:
    candidates: list[Path] = []
    pointer = folder / LAST_CHECKPOINT
    if pointer.is_file() and (named := pointer.read_text().strip()):
        # The folder may have been moved, and its path may be relative to another folder.
        candidates = [Path(named), folder / Path(named).name]
    folders = {folder, *(path.parent for path in candidates)}
    found = [path for one in folders for path in one.glob("*.pth")]
    others = [path for path in found if "best_" not in path.name and path.name != BEST]
    candidates += sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
    tried: dict[Path, str] = {}
    for path in candidates:
        if not path.is_file() or path.resolve() in tried:
            continue
        try:
            checkpoint = read_checkpoint(path, "meta")  # all but the bytes of tensors
        except CheckpointError as error:
            tried[path.resolve()] = str(error)
            print_log(f"Passed over: {error}", logger="current", level=logging.WARNING)
            continue
        if isinstance(checkpoint, dict) and {"meta", "message_hub"} <= set(checkpoint):
            return str(path)  # others are weights alone, such as published ones
    if tried:
        raise UserError(
            f"no checkpoint in {folder} can be used:\n  " + "\n  ".join(tried.values()) + "\n  "
            "To start from the beginning, name another --work-dir or leave out --resume."
        )
    return None
