"""mmhybrid: hybrid CNN-Transformer backbones for OpenMMLab."""

from mmhybrid import runtime

runtime.apply()

from mmhybrid import backbones  # noqa: E402
from mmhybrid.backbones.pairing import with_backbone  # noqa: E402
from mmhybrid.checkpoints import load_checkpoint  # noqa: E402
from mmhybrid.registry import MODELS  # noqa: E402
from mmhybrid.version import __version__  # noqa: E402

__all__ = ["MODELS", "__version__", "backbones", "load_checkpoint", "with_backbone"]
