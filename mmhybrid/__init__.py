"""mmhybrid: hybrid CNN-Transformer backbones for OpenMMLab."""

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
    "enable_safe_checkpoints",
    "list_weights",
    "load_checkpoint",
    "replace_backbone",
]

OLD_NAMES = {"with_backbone": "mmhybrid.replace_backbone", "checkpoints": "mmhybrid.weights"}
__getattr__ = renamed(__name__, OLD_NAMES)
