"""The backbones. Importing this package registers them."""

from mmhybrid.backbones.base import HybridBackbone
from mmhybrid.backbones.transxnet import TransXNet

__all__ = ["HybridBackbone", "TransXNet"]
