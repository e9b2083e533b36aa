"""Stopping early, also where a run is interrupted between two evaluations."""

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """MMEngine's hook, whose patience counts on in a run that resumes; arguments as that has them.

    A run that it has stopped does not train on, unless the arguments let it now.
    """

    priority = "LOW"  # before the best checkpoint, and the one saved with it, are written

    @property
    def key(self) -> str:
        """The name of the state in the message hub, and so in checkpoints."""
        return f"early_stopping/{self.monitor}"

    def before_train(self, runner: Runner) -> None:
        if self.key in runner.message_hub.runtime_info:
            self.wait_count, self.best_score, last = runner.message_hub.get_info(self.key)
            self.after_val_epoch(runner, {self.monitor: last})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if self.monitor in metrics:
            # The state before an evaluation, and its result: whether that stops is decided anew.
            state = [self.wait_count, self.best_score, float(metrics[self.monitor])]
            runner.message_hub.update_info(self.key, state)
        super().after_val_epoch(runner, metrics)
