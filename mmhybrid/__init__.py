"""mmhybrid: hybrid CNN-Transformer backbones for OpenMMLab."""

import importlib
from typing import Any

from mmhybrid import compat

compat.apply()

from mmhybrid import backbones  # noqa: E402
from mmhybrid.backbones.replace_backbone import replace_backbone  # noqa: E402
from mmhybrid.deprecation import renamed  # noqa: E402
from mmhybrid.registry import MODELS  # noqa: E402
from mmhybrid.version import __version__  # noqa: E402
from mmhybrid.weights import list_weights, load_checkpoint  # noqa: E402
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints  # noqa: E402

__all__ = [
    "MODELS",
    "__version__",
    "backbones",
    "collect_env",
    "enable_safe_checkpoints",
    "from_pretrained",
    "list_weights",
    "load_checkpoint",
    "predict",
    "replace_backbone",
    "train",
]

# Imported when they are asked for: they need much.
LATER = {
    "collect_env": "mmhybrid.apis.environment",
    "from_pretrained": "mmhybrid.apis.hub",
    "predict": "mmhybrid.apis.journey",
    "train": "mmhybrid.apis.journey",
}
OLD_NAMES = {"with_backbone": "mmhybrid.replace_backbone", "checkpoints": "mmhybrid.weights"}
_renamed = renamed(__name__, OLD_NAMES)


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    return _renamed(name)
