"""The functions and types that the pickle of a checkpoint may name, and what PyTorch is given."""

import argparse
import collections
import datetime
import functools
import pathlib
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmhybrid.weights.errors import DamagedCheckpointError, UnsafeCheckpointError

HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
STATISTICS = ("min", "max", "current", "mean")
CONFIGS = (  # read as dicts
    "addict.addict.Dict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)
PATHS = tuple(
    f"pathlib.{module}{name}"
    for module in ("", "_local.")
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
)
ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
STORAGES = {
    **dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
    "Untyped": 1,
}
STORAGE_BYTES = {
    f"{module}.{name}Storage": nbytes
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, nbytes in STORAGES.items()
}
# What may be called. The functions of torch.load itself need no entry in safe_globals().
CALLED = {
    *(
        f"torch._utils._rebuild_{name}"
        for name in (
            "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor",
            "sparse_tensor",
        )
    ),
    "torch._tensor._rebuild_from_type_v2",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    *(f"builtins.{name}" for name in ("set", "frozenset", "complex", "slice", "bytearray")),
    "builtins.getattr",
    "_codecs.encode",
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
    "numpy.dtype",
    *(f"{module}.{name}" for module in ARRAY_MODULES for name in ("scalar", "_reconstruct")),
    "argparse.Namespace",
    HISTORY,
    *CONFIGS,
    *PATHS,
}  # fmt: skip
# What may be named as an argument alone.
NAMED = {
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "numpy.ndarray",
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "bool")),
    *("builtins.long", "builtins.unicode"),  # int and str in protocol 2
    *(f"{HISTORY}.{name}" for name in STATISTICS),
    *(f"torch.{k}" for k, v in vars(torch).items() if isinstance(v, torch.dtype | torch.qscheme)),
    *STORAGE_BYTES,
}


def _attribute(owner: Any, name: str) -> Any:
    """Stands for ``getattr``: ``HistoryBuffer`` pickles its statistics through it."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise UnsafeCheckpointError(f"it asks for the attribute {name} of another type")
    return getattr(HistoryBuffer, name)


def _named_only(*arguments: Any) -> NoReturn:
    """Stands for what is never called."""
    raise DamagedCheckpointError("it calls a type that stands for itself")


@functools.cache
def safe_globals() -> list[tuple[Any, str]]:
    """What :func:`torch.load` may look up besides its own, and the name in the file."""
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSUMm"}
    make_array, make_scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    plain = (
        argparse.Namespace, frozenset, slice, datetime.datetime, datetime.date, datetime.timedelta,
        np.dtype, np.ndarray, HistoryBuffer,
    )  # fmt: skip
    return [
        *((each, f"{each.__module__}.{each.__qualname__}") for each in plain),
        *((dtype, f"numpy.dtypes.{dtype.__name__}") for dtype in dtypes),
        *((make_array, f"{module}._reconstruct") for module in ARRAY_MODULES),
        *((make_scalar, f"{module}.scalar") for module in ARRAY_MODULES),
        *((collections.OrderedDict, name) for name in CONFIGS),
        *((lambda *parts: str(pathlib.PurePosixPath(*parts)), name) for name in PATHS),
        (_attribute, "builtins.getattr"),
        (lambda items=(), *_: list(items), "collections.deque"),
        *((one, f"builtins.{one.__name__}") for one in (list, dict, int, float, str, bool)),
        *((_named_only, name) for name in NAMED if name.startswith(HISTORY + ".")),
    ]
