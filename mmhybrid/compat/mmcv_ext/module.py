"""The module that Python finds as ``mmcv._ext``: the kernels under the names that mmcv gives them.

A kernel that is not supplied here raises an error that says so where it is used, and ``hasattr``
answers no.
"""

from typing import NoReturn

from mmhybrid.compat.distribution_names import is_installed
from mmhybrid.compat.mmcv_ext import (
    carafe,
    deform_conv,
    deform_roi_pool,
    focal_loss,
    misc,
    nms,
    psa_mask,
    roi,
)

for _module in (carafe, deform_conv, deform_roi_pool, focal_loss, misc, nms, psa_mask, roi):
    for _name, _kernel in list(vars(_module).items()):
        # What the module defines itself, not what it imports.
        if getattr(_kernel, "__module__", None) == _module.__name__ and _name[0] != "_":
            globals()[_name] = _kernel


class MissingKernelError(NotImplementedError, AttributeError):
    """A kernel of mmcv is used that is not supplied here."""


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    install = (
        "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir "
        "onedl-mmcv, which compiles it"
        if is_installed("onedl-mmcv")
        else 'pip uninstall mmcv-lite && pip install "mmcv==2.1.0" (see '
        "https://mmcv.readthedocs.io/en/latest/get_started/installation.html)"
    )
    raise MissingKernelError(
        f"mmcv's kernel '{name}' is compiled code that this mmcv does not hold and mmhybrid "
        f"does not replace. Install full mmcv, built for the PyTorch in use: {install}"
    )
