"""What a pickle asks for, found out without running it.

``torch.load(weights_only=True)`` looks at names alone. It calls an allowed function with any
argument (``bytearray(2**44)``), and takes the size of a storage from the pickle although the record
has less. Here the instructions are followed with labels in place of objects, and every call, change
of an object and declared size is judged before PyTorch sees the file. So is what a few bytes unfold
to: a list of a list twice, forty times over, takes a hundred bytes to write and for ever to print.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mmhybrid.weights.errors import refuse
from mmhybrid.weights.pickle_names import (
    CALLED,
    CONFIGS,
    HISTORY,
    NAMED,
    STORAGE_BYTES,
    safe_globals,
)
from mmhybrid.weights.pickle_protocols import instructions

MOST_NESTED = 100  # containers in each other
MOST_NESTED_TUPLES = 50  # as keys, Python's own hash would crash
MOST_ODD_KEYS = 1000  # whose hashes a file can choose so that looking one up tries all
# What a few bytes may unfold to, where shared parts are counted wherever they are: so many bytes,
# and so many times those that there are.
UNFOLDED, TIMES_UNFOLDED = 2**20, 64
EXPANDED, TIMES_EXPANDED = 2**26, 64  # the same of the elements of tensors and their storages
MOST_DIMENSIONS = 64
TENSOR_MAKERS = ("torch._", "torch.serialization.", "numpy.")
STRIDED_TENSORS = {
    f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
}
HASHING = {  # what is called with what it hashes
    *(f"collections.{name}" for name in ("OrderedDict", "Counter", "defaultdict")),
    *("builtins.set", "builtins.frozenset", *CONFIGS),
}
CHANGED = {"collections.OrderedDict", "argparse.Namespace", HISTORY, *CONFIGS}
PUSHES = {  # no more than the value that they hold
    "STOP", "PROTO", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_SET",
}  # fmt: skip


class Name(str):
    """A function or class that a pickle has named."""

    __slots__ = ()


class Made(str):
    """An object, by what made it, and what it holds."""

    def __new__(cls, label: str, *items: Any) -> "Made":
        made = super().__new__(cls, label)
        made.items = list(items)
        return made


class Nest(tuple):
    """A tuple that knows how deep its tuples are nested, and how many they are, unfolded."""

    depth = count = 1


def check_pickle(stream: io.BytesIO, note_storage: Callable[[str, int], None] | None = None) -> int:
    """Raises UnsafeCheckpointError unless a pickle of protocol 2 holds weights and plain values.

    Names that the program has given to :func:`torch.serialization.add_safe_globals` are allowed.

    Args:
        stream: open at the pickle; left behind its end.
        note_storage: called with the key and the number of bytes of each storage that it declares.

    Returns:
        The bytes that its tensors have, those that share or repeat elements in full.
    """
    most = UNFOLDED + TIMES_UNFOLDED * len(stream.getbuffer())
    trusted = _names_of_the_program()
    # As in PyTorch's reader: a mark begins a stack of its own.
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    nodes: list[Made | Nest] = []
    odd_keys = expanded = 0
    for opcode, value, _ in instructions(stream):
        name = opcode.name
        keys: Iterable[Any] = ()
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "GLOBAL":
            stack.append(_named(value, trusted))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_nest(stack[-count:], most)]
            nodes.append(stack[-1])
        elif name == "TUPLE":
            items, stack = stack, below.pop()
            stack.append(_nest(items, most))
            nodes.append(stack[-1])
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            function = stack.pop()
            if function not in trusted:
                _check_call(function, arguments)
            expanded += _size_of_tensor(function, arguments)
            keys = _keys_of_call(function, arguments)
            # What a dtype is decides what may be changed about it.
            code = f" {arguments[0]}" if function == "numpy.dtype" else ""
            stack.append(Made(function + code, arguments))
            nodes.append(stack[-1])
        elif name == "BUILD":
            state = stack.pop()
            if stack[-1] not in trusted or type(stack[-1]) is not Made:
                _check_change(stack[-1], state)
            if state is not stack[-1]:  # addict's are their own state
                stack[-1].items.append(state)
        elif name == "BINPERSID":
            if note_storage is None:
                refuse("it asks for a storage where there is none")
            key, nbytes, itemsize = _storage_of(stack.pop())
            note_storage(key, nbytes)
            stack.append(Made("storage", itemsize))
        elif name in ("APPENDS", "SETITEMS", "APPEND", "SETITEM"):
            if name.endswith("S"):
                items, stack = stack, below.pop()
            else:
                count = len(opcode.stack_before) - 1
                items = stack[-count:]
                del stack[-count:]
            if type(stack[-1]) is not Made:
                refuse(f"it fills {_describe(stack[-1])}")
            keys = items[::2] if name.startswith("SET") else ()
            stack[-1].items += items
        elif name in PUSHES:
            stack += [_label(name, value, result) for result in opcode.stack_after]
            nodes += [stack[-1]] if stack and type(stack[-1]) is Made else []
        else:
            refuse(f"it uses {name}, an instruction of pickle")
        odd_keys += sum(map(_is_odd, keys))
        if odd_keys > MOST_ODD_KEYS:
            refuse(f"it holds more than {MOST_ODD_KEYS} keys that are neither text nor numbers")
    _check_unfolded(nodes, most)
    return expanded


def _names_of_the_program() -> set[str]:
    """What it has told PyTorch to allow, and is not judged here anyway.

    Another thread may be reading a file at this moment, with what is allowed for that.
    """
    given = torch.serialization.get_safe_globals()
    pairs = (one if isinstance(one, tuple) else (one, None) for one in given)
    names = {name or f"{one.__module__}.{one.__qualname__}" for one, name in pairs}
    return names - CALLED - NAMED - {name for _, name in safe_globals()}


def _check_unfolded(nodes: Sequence[Made | Nest], most: int) -> None:
    """Refuses what holds itself, is nested deeply, or is large where shared parts are unfolded."""
    being_measured = (0, 0)
    measured: dict[int, tuple[int, int]] = {}  # size and depth
    waiting = list(nodes)
    while waiting:
        node = waiting[-1]
        parts = [one for one in _items(node) if isinstance(one, Made | Nest)]
        state = measured.get(id(node))
        if state is None:
            measured[id(node)] = being_measured
            for part in parts:
                if measured.get(id(part)) is being_measured:
                    refuse("it holds an object that holds itself")
                if id(part) not in measured:
                    waiting.append(part)
            continue
        waiting.pop()
        if state is not being_measured:
            continue
        sizes = [measured[id(part)] for part in parts]
        depth = 1 + max((depth for _, depth in sizes), default=0)
        size = 1 + sum(size for size, _ in sizes)
        size += sum(_size(one) for one in _items(node) if not isinstance(one, Made | Nest))
        if depth > MOST_NESTED:
            refuse(f"it nests more than {MOST_NESTED} containers")
        if size > most:
            refuse("it repeats its parts until they are far more than the file")
        measured[id(node)] = size, depth


def _items(node: Made | Nest) -> Sequence[Any]:
    return node.items if type(node) is Made else node


def _size(label: Any) -> int:
    """About the bytes of a plain value."""
    if type(label) is int:
        return 1 + label.bit_length() // 8
    return 1 + len(label) if type(label) in (str, bytes) else 1


def _is_odd(key: Any) -> bool:
    """Whether it is a key of which many may have one hash: that of text is seeded."""
    if type(key) is int:
        return abs(key) >= 2**60
    return key is not None and type(key) not in (str, bool, Name)


def _keys_of_call(function: str, arguments: Any) -> Iterator[Any]:
    """What a call for a container has to hash."""
    if function not in HASHING or not isinstance(arguments, tuple):
        return
    for argument in arguments:
        for item in _items(argument) if type(argument) in (Made, Nest) else ():
            yield item
            if type(item) in (Made, Nest) and _items(item):
                yield _items(item)[0]  # of pairs


def _size_of_tensor(function: str, arguments: Any) -> int:
    """The bytes that a tensor has whose elements are all in their own place."""
    if function == "torch._tensor._rebuild_from_type_v2":
        return _size_of_tensor(arguments[0], arguments[2])
    if function not in STRIDED_TENSORS:
        return 0
    storage, _, size, *_ = arguments
    plain = isinstance(size, tuple) and all(type(one) is int and one >= 0 for one in size)
    if storage != "storage" or type(storage) is not Made or not plain:
        refuse("it makes an unusual tensor")
    if len(size) > MOST_DIMENSIONS:
        refuse(f"it makes a tensor of more than {MOST_DIMENSIONS} dimensions")
    return math.prod(size) * storage.items[0]


def check_expanded(expanded: int, stored: int) -> None:
    """Refuses tensors that repeat what few bytes hold, as ``torch.ones(1).expand(2**40)`` does."""
    if expanded > EXPANDED + TIMES_EXPANDED * stored:
        refuse(f"its tensors have {expanded} bytes of which it holds {stored}")


def _nest(items: list[Any], most: int) -> Nest:
    nest = Nest(items)
    inner = [item for item in items if type(item) is Nest]
    nest.depth += max((item.depth for item in inner), default=0)
    nest.count += len(items) + sum(item.count for item in inner)
    if nest.depth > MOST_NESTED_TUPLES or nest.count > most:
        refuse("it nests tuples without end")
    return nest


def _label(opcode: str, value: Any, result: pickletools.StackObject) -> Any:
    constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    if opcode in constants:
        return constants[opcode]
    return Made(result.name) if value is None else value


def _named(value: str, trusted: set[str]) -> Name:
    module, _, name = value.partition(" ")
    full = f"{module.replace('__builtin__', 'builtins')}.{name}"
    if full not in CALLED and full not in NAMED and full not in trusted:
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
        if type(inner) is not Name or not inner.startswith("torch._utils._rebuild_"):
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


def _storage_of(pid: Any) -> tuple[str, int, int]:
    """The key and the bytes of a storage and of its elements, from how PyTorch names it."""
    if isinstance(pid, tuple) and len(pid) in (5, 6):
        tag, kind, key, location, count, *view = pid
        if (
            type(kind) is Name
            and (tag, *view) in (("storage",), ("storage", None))
            and kind in STORAGE_BYTES
            and type(key) is type(location) is str
            and type(count) is int
            and count >= 0
        ):
            # The elements of an untyped storage may be of any type.
            itemsize = 8 if "Untyped" in kind else STORAGE_BYTES[kind]
            return key, count * STORAGE_BYTES[kind], itemsize
    refuse("it asks for a storage in another way than torch.save does")
