"""Testing with a fused model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhybrid.deploy.fuse import fuse


@HOOKS.register_module()
class FuseHook(Hook):
    """Fuses the model once its weights are loaded, before a test run (``tools/test.py --fuse``).

    In a config: ``custom_hooks = [dict(type='mmhybrid.FuseHook')]``. Training is not touched.
    """

    def before_test(self, runner: Runner) -> None:
        if is_model_wrapper(runner.model):
            runner.model.module = fuse(runner.model.module)
        else:
            runner.model = fuse(runner.model)
        runner.logger.info("The model is fused for inference.")
