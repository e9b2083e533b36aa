"""Optimizers that register twice.

PyTorch 2.5 brought an ``Adafactor`` and transformers has another. MMEngine before 0.10.7 registers
both under one name, and ``import mmengine.runner`` ends with ``Adafactor is already registered``
(https://github.com/open-mmlab/mmengine/issues/1609). Importing MMEngine's builder again, after an
import that failed half-way, ends with ``ASGD is already registered``
(https://github.com/open-mmlab/mmengine/issues/1593). As MMEngine 0.10.7 does, PyTorch's becomes
``TorchAdafactor``; and registering the same class once more changes nothing.
"""

import functools
import sys
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS

BUILDER = "mmengine.optim.optimizer.builder"


def apply() -> None:
    """Makes the registry of optimizers tolerant, unless all have registered already."""
    if BUILDER in sys.modules or hasattr(OPTIMIZERS.register_module, "__wrapped__"):
        return
    register = OPTIMIZERS.register_module

    @functools.wraps(register)
    def register_once(name: Any = None, force: bool = False, module: Any = None) -> Any:
        if module is not None and name is None and module is vars(torch.optim).get("Adafactor"):
            name = "TorchAdafactor"
        if module is not None and not force:
            names = [name] if isinstance(name, str) else name or [module.__name__]
            if all(OPTIMIZERS.module_dict.get(each) is module for each in names):
                return module
        return register(name, force, module)

    OPTIMIZERS.register_module = register_once
