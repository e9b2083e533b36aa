"""The old name of :mod:`mmhybrid.weights.downloading`, which goes in version 0.3."""

from mmhybrid.weights.downloading import *  # noqa: F403
