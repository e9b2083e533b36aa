"""Clipping gradients that FSDP has sharded."""

import math
from functools import partial

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
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
                # Not clip_func, which a process without gradients of its own does not call.
                wrapper._clip_grad = partial(_clip, wrapper, runner.model)


def _clip(wrapper: OptimWrapper, model: FullyShardedDataParallel) -> None:
    options = wrapper.clip_grad_kwargs
    known = {name: options[name] for name in ("max_norm", "norm_type") if name in options}
    norm = float(model.clip_grad_norm_(**known))
    if options.get("error_if_nonfinite") and not math.isfinite(norm):
        raise RuntimeError(f"the norm of all gradients is {norm}, and error_if_nonfinite is set")
    wrapper.message_hub.update_scalar(f"train/{wrapper.grad_name}", norm)
