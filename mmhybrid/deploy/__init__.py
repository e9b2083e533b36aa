"""From a trained model to use: fusing for inference, exporting to ONNX and OpenVINO."""

from mmhybrid.deploy import fused_dmformer, fused_transxnet, fused_xformer  # noqa: F401 (register)
from mmhybrid.deploy.exporting import export
from mmhybrid.deploy.folding import fuses
from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.fuse_hook import FuseHook
from mmhybrid.deploy.onnx_export import OnnxExportError, export_onnx

__all__ = ["FuseHook", "OnnxExportError", "export", "export_onnx", "fuse", "fuses"]
