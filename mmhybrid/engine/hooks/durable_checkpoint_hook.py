"""Saving so that nothing is lost, and finding what was saved."""

import copy
import logging
import os
import re
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
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
from mmhybrid.engine.runner.lost_logs import go_on_without_logs
from mmhybrid.engine.runner.resumable import check_resumable
from mmhybrid.engine.runner.run_config import by_first_process
from mmhybrid.engine.runner.work_dir_lock import lock_work_dir, unlock_work_dir
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, CheckpointWriteError, read_checkpoint
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints
from mmhybrid.weights.reading import mark_verified, read_outline
from mmhybrid.weights.writing import UNFINISHED, durable_file

BEST = "best.pth"  # another name of MMEngine's best_METRIC_epoch_N.pth
INTERRUPTED = "interrupted.pth"  # what a signal saves
MEANS = ("mIoU", "bbox_mAP", "segm_mAP")
LAST_CHECKPOINT = "last_checkpoint"  # MMEngine's own name


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """MMEngine's checkpoints, in an order that loses none. Its arguments are ``CheckpointHook``'s.

    A checkpoint is written whole, then named in ``last_checkpoint``, and only then the one beyond
    ``max_keep_ckpts`` is removed. One that cannot be written, because the disk is full say, is
    logged; training goes on, keeps the one before it and tries again when the next is due, and once
    more at the end. Gradients that are being accumulated are saved too. While the run lasts,
    :func:`mmhybrid.enable_safe_checkpoints` holds, no other training may run in the work folder,
    and a log that cannot be written ends no run. A run that resumes is refused where it could not
    go on as it would have without the interruption: from weights alone, or from another model's.
    What cannot be written at the end goes to a temporary folder, which is logged.

    The best one has weights alone and is ``best.pth`` too; ``save_best='auto'`` takes mIoU, or else
    COCO's AP of boxes, or of masks, or the first metric. Every checkpoint says its config, classes
    and origin as plain data.
    """

    description: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        self.safe_checkpoints = enable_safe_checkpoints()
        # A run that ends by an exception never comes to after_run.
        weakref.finalize(runner, self.safe_checkpoints.undo)
        loop = runner._train_loop
        if isinstance(loop, BaseLoop):
            by_first_process(lambda: lock_work_dir(runner.work_dir))
            weakref.finalize(runner, unlock_work_dir, runner.work_dir)
            go_on_without_logs(runner)
            # Before others take up what is loaded. The list is being gone through: it gets another.
            runner._hooks = [_ResumableCheck(), *runner._hooks]
            loop.run = self._while_safe(runner.work_dir)(loop.run)
            if runner._resume and runner._load_from is None:
                # MMEngine takes the path in last_checkpoint, which may be another folder's.
                places = self.out_dir, self.filename_tmpl
                runner._load_from = newest_whole_checkpoint(runner.work_dir, *places)
                runner._resume = runner._load_from is not None

    @contextmanager
    def _while_safe(self, work_dir: str) -> Iterator[None]:
        try:
            with self.safe_checkpoints:
                yield
        finally:
            unlock_work_dir(work_dir)

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
        except (OSError, CheckpointWriteError) as error:
            self.unsaved = True
            _undo_and_log(runner, before, error)
            return
        self.unsaved = False
        if is_main_process():
            set_last_checkpoint(runner.work_dir, path)
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
        ends = product(MEANS, metrics)  # a metric of each class may come before their mean
        chosen = next((name for end, name in ends if name.endswith(end)), next(iter(metrics)))
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
            self._save_elsewhere(runner, now["epoch" if self.by_epoch else "iter"], now)
            return
        super().after_train(runner)

    def _save_elsewhere(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Saves the end of a run whose own folder cannot be written to."""
        name = self.filename_tmpl.format(step)
        try:
            folder = tempfile.mkdtemp(prefix=f"{Path(runner.work_dir).name}-")
            runner.save_checkpoint(
                folder,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
            )
        except (OSError, CheckpointWriteError) as error:
            raise UserError(
                f"the last checkpoint could not be written to {self.out_dir}, nor to a temporary "
                f"folder ({error}). Make room, or name another folder with --work-dir, and go on "
                "from the one before it with --resume."
            ) from error
        runner.logger.error(
            f"The last checkpoint could not be written to {self.out_dir}: it is saved as "
            f"{Path(folder) / name}. Make room and move it there before the system clears its "
            "temporary files."
        )

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


class _ResumableCheck(Hook):
    """Refuses what a run cannot go on from exactly."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if runner._resume:
            check_resumable(runner, checkpoint)


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
    """Name the newest checkpoint in ``work_dir/last_checkpoint``, where MMEngine looks for it.

    Where that cannot be written it is logged: ``--resume`` finds the newest without it.
    """
    try:
        with durable_file(Path(work_dir) / LAST_CHECKPOINT) as file:
            file.write(str(path).encode())
    except OSError as error:
        told = f"{LAST_CHECKPOINT} in {work_dir} cannot be written: {error}"
        print_log(told, logger="current", level=logging.ERROR)


def newest_whole_checkpoint(
    work_dir: str, out_dir: str | None = None, filename_tmpl: str | None = None
) -> str | None:
    """The newest checkpoint that a run can go on from, or None where nothing was saved yet.

    Looked at are the files of the folder, and of the one that the hook's ``out_dir`` makes of it,
    that end in ``.pth`` or are called as its ``filename_tmpl`` says, wherever ``last_checkpoint``
    points: the folder may have been moved or copied. First come those of the run that wrote the
    file which ``last_checkpoint`` names, and of these the one with most iterations. Damaged ones
    are logged.
    Of several processes, the first looks and tells the others, which then need not compare
    checksums again.

    Raises:
        UserError: There are checkpoints, but none can be used; or they lie elsewhere.
    """
    folders = [Path(work_dir).absolute()]
    if out_dir and "://" not in out_dir and out_dir != str(folders[0]):
        folders.insert(0, Path(out_dir) / folders[0].name)  # as CheckpointHook makes it
    patterns = {"*.pth", re.sub(r"{.*?}", "*", filename_tmpl or "*.pth")}
    answer = by_first_process(lambda: _newest_whole_checkpoint(folders, patterns))
    if answer is not None:
        mark_verified(answer)
    return answer


def _newest_whole_checkpoint(folders: list[Path], patterns: set[str]) -> str | None:
    folder, last = folders[-1], ""
    with suppress(OSError, ValueError):  # it is missing, or no text
        last = (folder / LAST_CHECKPOINT).read_text().strip()
    named = Path(last).name
    progress: dict[Path, tuple[int, str]] = {}  # iteration and run
    tried: dict[Path, str] = {}
    for path in {path for place in folders for one in patterns for path in place.glob(one)}:
        is_best = "best_" in path.name or path.name == BEST
        is_left_out = path.name.endswith(UNFINISHED) or (is_best and path.name != named)
        if is_left_out or not path.is_file():
            continue
        try:
            found = _progress_in(path)
        except (CheckpointError, OSError) as error:
            tried[path] = str(error)
            continue
        if found is not None:
            progress[path] = found
    run = next((progress[one / named][1] for one in folders if one / named in progress), None)
    for path in sorted(progress, key=lambda one: (progress[one][1] == run, progress[one][0]))[::-1]:
        try:
            read_checkpoint(path, "meta")  # all but the bytes of tensors, and its checksum
        except (CheckpointError, OSError) as error:
            tried[path] = str(error)
        else:
            _tell_passed_over(tried)
            return str(path)
    _tell_passed_over(tried)
    if tried:
        raise UserError(
            f"no checkpoint in {folder} can be used:\n  " + "\n  ".join(tried.values()) + "\n  "
            "To start from the beginning, name another --work-dir or leave out --resume."
        )
    # A copy of the folder, under another name, still names the files of the first.
    if "://" in last or (Path(last).parent.name == folder.name and Path(last).is_file()):
        raise UserError(
            f"{folder / LAST_CHECKPOINT} names {last}, which is not where this run saves: set the "
            "checkpoint hook's out_dir and filename_tmpl as they were, or give --resume FILE"
        )
    return None


def _tell_passed_over(reasons: dict[Path, str]) -> None:
    for reason in reasons.values():
        print_log(f"Passed over: {reason}", logger="current", level=logging.WARNING)


def _progress_in(path: Path) -> tuple[int, str] | None:
    """The iteration and the run of a checkpoint; None of weights alone, such as published ones."""
    checkpoint = read_outline(path)
    if not isinstance(checkpoint, dict) or not {"meta", "message_hub"} <= set(checkpoint):
        return None
    meta = checkpoint["meta"] if isinstance(checkpoint["meta"], dict) else {}
    iteration = meta.get("iter")
    return iteration if type(iteration) is int else -1, str(meta.get("experiment_name"))
