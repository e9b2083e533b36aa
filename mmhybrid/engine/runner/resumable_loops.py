"""MMEngine's two training loops, made to go on exactly where a checkpoint was saved.

* Before each iteration the random numbers (Python, NumPy, PyTorch) are seeded by the seed of the
  run, the iteration and the process, so that dropout and the sampling of boxes need no saved state.
* A run that resumes leaves out the batches that it has seen, without loading them. Where an epoch
  has another number of batches now, one that was interrupted begins anew.
* A validation that was due when the run was interrupted is made up for.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from mmhybrid.datasets.samplers import ResumableBatchSampler, set_random_state
from mmhybrid.errors import ArgumentError

# In the message hub, and so in checkpoints.
VALIDATED = "last_validation"  # the epoch, or else the iteration
EPOCH = "running_epoch"  # [epoch, iteration that it began at, batches that it has]


def seed_iteration(runner: Runner) -> None:
    """Seed the random numbers of the coming training iteration, the same whenever it runs."""
    set_random_state(runner.seed, runner.iter, get_rank(), 1)


class _Resumable:
    """What both loops share."""

    def run_iter(self, *args: Any, **kwargs: Any) -> None:
        seed_iteration(self.runner)
        super().run_iter(*args, **kwargs)

    def _start_at(self, epoch: int, batch: int) -> None:
        batches = self.dataloader.batch_sampler
        if not isinstance(batches, ResumableBatchSampler):
            raise ArgumentError(
                f"{type(self).__name__} needs train_dataloader.batch_sampler="
                "dict(type='mmhybrid.ResumableBatchSampler')"
            )
        # Processes may have each its own seed, but share one order of the images.
        differ = self.runner._randomness_cfg.get("diff_rank_seed")
        batches.start_at(epoch, batch, self.runner.seed - (get_rank() if differ else 0))

    def _validate_if_due(self) -> None:
        """Validate where MMEngine does, once."""
        self._decide_current_val_interval()
        step, last = self._progress()
        due = step > 0 and step >= self.val_begin
        due = due and (step % self.val_interval == 0 or step == last)
        hub = self.runner.message_hub
        done = hub.runtime_info.get(VALIDATED) == step
        if self.runner.val_loop is not None and due and not done:
            # Before: the best checkpoint and the one saved with it are written at the end of this.
            hub.update_info(VALIDATED, step)
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_Resumable, EpochBasedTrainLoop):
    """MMEngine's loop over epochs, going on exactly; arguments as that has them."""

    def _progress(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        seen = self._batches_seen()
        self._start_at(self._epoch, seen)
        for index, batch in enumerate(self.dataloader, seen):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _batches_seen(self) -> int:
        """Of this epoch, by the run that this one goes on from."""
        hub, batches = self.runner.message_hub, len(self.dataloader)
        epoch, began, had = hub.runtime_info.get(EPOCH, (-1, 0, 0))
        seen = self._iter - began if epoch == self._epoch else 0
        if seen and had != batches:
            self.runner.logger.warning(
                f"Epoch {epoch + 1} had {had} batches, of which {seen} were seen, and now has "
                f"{batches}: it begins anew."
            )
            seen = 0
        hub.update_info(EPOCH, [self._epoch, self._iter - seen, batches])
        return seen


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_Resumable, IterBasedTrainLoop):
    """MMEngine's loop over iterations, going on exactly; arguments as that has them."""

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader_iterator = self._batches()
        self._validate_if_due()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _batches(self) -> Iterator[Any]:
        """The batches from the present iteration on, without end."""
        epoch, seen = 0, self._iter
        if not self.dataloader.batch_sampler.is_endless:
            epoch, seen = divmod(self._iter, len(self.dataloader))
        while True:
            self._start_at(epoch, seen)
            yield from self.dataloader
            epoch, seen = epoch + 1, 0
