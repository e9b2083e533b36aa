"""Where the classes of this package can be found by name.

Every class registers in MMEngine's root ``MODELS``, which all OpenMMLab packages search last, so
that ``type='TransXNet'`` works in any config with ``custom_imports = dict(imports=['mmhybrid'])``.
The empty child registry below makes ``type='mmhybrid.TransXNet'`` work without any import: MMEngine
imports the ``locations`` of a scope that it meets.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmengine import registry as root
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

MODULE2PACKAGE["mmhybrid"] = "mmhybrid"  # for `_base_ = "mmhybrid::_base_/..."`


def _child(parent: Registry, *locations: str) -> Registry:
    names = [f"mmhybrid.{location}" for location in locations]
    return Registry(parent.name, parent=parent, scope="mmhybrid", locations=names)


MODELS = _child(root.MODELS, "backbones", "layers.gloo_sync_batch_norm")
# Importing any part of the engine imports all that it registers.
HOOKS = _child(root.HOOKS, "engine", "deploy.fuse_hook")
LOOPS = _child(root.LOOPS, "engine")
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, "engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, "engine")
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, "engine")
DATASETS = _child(root.DATASETS, "datasets.tiny_imagenet")
METRICS = _child(root.METRICS, "engine.faster_coco_metric")


def type_name(given: Any) -> str:
    """The name, without scope and module, of the class that a part of a config, or its type, gives.

    ``''`` where there is no ``type``.
    """
    if isinstance(given, Mapping):
        given = given.get("type", "")
    given = given.func if isinstance(given, partial) else given
    return given.rpartition(".")[2] if isinstance(given, str) else getattr(given, "__name__", "")


def type_of(part: Mapping[str, Any], registry: Registry, scope: str | None = None) -> Any:
    """The class that a part of a config asks for, or None where there is no such name.

    ``scope`` is the ``default_scope`` of the whole config, ``registry`` MMEngine's.
    """
    given = part["type"]
    if not isinstance(given, str):
        return given.func if isinstance(given, partial) else given
    with registry.switch_scope_and_registry(part.get("_scope_", scope)) as found:
        return found.get(given)


__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "HOOKS",
    "LOOPS",
    "METRICS",
    "MODELS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "type_name",
    "type_of",
]
