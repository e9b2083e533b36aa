"""What a training run needs beyond MMEngine.

A config names the classes of this package ``mmhybrid.CLASS``, and need not import anything.
"""

from mmhybrid.engine.compile_hook import CompileBackboneHook
from mmhybrid.engine.durable_checkpoint_hook import DurableCheckpointHook
from mmhybrid.engine.layer_decay import (
    LayerwiseDecayOptimWrapperConstructor,
    layer_depths,
    parameter_groups,
)
from mmhybrid.engine.non_finite_hook import NonFiniteHook
from mmhybrid.engine.resumable_loops import (
    ResumableEpochBasedTrainLoop,
    ResumableIterBasedTrainLoop,
)
from mmhybrid.engine.resumable_sampling import ResumableBatchSampler
from mmhybrid.engine.run_error import RunError
from mmhybrid.engine.sample_loading import EvaluationDataHook
from mmhybrid.engine.signal_hook import SignalHook

__all__ = [
    "CompileBackboneHook",
    "DurableCheckpointHook",
    "EvaluationDataHook",
    "LayerwiseDecayOptimWrapperConstructor",
    "NonFiniteHook",
    "ResumableBatchSampler",
    "ResumableEpochBasedTrainLoop",
    "ResumableIterBasedTrainLoop",
    "RunError",
    "SignalHook",
    "layer_depths",
    "parameter_groups",
]
