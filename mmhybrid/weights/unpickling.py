"""Unpickling weights and plain values, and nothing else.

A pickle is a program: it names functions and calls them. :class:`WeightsUnpickler` looks names up
in the tables of this file only, calls only what they hold, and sets the state only of types that
they list. Where MMEngine's own checkpoints name something dangerous (a pickled ``getattr`` inside
``HistoryBuffer``), the tables hold a harmless equivalent.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import math
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from mmhybrid.weights.errors import DamagedCheckpointError, UnsafeCheckpointError


class Storage(NamedTuple):
    """Bytes of a checkpoint and what they are.

    Attributes:
        data: the bytes.
        dtype: of the elements.
    """

    data: torch.UntypedStorage
    dtype: torch.dtype


class PlainDict(dict):
    """What configuration classes (``ConfigDict``, ``CfgNode``) are read as."""


ReadStorage = Callable[[torch.dtype, str, str, int], torch.UntypedStorage]

STORAGE_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class WeightsUnpickler(pickle._Unpickler):
    """Reads one pickle.

    The unpickler in Python rather than the one in C: only there can what is called, created and
    changed be checked, and not just what is looked up.

    Args:
        file: to read from.
        name: of the checkpoint, for messages.
        read_storage: called with dtype, key, location and number of elements of each storage.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, name: str, read_storage: ReadStorage | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self.name = name
        self.read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        module = _RENAMED_MODULES.get(module, module)
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        try:
            return _GLOBALS[f"{module}.{name}"]
        except KeyError:
            self.refuse(f"it asks for {module}.{name}")

    def refuse(self, why: str) -> None:
        raise UnsafeCheckpointError(
            f"{self.name}: refused, {why}, which weights and plain values never need. Nothing of "
            "it was executed. If you trust whoever made the file, save it again where it was "
            "made, as torch.save({'state_dict': model.state_dict()}, path), or as safetensors."
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, location, count, *view = pid
        if (
            kind != "storage"
            or not isinstance(dtype, torch.dtype)
            or not isinstance(location, str)
            or not _is_size(count)
        ):
            self.refuse(f"it asks for {_describe(pid)}")
        if view not in ([], [None]):
            self.refuse("it was saved by PyTorch 0.3 or older")
        return Storage(self.read_storage(dtype, str(key), location, count), dtype)

    def call(self, function: Any, *arguments: Any) -> Any:
        if not _is_one_of(function, _CALLABLES):
            self.refuse(f"it calls {_describe(function)}")
        return function(*arguments)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], *arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack[-1]
        if arguments or not _is_one_of(kind, _CREATABLE):
            self.refuse(f"it creates {_describe(kind)}")
        self.stack[-1] = kind.__new__(kind)

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        kind = np.dtype if isinstance(instance, np.dtype) else type(instance)
        if kind not in _STATE_SETTERS:
            self.refuse(f"it changes {_describe(instance)}")
        _STATE_SETTERS[kind](instance, state)

    def load_refused(self) -> None:
        self.refuse("it uses instructions of pickle that name or create arbitrary objects")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    for _opcode in (
        pickle.INST,
        pickle.OBJ,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
        pickle.PERSID,
        pickle.NEWOBJ_EX,
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
    ):
        dispatch[_opcode[0]] = load_refused


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(value is choice for choice in choices)


def _describe(value: Any) -> str:
    """What a value is, in bounded time and space whatever is nested in it."""
    if isinstance(value, str):
        return repr(value[:80])
    return getattr(value, "__name__", None) or f"an object of type {type(value).__name__}"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


# --- harmless equivalents of what checkpoints name --------------------------------------------


def _rebuild_tensor(storage: Storage, offset: int, size: tuple, stride: tuple) -> Tensor:
    """A view of a storage that does not reach beyond it."""
    size, stride = tuple(size), tuple(stride)
    if not (
        isinstance(storage, Storage)
        and len(size) == len(stride)
        and all(map(_is_size, (offset, *size, *stride)))
    ):
        raise DamagedCheckpointError("a tensor has no proper shape")
    end = offset + 1 + sum((s - 1) * t for s, t in zip(size, stride, strict=True))
    if math.prod(size) > 0 and end * storage.dtype.itemsize > storage.data.nbytes():
        raise DamagedCheckpointError(
            f"a tensor of shape {size} declares {end} elements, but the file holds "
            f"{storage.data.nbytes() // storage.dtype.itemsize}"
        )
    tensor = torch.empty(0, dtype=storage.dtype, device=storage.data.device)
    if math.prod(size) == 0:
        return tensor.reshape(size)
    return tensor.set_(storage.data, offset, size, stride)


def _rebuild_tensor_v2(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _rebuild_tensor(storage, offset, size, stride).requires_grad_(bool(requires_grad))


def _rebuild_tensor_v3(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Any = None,
) -> Tensor:
    return _rebuild_tensor_v2(Storage(storage.data, dtype), offset, size, stride, requires_grad)


def _rebuild_parameter(data: Tensor, requires_grad: bool, hooks: Any, state: Any = None) -> Tensor:
    return nn.Parameter(data, requires_grad=bool(requires_grad))


def _rebuild_from_type(function: Any, kind: type, arguments: tuple, state: Any) -> Tensor:
    """A tensor with attributes of its own, which are left out."""
    if not _is_one_of(function, (_rebuild_tensor_v2, _rebuild_tensor_v3, _rebuild_parameter)):
        raise DamagedCheckpointError("a tensor is made by something that makes no tensors")
    return function(*arguments)


def _size(sizes: Any) -> torch.Size:
    return torch.Size(sizes)


def _device(*spec: Any) -> torch.device:
    return torch.device(*spec)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise DamagedCheckpointError(f"bytes are encoded as {_describe(encoding)}")
    return text.encode("latin1")


def _bytearray(*content: Any) -> bytearray:
    if content and not isinstance(content[0], bytes):
        content = (_encode(*content),)
    return bytearray(*content)


def _default_dict(factory: Any = None, *items: Any) -> collections.defaultdict:
    if not (factory is None or _is_one_of(factory, (list, dict, set, int, float, str, bool))):
        raise DamagedCheckpointError(f"a defaultdict is filled by {_describe(factory)}")
    return collections.defaultdict(factory, *items)


def _get_attribute(owner: Any, name: str) -> None:
    """``HistoryBuffer`` pickles its own methods through ``getattr``. Its class has them anyway, so
    that they need not be looked up."""
    if owner is not HistoryBuffer or name.startswith("_"):
        raise UnsafeCheckpointError(f"it asks for the attribute {name} of {_describe(owner)}")


def _path(*parts: str) -> str:
    return str(pathlib.PurePosixPath(*parts))


def _numpy_dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    dtype = np.dtype(code, False, True)  # a copy: NumPy's own must not be changed
    if dtype.kind not in "biufcSUMm" or dtype.names is not None:
        raise DamagedCheckpointError(f"an array has the type {_describe(code)}")
    return dtype


def _numpy_scalar(dtype: np.dtype, data: bytes) -> np.generic:
    return np.frombuffer(_as_bytes(data), dtype=dtype, count=1)[0]


def _numpy_array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """An empty array; its state follows."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise DamagedCheckpointError("an array is not made as NumPy makes it")
    return np.ndarray((0,), np.uint8)


def _as_bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else _encode(data)


# --- states ---------------------------------------------------------------------------------------


def _set_metadata(instance: collections.OrderedDict, state: dict) -> None:
    """State dicts carry the versions of their modules."""
    if isinstance(state.get("_metadata"), dict):
        instance._metadata = state["_metadata"]


def _set_namespace(instance: argparse.Namespace, state: dict) -> None:
    vars(instance).update(state)


def _ignore(instance: Any, state: Any) -> None:
    pass


def _set_history(instance: HistoryBuffer, state: dict) -> None:
    instance.__init__(max_length=int(state["max_length"]))
    instance._log_history = np.asarray(state["_log_history"])
    instance._count_history = np.asarray(state["_count_history"])


def _set_numpy_array(instance: np.ndarray, state: tuple) -> None:
    version, shape, dtype, column_major, data = state
    if not isinstance(dtype, np.dtype) or not all(map(_is_size, shape)):
        raise DamagedCheckpointError("an array has no proper shape or type")
    instance.__setstate__((version, shape, dtype, column_major, _as_bytes(data)))


def _set_numpy_dtype(instance: np.dtype, state: tuple) -> None:
    _, byte_order, subdtype, names, fields, *_ = state
    if byte_order not in ("<", ">", "|", "=") or (subdtype, names, fields) != (None, None, None):
        raise DamagedCheckpointError("an array has a compound type")
    if instance.kind != "V" and state[5] not in (-1, instance.itemsize):
        raise DamagedCheckpointError("an array has elements of another size than its type")
    instance.__setstate__(state)


# --- the tables -----------------------------------------------------------------------------------

_RENAMED_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy.multiarray",
    "numpy._core.multiarray": "numpy.multiarray",
    "torch.nn.parameter": "torch.nn",
}
_FUNCTIONS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    "collections.defaultdict": _default_dict,
    "collections.deque": collections.deque,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.slice": slice,
    "builtins.bytearray": _bytearray,
    "builtins.getattr": _get_attribute,
    "_codecs.encode": _encode,
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.timedelta": datetime.timedelta,
    "numpy.dtype": _numpy_dtype,
    "numpy.multiarray.scalar": _numpy_scalar,
    "numpy.multiarray._reconstruct": _numpy_array,
    **{
        f"pathlib.{kind}": _path
        for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
}
_CLASSES = {
    "argparse.Namespace": argparse.Namespace,
    "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
    "addict.addict.Dict": PlainDict,
    "easydict.EasyDict": PlainDict,
    "mmcv.utils.config.ConfigDict": PlainDict,
    "mmengine.config.config.ConfigDict": PlainDict,
    "yacs.config.CfgNode": PlainDict,
}
_TYPES = {
    "torch.Tensor": Tensor,
    "torch.nn.Parameter": nn.Parameter,
    "numpy.ndarray": np.ndarray,
    **{f"builtins.{kind.__name__}": kind for kind in (list, dict, int, float, str, bool)},
    # Protocol 4 names the methods that protocol 2 gets by getattr.
    **{
        f"mmengine.logging.history_buffer.HistoryBuffer.{method}": None
        for method in ("min", "max", "current", "mean")
    },
}
_GLOBALS = {**_FUNCTIONS, **_CLASSES, **_TYPES}
_CALLABLES = (*_FUNCTIONS.values(), PlainDict)
_CREATABLE = (*_CLASSES.values(), collections.OrderedDict)
_STATE_SETTERS = {
    collections.OrderedDict: _set_metadata,
    argparse.Namespace: _set_namespace,
    PlainDict: _ignore,
    HistoryBuffer: _set_history,
    np.ndarray: _set_numpy_array,
    np.dtype: _set_numpy_dtype,
}
