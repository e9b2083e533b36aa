"""Where the classes of this package can be found by name.

Every class registers in MMEngine's root ``MODELS``, which all OpenMMLab packages search last, so
that ``type='TransXNet'`` works in any config with ``custom_imports = dict(imports=['mmhybrid'])``.
The empty child registry below makes ``type='mmhybrid.TransXNet'`` work without any import: MMEngine
imports the ``locations`` of a scope that it meets.
"""

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry("model", parent=ROOT_MODELS, scope="mmhybrid", locations=["mmhybrid.backbones"])
HOOKS = Registry(
    "hook",
    parent=ROOT_HOOKS,
    scope="mmhybrid",
    locations=["mmhybrid.deploy.fuse_hook", "mmhybrid.engine.compile_hook"],
)

DATASETS = Registry(
    "dataset", parent=ROOT_DATASETS, scope="mmhybrid", locations=["mmhybrid.engine.tiny_imagenet"]
)

__all__ = ["DATASETS", "HOOKS", "MODELS"]
