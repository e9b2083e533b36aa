"""Training and testing with a compiled backbone."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhybrid.weights.entries import unwrapped


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone before a run; a detector as a whole would break into many graphs.

    Args:
        dynamic (bool): One graph for all image sizes; without, each is compiled anew.
        mode, backend: As those of :func:`torch.compile`.
    """

    def __init__(
        self, dynamic: bool = True, mode: str | None = None, backend: str = "inductor"
    ) -> None:
        self.options = dict(dynamic=dynamic, mode=mode, backend=backend)

    def before_run(self, runner: Runner) -> None:
        unwrapped(runner.model).backbone.compile(fullgraph=True, **self.options)
        runner.logger.info("The backbone is compiled on its first call, which takes a while.")
