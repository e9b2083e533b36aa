"""What a pickle asks for, found out without running it.

``torch.load(weights_only=True)`` looks at names alone. It calls an allowed function with any
argument (``bytearray(2**44)``), and takes the size of a storage from the pickle although the record
has less. Here the instructions are followed with labels in place of objects, and every call, change
of an object and declared size is judged before PyTorch sees the file.
"""

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

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
MOST_NESTED = 50
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
    *(f"{HISTORY}.{name}" for name in STATISTICS),
    *(f"torch.{k}" for k, v in vars(torch).items() if isinstance(v, torch.dtype | torch.qscheme)),
    *STORAGE_BYTES,
}
TENSOR_MAKERS = ("torch._", "torch.serialization.", "numpy.")
CHANGED = {"collections.OrderedDict", "argparse.Namespace", HISTORY, *CONFIGS}
PUSHES = {  # no more than the value that they hold
    "STOP", "PROTO", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_SET",
}  # fmt: skip


class Name(str):
    """A function or class that a pickle has named."""

    __slots__ = ()


class Made(str):
    """An object, by what made it."""

    __slots__ = ()


class Nest(tuple):
    """A tuple that knows how deep its tuples are nested."""

    depth = 1


def check_pickle(stream: BinaryIO, note_storage: Callable[[str, int], None] | None = None) -> None:
    """Raises UnsafeCheckpointError unless a pickle of protocol 2 holds weights and plain values.

    Args:
        stream: open at the pickle; left behind its end.
        note_storage: called with the key and the number of bytes of each storage that it declares.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, value, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "GLOBAL":
            stack.append(_named(value))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_nest(stack[-count:])]
        elif name == "TUPLE":
            stack.append(_nest(_pop_to_mark(stack)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            _check_call(stack[-1], arguments)
            # What a dtype is decides what may be changed about it.
            code = f" {arguments[0]}" if stack[-1] == "numpy.dtype" else ""
            stack[-1] = Made(stack[-1] + code)
        elif name == "BUILD":
            state = stack.pop()
            _check_change(stack[-1], state)
        elif name == "BINPERSID":
            if note_storage is None:
                refuse("it asks for a storage where there is none")
            note_storage(*_storage_of(stack.pop()))
            stack.append(Made("storage"))
        elif name in ("APPENDS", "SETITEMS"):
            _pop_to_mark(stack)
        elif name in ("APPEND", "SETITEM"):
            del stack[-len(opcode.stack_before) + 1 :]
        elif name in PUSHES:
            stack += [_label(name, value, result) for result in opcode.stack_after]
        else:
            refuse(f"it uses {name}, an instruction of pickle")


def refuse(why: str) -> NoReturn:
    """Raises UnsafeCheckpointError."""
    raise UnsafeCheckpointError(
        f"refused, {why}, which weights and plain values never need. Nothing of it was executed. "
        "If you trust whoever made the file, save it again where it was made, as "
        "torch.save({'state_dict': model.state_dict()}, path), or as safetensors."
    )


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(pickletools.markobject)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _nest(items: list[Any]) -> Nest:
    nest = Nest(items)
    nest.depth += max((item.depth for item in items if isinstance(item, Nest)), default=0)
    if nest.depth > MOST_NESTED:
        refuse("it nests tuples without end")  # as keys, Python's own hash would crash
    return nest


def _label(opcode: str, value: Any, result: pickletools.StackObject) -> Any:
    if opcode == "MARK":
        return pickletools.markobject
    constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    if opcode in constants:
        return constants[opcode]
    return Made(result.name) if value is None else value


def _named(value: str) -> Name:
    module, _, name = value.partition(" ")
    full = f"{module.replace('__builtin__', 'builtins')}.{name}"
    if full not in CALLED and full not in NAMED:
        refuse(f"it asks for {full[:80]}")
    return Name(full)


def _describe(label: Any) -> str:
    """In bounded time, whatever is nested in it."""
    return label[:80] if isinstance(label, str) else f"an object of type {type(label).__name__}"


def _check_call(function: Any, arguments: Any) -> None:
    if type(function) is not Name or function not in CALLED or not isinstance(arguments, tuple):
        refuse(f"it calls {_describe(function)}")
    wrong = (
        # Other encodings make text grow.
        (function == "_codecs.encode" and arguments[1:] not in (("latin1",), ("latin-1",)))
        or (function == "builtins.bytearray" and not isinstance((*arguments, "")[0], str))
        or (function == "numpy.dtype" and not _is_plain_dtype(*arguments))
        or (function.endswith("._reconstruct") and arguments[:2] != ("numpy.ndarray", (0,)))
        # A container that is filled from a tensor, which a few bytes may have expanded.
        or (not function.startswith(TENSOR_MAKERS) and any(map(_is_array, arguments)))
    )
    if wrong:
        refuse(f"it calls {function} with unusual arguments")
    if function == "torch._tensor._rebuild_from_type_v2":
        inner, _, inner_arguments, _ = arguments
        if not str(inner).startswith("torch._utils._rebuild_"):
            refuse(f"it calls {_describe(inner)}")
        _check_call(inner, inner_arguments)


def _is_array(label: Any) -> bool:
    return isinstance(label, Made) and label.startswith(("torch.", "numpy."))


def _is_plain_dtype(code: Any, align: Any = None, copy: Any = None) -> bool:
    """Whether it is a type of numbers, text or times, and a copy: NumPy's own must not change."""
    return type(code) is str and re.fullmatch(r"[biufcSUMm]\d{1,9}", code) is not None and copy == 1


def _check_change(instance: Any, state: Any) -> None:
    if type(instance) is not Made:
        refuse(f"it changes {_describe(instance)}")
    if instance.startswith("numpy.dtype "):
        _, order, subtype, names, fields, itemsize, alignment, flags, *_ = state
        size = np.dtype(instance.split()[1]).itemsize
        if (
            order not in ("<", ">", "|", "=")
            or (subtype, names, fields) != (None, None, None)
            or itemsize not in (-1, size)
            or alignment not in (-1, 1, 4)
            or flags not in (0, 8)
        ):
            refuse("it changes the size of a type of NumPy")
    elif instance.endswith("._reconstruct"):
        _, shape, dtype, _, _ = state
        if not isinstance(dtype, Made) or not all(type(size) is int for size in shape):
            refuse("it makes an unusual array")
    elif instance not in CHANGED:
        refuse(f"it changes {_describe(instance)}")


def _storage_of(pid: Any) -> tuple[str, int]:
    """The key and the bytes of a storage, from how PyTorch names it."""
    if isinstance(pid, tuple) and len(pid) in (5, 6):
        tag, kind, key, location, count, *view = pid
        if (
            (tag, *view) in (("storage",), ("storage", None))
            and kind in STORAGE_BYTES
            and type(key) is type(location) is str
            and type(count) is int
            and count >= 0
        ):
            return key, count * STORAGE_BYTES[kind]
    refuse("it asks for a storage in another way than torch.save does")


# --- what PyTorch is given ------------------------------------------------------------------------


def _attribute(owner: Any, name: str) -> Any:
    """Stands for ``getattr``: ``HistoryBuffer`` pickles its statistics through it."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise UnsafeCheckpointError(f"it asks for the attribute {name} of {_describe(owner)}")
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
        (lambda factory=None, *items: dict(*items), "collections.defaultdict"),
        (lambda items=(), *_: list(items), "collections.deque"),
        *((_named_only, name) for name in NAMED if name.startswith(("builtins.", HISTORY + "."))),
    ]


# --- protocols 3 to 5 -----------------------------------------------------------------------------


def as_protocol_2(stream: BinaryIO) -> bytes:
    """A pickle in the protocol that PyTorch's restricted reader knows.

    Args:
        stream: open at the pickle; left behind its end.
    """
    start = stream.tell()
    steps = list(pickletools.genops(stream))
    end = stream.tell()
    stream.seek(start)
    data = stream.read(end - start)
    if data[:1] != b"\x80" or data[1] <= 2:
        return data
    places = [place - start for *_, place in steps] + [len(data)]
    # Text stays a str until the end, because STACK_GLOBAL takes back the two before it.
    written: list[bytes | str] = [b"\x80\x02"]
    texts: dict[int, str] = {}
    marks: list[int] = []
    remembered = 0
    for index, (opcode, value, _) in enumerate(steps):
        name = opcode.name
        if pickletools.markobject in opcode.stack_before:
            mark = marks.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            place = remembered if name == "MEMOIZE" else value
            remembered += 1
            if isinstance(written[-1], str):
                texts[place] = written[-1]
            else:
                written.append(b"r" + struct.pack("<I", place))
        elif name in ("BINGET", "LONG_BINGET"):
            written.append(texts[value] if value in texts else b"j" + struct.pack("<I", value))
        elif "UNICODE" in name:
            written.append(value)
        elif name == "STACK_GLOBAL":
            attribute, module = written.pop(), written.pop()
            written.append(f"c{module}\n{attribute}\n".encode())
        elif "BINBYTES" in name:
            written += [b"c_codecs\nencode\n", value.decode("latin1"), "latin1", b"\x86R"]
        elif name == "FROZENSET":
            written[mark] = b"c__builtin__\nfrozenset\n("
            written.append(b"t\x85R")
        elif name == "ADDITEMS":
            # The empty set before the mark, maybe put into the memo, becomes a call with a list.
            place = mark - 1 if written[mark - 1] == pickle.EMPTY_SET else mark - 2
            if written[place] != pickle.EMPTY_SET:
                refuse("it fills a set in several steps")
            written[place:mark] = [b"c__builtin__\nset\n]"] + [b""] * (mark - place - 1)
            written.append(b"e\x85R")
        else:
            if name == "MARK":
                marks.append(len(written))
            written.append(data[places[index] : places[index + 1]])
    return b"".join(_text(each) if isinstance(each, str) else each for each in written)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded
