"""Where the classes of this package can be found by name.

Every class registers in MMEngine's root ``MODELS``, which all OpenMMLab packages search last, so
that ``type='TransXNet'`` works in any config with ``custom_imports = dict(imports=['mmhybrid'])``.
The empty child registry below makes ``type='mmhybrid.TransXNet'`` work without any import: MMEngine
imports the ``locations`` of a scope that it meets.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

MODELS = Registry(
    "model",
    parent=ROOT_MODELS,
    scope="mmhybrid",
    locations=["mmhybrid.backbones", "mmhybrid.layers.gloo_sync_batch_norm"],
)
HOOKS = Registry(
    "hook",
    parent=ROOT_HOOKS,
    scope="mmhybrid",
    locations=[
        "mmhybrid.deploy.fuse_hook",
        "mmhybrid.engine.hooks.compile_hook",
        "mmhybrid.engine.hooks.durable_checkpoint_hook",
        "mmhybrid.engine.hooks.non_finite_hook",
        "mmhybrid.datasets.sample_loading",
        "mmhybrid.engine.hooks.signal_hook",
    ],
)
LOOPS = Registry(
    "loop",
    parent=ROOT_LOOPS,
    scope="mmhybrid",
    locations=["mmhybrid.engine.runner.resumable_loops"],
)
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=ROOT_DATA_SAMPLERS,
    scope="mmhybrid",
    locations=["mmhybrid.datasets.resumable_sampling"],
)

OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="mmhybrid",
    locations=["mmhybrid.engine.optimizers.layer_decay"],
)

DATASETS = Registry(
    "dataset", parent=ROOT_DATASETS, scope="mmhybrid", locations=["mmhybrid.datasets.tiny_imagenet"]
)


def type_name(given: Any) -> str:
    """The name of the class that a part of a config asks for, by its name or as the class itself.

    Args:
        given (dict | str | type): The part, or its ``type`` alone.

    Returns:
        The name without scope and module, e.g. ``'TransXNet'``; ``''`` where there is no ``type``.
    """
    if isinstance(given, Mapping):
        given = given.get("type", "")
    return given.rpartition(".")[2] if isinstance(given, str) else getattr(given, "__name__", "")


def type_of(part: Mapping[str, Any], registry: Registry, scope: str | None = None) -> Any:
    """The class that a part of a config asks for, or None where there is no such name.

    Args:
        part (dict): With ``type``, and perhaps ``_scope_``.
        registry (Registry): Of MMEngine, such as ``MODELS``.
        scope (str, optional): ``default_scope`` of the whole config.
    """
    if not isinstance(part["type"], str):
        return part["type"]
    with registry.switch_scope_and_registry(part.get("_scope_", scope)) as found:
        return found.get(part["type"])


__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "HOOKS",
    "LOOPS",
    "MODELS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "type_name",
    "type_of",
]
