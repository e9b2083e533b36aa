"""Resuming a run of MMEngine's FSDPStrategy.

PyTorch 2.1 changed the order of the arguments of ``optim_state_dict_to_load``, and MMEngine 0.10
calls it in the old one: ``--resume`` ended with ``unhashable type: 'dict'``.
"""

from types import ModuleType
from typing import Any

from mmhybrid.import_hooks import add_import_hook


def _patch(module: ModuleType) -> None:
    def load_optim_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        wrapper, fitted = self.optim_wrapper, module.FSDP.optim_state_dict_to_load
        wrapper.load_state_dict(fitted(self.model, wrapper.optimizer, state_dict))

    module.FSDPStrategy.load_optim_state_dict = load_optim_state_dict


def apply() -> None:
    """Changes FSDPStrategy when it is imported."""
    add_import_hook("mmengine._strategy.fsdp", _patch)
