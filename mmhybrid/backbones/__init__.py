"""The backbones. Importing this package registers them."""

from mmhybrid.backbones.base import HybridBackbone
from mmhybrid.backbones.dmformer import DMFormer
from mmhybrid.backbones.transxnet import TransXNet
from mmhybrid.backbones.xformer import XFormer

__all__ = ["DMFormer", "HybridBackbone", "TransXNet", "XFormer"]
