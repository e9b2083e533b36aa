"""From a trained model to use: fusing for inference, exporting, predicting without PyTorch."""

from mmhybrid.deploy import fused_dmformer, fused_transxnet, fused_xformer  # noqa: F401 (register)
from mmhybrid.deploy.compiled import compiled
from mmhybrid.deploy.exporting import export
from mmhybrid.deploy.folding import fuses
from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.fuse_hook import FuseHook
from mmhybrid.deploy.onnx_export import OnnxExportError, export_onnx
from mmhybrid.deploy.predictor import Predictor

__all__ = [
    "FuseHook",
    "OnnxExportError",
    "Predictor",
    "compiled",
    "export",
    "export_onnx",
    "fuse",
    "fuses",
]
