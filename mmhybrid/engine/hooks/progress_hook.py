"""Showing how far a run is: one line that moves, the metrics, what was saved."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhybrid.engine.console import ProgressLine


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows a :class:`ProgressLine` while a run trains, evaluates and tests, in its first process.

    Loss (mean of ten iterations), learning rate and the time left stand in it. Metrics, and each
    checkpoint that was saved, are logged in a line of their own.
    """

    priority = "LOWEST"  # after the hooks that evaluate and save

    def before_train(self, runner: Runner) -> None:
        self.saved = self._saved(runner)
        self.train = self._line(runner.max_iters, "train", initial=runner.iter)
        log = getattr(runner.logger, "log_file", None)
        where = f"; the whole log: {log}" if log else ""
        runner.logger.info(f"Training for {runner.max_iters} iterations{where}")
        for schedule in _schedules(runner.param_schedulers):
            length = runner.max_epochs if schedule.by_epoch else runner.max_iters
            if getattr(schedule, "start_factor", 1) < 1 and length < schedule.end < 10**9:
                unit = "epochs" if schedule.by_epoch else "iterations"
                told = f"The warm-up takes {schedule.end} {unit}, and the run has {length}"
                runner.logger.warning(f"{told}: its learning rate stays below the config's")

    def after_train_iter(self, runner: Runner, *args: Any, **options: Any) -> None:
        scalars = runner.message_hub.log_scalars
        parts = []
        if "train/loss" in scalars:
            parts.append(f"loss {scalars['train/loss'].mean(10):.4g}")
        if "train/lr" in scalars:
            parts.append(f"lr {scalars['train/lr'].current():.2e}")
        self.train.set_postfix_str(", ".join(parts), refresh=False)
        self.train.update()
        self._log_saved(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._log_saved(runner)

    def after_train(self, runner: Runner) -> None:
        self._log_saved(runner)
        self.train.close()

    def before_val_epoch(self, runner: Runner) -> None:
        self.evaluate = self._line(len(runner.val_dataloader), "evaluate")

    def after_val_iter(self, runner: Runner, *args: Any, **options: Any) -> None:
        self.evaluate.update()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        self.evaluate.close()
        self._log_metrics(runner, f"Iteration {runner.iter}", metrics)
        if hasattr(self, "train"):
            self._log_saved(runner)
            self.train.unpause()  # evaluation is no part of the time of a step

    def before_test_epoch(self, runner: Runner) -> None:
        self.test = self._line(len(runner.test_dataloader), "test")
        log = getattr(runner.logger, "log_file", None)
        if log:
            runner.logger.info(f"Testing; the whole log: {log}")

    def after_test_iter(self, runner: Runner, *args: Any, **options: Any) -> None:
        self.test.update()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        self.test.close()
        self._log_metrics(runner, "Test", metrics)

    def _line(self, total: int, what: str, **options: Any) -> ProgressLine:
        return ProgressLine(total=total, desc=what, disable=not is_main_process(), **options)

    def _log_metrics(self, runner: Runner, when: str, metrics: dict[str, Any] | None) -> None:
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, int | float)}
        if numbers:
            # COCO gives -1 where there is nothing to measure.
            told = (f"{k} {v:.4g}" for k, v in numbers.items() if v != -1)
            runner.logger.info(f"{when}: {', '.join(told)}")

    def _saved(self, runner: Runner) -> dict[str, Any]:
        """The paths that MMEngine's hook keeps, and the scores of the best."""
        names = ("last_ckpt", "best_ckpt", "best_score")
        return {k: v for k, v in runner.message_hub.runtime_info.items() if k.startswith(names)}

    def _log_saved(self, runner: Runner) -> None:
        before, self.saved = self.saved, self._saved(runner)
        for key, path in self.saved.items():
            score = key.replace("best_ckpt", "best_score")
            if "ckpt" in key and any(before.get(k) != self.saved.get(k) for k in (key, score)):
                runner.logger.info(f"Saved {path}")


def _schedules(found: Any) -> list[Any]:
    """All schedules, which are in a list, or in one for each optimizer."""
    lists = found.values() if isinstance(found, dict) else [found or []]
    return [schedule for one in lists for schedule in one]
