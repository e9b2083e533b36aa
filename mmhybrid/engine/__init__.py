"""What a training run needs beyond MMEngine. A config names its classes ``mmhybrid.CLASS``."""

from mmhybrid.datasets.sample_loading import EvaluationDataHook
from mmhybrid.datasets.samplers import ResumableBatchSampler
from mmhybrid.deprecation import renamed
from mmhybrid.engine.hooks.compile_hook import CompileBackboneHook
from mmhybrid.engine.hooks.durable_checkpoint_hook import DurableCheckpointHook
from mmhybrid.engine.hooks.non_finite_hook import NonFiniteHook
from mmhybrid.engine.hooks.progress_hook import ProgressHook
from mmhybrid.engine.hooks.resumable_early_stopping_hook import ResumableEarlyStoppingHook
from mmhybrid.engine.hooks.signal_hook import SignalHook
from mmhybrid.engine.optimizers.bfloat16 import Bfloat16OptimWrapper
from mmhybrid.engine.optimizers.layer_decay import (
    LayerwiseDecayOptimWrapperConstructor,
    layer_depths,
    parameter_groups,
)
from mmhybrid.engine.runner.resumable_loops import (
    ResumableEpochBasedTrainLoop,
    ResumableIterBasedTrainLoop,
)
from mmhybrid.errors import UserError

__getattr__ = renamed(__name__, {"RunError": "mmhybrid.errors.UserError"})

__all__ = [
    "Bfloat16OptimWrapper",
    "CompileBackboneHook",
    "DurableCheckpointHook",
    "EvaluationDataHook",
    "LayerwiseDecayOptimWrapperConstructor",
    "NonFiniteHook",
    "ProgressHook",
    "ResumableBatchSampler",
    "ResumableEarlyStoppingHook",
    "ResumableEpochBasedTrainLoop",
    "ResumableIterBasedTrainLoop",
    "SignalHook",
    "UserError",
    "layer_depths",
    "parameter_groups",
]
