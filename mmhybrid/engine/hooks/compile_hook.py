"""Training and testing with a compiled backbone."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhybrid.weights.loading import unwrapped


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone, and only that, before a run.

    In a config: ``custom_hooks = [dict(type='mmhybrid.CompileBackboneHook')]``.

    A detector or segmentor as a whole breaks into many graphs; the backbone is one, at any size.

    Args:
        dynamic: one graph for all image sizes. Without, each size is compiled anew.
        mode: as that of :func:`torch.compile`.
        backend: as that of :func:`torch.compile`.
    """

    def __init__(
        self, dynamic: bool = True, mode: str | None = None, backend: str = "inductor"
    ) -> None:
        self.options = dict(dynamic=dynamic, mode=mode, backend=backend)

    def before_run(self, runner: Runner) -> None:
        unwrapped(runner.model).backbone.compile(fullgraph=True, **self.options)
        runner.logger.info("The backbone is compiled on its first call, which takes a while.")
