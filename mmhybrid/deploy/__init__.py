"""From a trained model to use: fusing for inference, exporting to ONNX."""

from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.fuse_hook import FuseHook
from mmhybrid.deploy.onnx_export import OnnxExportError, export_onnx

__all__ = ["FuseHook", "OnnxExportError", "export_onnx", "fuse"]
