"""The old name of :mod:`mmhybrid.weights`, which goes in version 0.3."""

import warnings

from mmhybrid.weights import *  # noqa: F403
from mmhybrid.weights import __all__  # noqa: F401

warnings.warn(
    "mmhybrid.checkpoints is now mmhybrid.weights; the old name goes in version 0.3",
    DeprecationWarning,
    stacklevel=2,
)
