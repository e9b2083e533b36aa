"""Clipping gradients that FSDP has sharded."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_

from mmhybrid.engine.runner.accumulation import wrappers_of


class ShardedClipHook(Hook):
    """Clips by the norm of all processes' shards, where MMEngine clips each by its own norm."""

    def before_train(self, runner: Runner) -> None:
        if not isinstance(runner.model, FullyShardedDataParallel):
            return
        for wrapper in wrappers_of(runner.optim_wrapper):
            if wrapper.clip_grad_kwargs and wrapper.clip_func is clip_grad_norm_:
                wrapper.clip_func = lambda _, **options: runner.model.clip_grad_norm_(**options)
