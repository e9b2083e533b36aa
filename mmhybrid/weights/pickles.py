"""Unpickling weights and plain values, and nothing else.

Python's unpickler, restricted as its documentation advises: a name in a file stands for one of the
functions here, which check their arguments. ``torch.load(weights_only=True)`` calls what it allows
with any argument (``bytearray(2**44)``) and enlarges a storage to what a tensor declares.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmhybrid.weights.errors import DamagedCheckpointError, UnsafeCheckpointError

HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
STATISTICS = ("min", "max", "current", "mean")
INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1"),
    *("BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET"),
    *("ADDITEMS", "FROZENSET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
}


def refuse(why: str) -> NoReturn:
    """Raises UnsafeCheckpointError."""
    raise UnsafeCheckpointError(
        f"refused, {why}, which weights and plain values never need. Nothing of it was executed. "
        "If you trust whoever made the file, save it again where it was made, as "
        "torch.save({'state_dict': model.state_dict()}, path), or as safetensors."
    )


def _tensor(
    rebuild: Callable, storage: Any, offset: int, size: Any, stride: Any, *rest: Any
) -> Any:
    dtype = rest[2] if rebuild is torch._utils._rebuild_tensor_v3 else storage.dtype
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    nbytes = 0 if 0 in size else end * dtype.itemsize
    if min(offset, *size, *stride, 0) < 0 or nbytes > storage._untyped_storage.nbytes():
        raise DamagedCheckpointError("a tensor of it declares more than its storage has")
    return rebuild(storage, offset, size, stride, *rest)


def _from_type(make: Any, cls: Any, arguments: tuple, state: Any) -> torch.Tensor:
    if not isinstance(make, Name) or cls not in (torch.Tensor, torch.nn.Parameter):
        refuse("it makes a tensor of an unusual type")
    tensor = MAKERS[make](*arguments)
    vars(tensor).update(state[0] if type(state) is tuple else state)
    return tensor


def _parameter_with_state(data: Any, requires_grad: bool, hooks: Any, state: Any) -> torch.Tensor:
    name = Name("torch._utils._rebuild_parameter")
    return _from_type(name, torch.Tensor, (data, requires_grad, hooks), state)


def _hashable(items: Any) -> Any:
    if any(type(one) is tuple and any(type(part) is tuple for part in one) for one in items):
        refuse("it has tuples of tuples as keys")  # whose hash may take forever
    return items


def _filled(make: Callable, items: Any = ()) -> Any:
    if type(items) not in (list, tuple, dict):
        refuse("it fills a container")  # with a tensor, that may have more elements than bytes
    return make(_hashable(items))


def _bytes(make: Callable, data: Any = b"", encoding: str = "latin1") -> Any:
    if not isinstance(data, str | bytes) or encoding not in ("latin1", "latin-1"):
        refuse("it makes bytes of what is no text")  # of a number of them, or longer ones
    return make(data if isinstance(data, bytes) else data.encode("latin1"))


def _getattr(owner: Any, name: Any) -> None:
    """HistoryBuffer pickles its statistics so; those of the class are used in their place."""
    if not isinstance(owner, Name) or owner != HISTORY or name not in STATISTICS:
        refuse("it asks for an attribute")


def _dtype(code: Any, align: Any = None, copy: Any = None) -> np.dtype:
    # A copy, since what NumPy itself uses must not change.
    if type(code) is not str or not re.fullmatch(r"[biufcSUMm]\d{1,9}", code) or copy != 1:
        refuse("it asks for an unusual type of numpy")
    return np.dtype(code, False, True)


def _array(cls: Any, *_: Any) -> np.ndarray:
    return np.ndarray((0,)) if cls is np.ndarray else refuse("it makes an unusual array")


class Name(str):
    """What a file has named and may call."""

    __slots__ = ()


TENSORS = ("tensor", "tensor_v2", "tensor_v3", "qtensor")
CONFIGS = (
    "addict.addict.Dict", "easydict.EasyDict", "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict", "yacs.config.CfgNode",
)  # fmt: skip
PATHS = [
    f"pathlib.{module}{name}"
    for module in ("", "_local.")
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
]
ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
# What a file may call.
MAKERS: dict[str, Callable] = {
    **{
        f"torch._utils._rebuild_{name}": partial(_tensor, vars(torch._utils)[f"_rebuild_{name}"])
        for name in TENSORS
    },
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._utils._rebuild_sparse_tensor": torch._utils._rebuild_sparse_tensor,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.serialization._get_layout": torch.serialization._get_layout,
    "torch.Size": partial(_filled, torch.Size),
    "torch.device": torch.device,
    "collections.OrderedDict": partial(_filled, OrderedDict),
    "collections.Counter": partial(_filled, Counter),
    "collections.defaultdict": lambda factory=None: {},
    "collections.deque": lambda items=(), most=None: _filled(list, items),
    "builtins.set": partial(_filled, set),
    "builtins.frozenset": partial(_filled, frozenset),
    "builtins.complex": complex,
    "builtins.slice": slice,
    "builtins.bytearray": partial(_bytes, bytearray),
    "_codecs.encode": partial(_bytes, bytes),
    "builtins.getattr": _getattr,
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.timedelta": datetime.timedelta,
    "numpy.dtype": _dtype,
    **{f"{module}._reconstruct": _array for module in ARRAYS},
    **{f"{module}.scalar": np.float64(0).__reduce__()[0] for module in ARRAYS},
    "argparse.Namespace": argparse.Namespace,
    HISTORY: lambda: HistoryBuffer(),
    # Items that are arguments of `__new__` come again later.
    **dict.fromkeys(CONFIGS, lambda items=(), *_: dict(items) if type(items) is dict else {}),
    **dict.fromkeys(PATHS, lambda *parts: str(pathlib.PurePosixPath(*parts))),
}
CHANGED = (dict, OrderedDict, argparse.Namespace, HistoryBuffer)
# What may be named as an argument alone. A type of storage is told by its dtype.
CONSTANTS: dict[str, Any] = {
    "torch.Tensor": torch.Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "numpy.ndarray": np.ndarray,
    **{f"builtins.{cls.__name__}": cls for cls in (list, dict, int, float, str, bool)},
    **{f"{HISTORY}.{name}": None for name in STATISTICS},
    **{str(v): v for v in vars(torch).values() if isinstance(v, torch.dtype | torch.qscheme)},
    **{
        f"{module}.{name}": dtype
        for dtype, name in torch.storage._dtype_to_storage_type_map().items()
        for module in ("torch", "torch.cuda")
    },
    "torch.storage.UntypedStorage": torch.uint8,
}


class Reader(pickle._Unpickler):
    """Reads one pickle from a stream, and leaves the stream behind its end.

    Args:
        storage_of: gives the storage of a key, dtype, number of elements and location.
    """

    def __init__(self, stream: BinaryIO, storage_of: Callable | None = None) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storage_of = storage_of

    def load_global(self) -> None:
        module, name = self.readline(), self.readline()
        if not name.endswith(b"\n"):
            raise EOFError("it ends within a name")
        self.append(self.find_class(module[:-1].decode(), name[:-1].decode()))

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full in CONSTANTS:
            return CONSTANTS[full]
        return Name(full) if full in MAKERS else refuse(f"it asks for {full[:80]}")

    def persistent_load(self, pid: Any) -> torch.storage.TypedStorage:
        if (
            self.storage_of is None
            or [type(one) for one in pid[:5]] != [str, torch.dtype, str, str, int]
            or (pid[0], pid[5:]) not in (("storage", ()), ("storage", (None,)))
            or pid[4] < 0
        ):
            refuse("it asks for a storage in another way than torch.save does")
        _, dtype, key, location, count = pid[:5]
        storage = self.storage_of(key, dtype, count, location)
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Name):
            refuse(f"it calls {getattr(function, '__name__', type(function).__name__)}")
        self.stack[-1] = MAKERS[function](*arguments)

    load_newobj = load_reduce

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, np.dtype):
            _, order, subtype, names, fields, itemsize, alignment, flags, *_ = state
            plain = order in ("<", ">", "|", "=") and subtype is names is fields is None
            sizes = itemsize in (-1, instance.itemsize) and alignment in (-1, 1, 4)
            if not plain or not sizes or flags not in (0, 8):
                refuse("it changes the size of a type of NumPy")
            instance.__setstate__(state)
        elif type(instance) is np.ndarray and isinstance(state[2], np.dtype):
            instance.__setstate__(state)
        elif type(state) is dict and type(instance) in CHANGED:
            state = {key: value for key, value in state.items() if key != "statistics_methods"}
            getattr(instance, "__dict__", {}).update(state)  # a dict, for a config, has none
        else:
            refuse(f"it changes an object of type {type(instance).__name__}")

    def _last(self, cls: type) -> Any:
        if not isinstance(self.stack[-1], cls):
            refuse(f"it fills an object of type {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = self._last(dict)
        for key, value in zip(_hashable(items[::2]), items[1::2], strict=True):
            target[key] = value

    def load_setitem(self) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        self.metastack.append(self.stack)
        self.stack = items[::-1]
        self.load_setitems()

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._last(set).update(_hashable(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(_hashable(items)))

    def load_other(self) -> NoReturn:
        refuse("it uses an instruction of pickle that torch.save does not")


_names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
Reader.dispatch = {
    code: getattr(Reader, load.__name__ if _names[code] in INSTRUCTIONS else "load_other")
    for code, load in pickle._Unpickler.dispatch.items()
}
