"""The module that Python finds as ``mmcv._ext``: the kernels under the names that mmcv gives them.

A kernel that is not supplied here raises an error that says so where it is used, and ``hasattr``
answers no.
"""

from typing import NoReturn

from mmhybrid.compat.distribution_names import is_installed
from mmhybrid.compat.mmcv_ext.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmhybrid.compat.mmcv_ext.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmhybrid.compat.mmcv_ext.misc import (
    bbox_overlaps,
    get_compiler_version,
    get_compiling_cuda_version,
    masked_col2im_forward,
    masked_im2col_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from mmhybrid.compat.mmcv_ext.nms import nms, nms_match, softnms
from mmhybrid.compat.mmcv_ext.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    "bbox_overlaps",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


def _way_to_full_mmcv() -> str:
    if is_installed("onedl-mmcv"):
        return (
            "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir "
            "onedl-mmcv, which compiles it"
        )
    return (
        'pip uninstall mmcv-lite && pip install "mmcv==2.1.0" (see '
        "https://mmcv.readthedocs.io/en/latest/get_started/installation.html)"
    )


class MissingKernelError(NotImplementedError, AttributeError):
    """A kernel of mmcv is used that is not supplied here."""


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise MissingKernelError(
        f"mmcv's kernel '{name}' is compiled code that this mmcv does not hold and mmhybrid "
        "does not replace. Install full mmcv, built for the PyTorch in use: " + _way_to_full_mmcv()
    )
