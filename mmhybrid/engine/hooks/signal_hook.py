"""Saving, and then leaving, when a signal asks a run to stop."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from mmhybrid.engine.hooks.durable_checkpoint_hook import INTERRUPTED, set_last_checkpoint
from mmhybrid.engine.runner.accumulation import average_accumulated
from mmhybrid.engine.runner.resumable_loops import VALIDATED
from mmhybrid.weights import CheckpointWriteError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0  # seconds in which several count as one


@HOOKS.register_module()
class SignalHook(Hook):
    """Saves at the end of the running iteration at SIGTERM or SIGINT (Ctrl-C), and leaves.

    The exit code is 128 plus the number of the signal: 143 or 130. ``--resume`` goes on from the
    file ``interrupted.pth``, which the next checkpoint replaces. A second signal, a second later or
    more, ends the process at once. All processes of a run leave at the same iteration, whichever of
    them got the signal. Workers of data loaders, which a terminal and Slurm signal too, stay.
    """

    priority = "LOWEST"  # after the hooks that step, average and save

    def __init__(self) -> None:
        self.received = 0
        self.received_at = 0.0
        self.validating = False
        self.common_batches = 0
        self.group: Any = None

    def before_run(self, runner: Runner) -> None:
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and threading.current_thread() is threading.main_thread():
            loop.run = self.handle_signals()(loop.run)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Inside, signals are noted; at the end, however it comes, all is as it was before."""
        before = {one: signal.signal(one, self._receive) for one in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def before_train(self, runner: Runner) -> None:
        if get_world_size() > 1:
            self.group = torch.distributed.new_group(backend="gloo")  # spares waiting for the GPU
        loops = (runner.train_loop, runner.val_loop)
        for loader in (loop.dataloader for loop in loops if loop is not None):
            loader.worker_init_fn = functools.partial(_start_worker, loader.worker_init_fn)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Nothing but this: a handler may run between any two instructions of the main thread.
        if self.received:
            # torchrun hands on what the terminal or Slurm sent to all: that is no second one.
            if time.monotonic() - self.received_at >= SAME_SIGNAL:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self.received_at = number, time.monotonic()
        told = "saving at the end of this iteration, then leaving. Another signal leaves at once."
        os.write(2, f"\n{signal.Signals(number).name}: {told}\n".encode())

    def before_val_epoch(self, runner: Runner) -> None:
        self.validating = True
        # Where processes have different numbers of batches, all agree until the first is done.
        self.common_batches = self._agree(len(runner.val_dataloader), "min")

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.validating = False

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if number := self._agree(self.received, "max"):
            self._leave(runner, runner.iter + 1, number)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if batch_idx >= self.common_batches:
            return
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        if not self.validating or any(getattr(hook, "evaluate_on_origin", 0) for hook in averages):
            return  # then it is not known which weights are in place

        if number := self._agree(self.received, "max"):
            runner.message_hub.update_info(VALIDATED, 0)  # it is to be repeated
            for hook in averages:
                hook.after_val_epoch(runner)  # puts the weights back that are trained
            self._leave(runner, runner.iter, number)

    def _agree(self, number: int, how: str) -> int:
        """The least or the greatest of the numbers of all processes."""
        if self.group is None:
            return number
        shared = torch.tensor(number)
        all_reduce(shared, how, self.group)
        return int(shared)

    def _leave(self, runner: Runner, iteration: int, number: int) -> None:
        average_accumulated(runner)
        path = str(Path(runner.work_dir) / INTERRUPTED)
        meta = dict(epoch=runner.epoch, iter=iteration)
        try:
            runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
            if is_main_process():
                set_last_checkpoint(runner.work_dir, path)
        except (OSError, CheckpointWriteError) as error:
            runner.logger.error(f"NOT SAVED: {error}. --resume takes the checkpoint before.")
        else:
            runner.logger.info(f"Saved iteration {iteration} to {path}. Go on with --resume.")
        barrier()  # the first process to leave would have the others killed
        raise SystemExit(128 + number)


def _start_worker(start: Callable[[int], None] | None, index: int) -> None:
    """Have a worker of a data loader be ended by its parent alone, then do what else it should."""
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

        def end_with_the_parent() -> None:
            while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
                pass
            os._exit(0)  # as PyTorch's own handler does

        threading.Thread(target=end_with_the_parent, daemon=True).start()
    if start is not None:
        start(index)
