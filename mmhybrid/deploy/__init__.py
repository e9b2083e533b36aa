"""From a trained model to use: fusing for inference."""

from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.fuse_hook import FuseHook

__all__ = ["FuseHook", "fuse"]
