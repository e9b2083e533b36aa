"""The backbones. Importing this package registers them."""

from mmhybrid.backbones.base import HybridBackbone, Stage, backbone_classes, resolve_arch
from mmhybrid.backbones.dmformer import DMFormer
from mmhybrid.backbones.dw_cait import DWCaiT
from mmhybrid.backbones.dw_swin import DWSwinTransformer
from mmhybrid.backbones.dw_vit import DWVisionTransformer
from mmhybrid.backbones.dw_wrapper import DepthwiseShortcutBackbone
from mmhybrid.backbones.family import Paper, Published, is_backbone
from mmhybrid.backbones.transxnet import TransXNet
from mmhybrid.backbones.xformer import XFormer

__all__ = [
    "DMFormer",
    "DWCaiT",
    "DWSwinTransformer",
    "DWVisionTransformer",
    "DepthwiseShortcutBackbone",
    "HybridBackbone",
    "Paper",
    "Published",
    "Stage",
    "TransXNet",
    "XFormer",
    "backbone_classes",
    "is_backbone",
    "resolve_arch",
]
