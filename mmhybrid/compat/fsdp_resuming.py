"""Resuming a run of MMEngine's FSDPStrategy.

PyTorch 2.1 changed the order of the arguments of ``optim_state_dict_to_load``, and MMEngine 0.10
calls it in the old one: ``--resume`` ended with ``unhashable type: 'dict'``. It also leaves out the
loss scale of mixed precision.
"""

from types import ModuleType
from typing import Any

from mmhybrid.import_hooks import add_import_hook


def _patch(module: ModuleType) -> None:
    def load_optim_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        wrapper, fit = self.optim_wrapper, module.FSDP.optim_state_dict_to_load
        scaler = state_dict.pop("loss_scaler", None)
        fitted = fit(self.model, wrapper.optimizer, state_dict)
        wrapper.load_state_dict(fitted if scaler is None else fitted | dict(loss_scaler=scaler))

    def optim_state_dict(self: Any) -> dict[str, Any]:
        scaler = getattr(self.optim_wrapper, "loss_scaler", None)
        state = plain(self)
        return state if scaler is None else state | dict(loss_scaler=scaler.state_dict())

    plain = module.FSDPStrategy.optim_state_dict
    module.FSDPStrategy.optim_state_dict = optim_state_dict
    module.FSDPStrategy.load_optim_state_dict = load_optim_state_dict


def apply() -> None:
    """Changes FSDPStrategy when it is imported."""
    add_import_hook("mmengine._strategy.fsdp", _patch)
