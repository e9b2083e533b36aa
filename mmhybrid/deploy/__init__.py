"""From a trained model to use: fusing for inference."""

from mmhybrid.deploy.fuse import fuse

__all__ = ["fuse"]
