"""Saving so that nothing is lost, and finding what was saved."""

import copy
import logging
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
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
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, CheckpointWriteError, read_checkpoint
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints
from mmhybrid.weights.reading import mark_verified
from mmhybrid.weights.writing import UNFINISHED, durable_file

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
    """

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
        if not self.save_best:
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
        for path in set(removed) - {getattr(self, "best_ckpt_path", None), *several}:
            self._remove(path)

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
        if "optimizer" in checkpoint and is_accumulating(runner):
            checkpoint["accumulated_gradients"] = accumulated_gradients(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if runner._resume:
            load_accumulated_gradients(runner, checkpoint.get("accumulated_gradients") or {})


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
    answers: list[Any] = [None]
    if is_main_process():
        try:
            answers = [_newest_whole_checkpoint(Path(work_dir))]
        except UserError as error:
            answers = [error]
    broadcast_object_list(answers)
    (answer,) = answers
    if isinstance(answer, UserError):
        raise answer
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
    others = [path for one in folders for path in one.glob("*.pth") if "best_" not in path.name]
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
