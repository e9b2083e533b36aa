"""Reading a checkpoint without running what a hostile one asks for.

Read are PyTorch's files, of 1.6 and later (a zip) and before, and safetensors. PyTorch's restricted
reader makes the objects, from files whose checksums, sizes and pickles have been judged: the size
of the file bounds the memory, whatever the file declares.
"""

import io
import json
import os
import pickle
import struct
import threading
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from mmengine.logging import HistoryBuffer

from mmhybrid.weights.errors import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
    refuse,
)
from mmhybrid.weights.json_text import loads
from mmhybrid.weights.pickle_names import safe_globals
from mmhybrid.weights.pickle_protocols import as_protocol_2
from mmhybrid.weights.pickles import check_expanded, check_pickle
from mmhybrid.weights.writing import CHECKSUM_LENGTH, sha256_of, stored_checksum

# PyTorch's list of what is allowed belongs to the process, and so to all of its threads.
_one_at_a_time = threading.Lock()
LEGACY_MAGIC_NUMBER = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
TAR_MAGIC = 257  # the place of 'ustar' in the header of a tar
WHAT_WAS_SAVED = 3  # of the pickles of a file from before PyTorch 1.6


def read_checkpoint(source: str | os.PathLike | BinaryIO, map_location: Any = None) -> Any:
    """Reads a checkpoint.

    Args:
        source: path of a file, or a file that is open for reading bytes.
        map_location: as that of :func:`torch.load`; what was saved on a GPU goes to the CPU where
            there is none.

    Returns:
        What was saved: tensors, and containers and plain values around them, and objects of what
        the program has given to :func:`torch.serialization.add_safe_globals`. A configuration
        object is read as a dict, a deque as a list, a path as a str.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeCheckpointError: the file asks for more than weights and plain values.
        DamagedCheckpointError: the file is cut short or its bytes have changed, or it is no
            checkpoint.

    Example:
        >>> import pickle
        >>> import tempfile
        >>> from mmhybrid.weights import read_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     _ = file.write(pickle.dumps(print))  # what runs code when it is loaded
        ...     file.flush()
        ...     read_checkpoint(file.name)
        Traceback (most recent call last):
        mmhybrid.weights.errors.UnsafeCheckpointError: ...
    """
    if not isinstance(source, (str, os.PathLike)):
        return _read(source, str(getattr(source, "name", "the checkpoint")), map_location)
    path = Path(source).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with open(path, "rb") as file:
        return _read(file, str(path), map_location)


def read_outline(path: str | os.PathLike) -> Any:
    """A checkpoint without the bytes of its tensors, and without comparing its checksum."""
    with open(path, "rb") as file:
        return _read(file, str(path), "meta", compares=False)


def _read(file: BinaryIO, name: str, map_location: Any, compares: bool = True) -> Any:
    start = file.read(16)
    file.seek(0)
    told = _what_it_is(file, start)
    if start[8:9] == b"{" or (name.endswith(".safetensors") and not told):
        read = _read_safetensors
    elif start.startswith(b"PK"):
        read = partial(_read_zip, compares=compares)
    elif start.startswith(b"\x80"):
        read = _read_legacy
    else:
        told = told or "it is neither a file of torch.save nor safetensors"
        raise DamagedCheckpointError(f"{name} is no checkpoint: {told}")
    try:
        return read(file, name, map_location)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except CheckpointError as error:
        raise error if name in str(error) else type(error)(f"{name}: {error}") from None
    except Exception as error:
        # Whatever goes wrong on the way, the file is not what a checkpoint should be.
        raise DamagedCheckpointError(
            f"{name} is cut short or damaged ({type(error).__name__}: {error}). Copy or download "
            "it again, or take the checkpoint before it."
        ) from error


def _what_it_is(file: BinaryIO, start: bytes) -> str:
    """What is known not to be a checkpoint, and what to do; ``''`` for all else."""
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://"[: len(start)]):
        return "it is a pointer of Git LFS; run `git lfs pull`"
    if start.lstrip().startswith((b"<!", b"<html", b"<HTML")):
        return "it is a web page; the address does not lead to the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or _is_tar(file):
        return "it is an archive; unpack it and name the checkpoint inside"
    return ""


def _is_tar(file: BinaryIO) -> bool:
    file.seek(TAR_MAGIC)
    magic = file.read(5)
    file.seek(0)
    return magic == b"ustar"


def _load(file: BinaryIO, map_location: Any) -> Any:
    """PyTorch's restricted reader, on a file that has been checked."""
    if map_location is None and not torch.cuda.is_available():
        map_location = "cpu"
    # PyTorch's reader fills dicts alone: defaultdicts are made of them afterwards.
    defaults: dict[int, tuple[dict, Any]] = {}

    def make_default(factory: Any = None, *items: Any) -> dict:
        made = dict(*items)
        defaults[id(made)] = made, factory
        return made

    names = [*safe_globals(), (make_default, "collections.defaultdict")]
    statistics = dict(HistoryBuffer()._statistics_methods)  # the first one registers the usual ones
    file.seek(0)
    try:
        with _one_at_a_time, torch.serialization.safe_globals(names):
            loaded = torch.load(file, map_location, weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        # Its advice, which follows the reason, is not to be taken.
        refuse(str(error).strip().partition("WeightsUnpickler error: ")[2].partition("\n")[0])
    finally:
        # What is restored of a HistoryBuffer would replace the class's own functions.
        if HistoryBuffer._statistics_methods != statistics:
            HistoryBuffer._statistics_methods.clear()
            HistoryBuffer._statistics_methods.update(statistics)
    return _with_defaults(loaded, defaults, {}) if defaults else loaded


def _with_defaults(value: Any, defaults: Mapping[int, Any], done: dict[int, Any]) -> Any:
    """The same value with its defaultdicts, by the ids of the dicts that stand for them."""
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, dict):
        for key in value:
            value[key] = _with_defaults(value[key], defaults, done)
        if id(value) in defaults:
            result = defaultdict(defaults[id(value)][1], value)
    elif type(value) is list:
        value[:] = [_with_defaults(one, defaults, done) for one in value]
    elif type(value) is tuple:
        result = tuple(_with_defaults(one, defaults, done) for one in value)
    if isinstance(value, dict | list | tuple):
        done[id(value)] = result
    return result


# --- PyTorch 1.6 and later ------------------------------------------------------------------------


def _read_zip(file: BinaryIO, name: str, map_location: Any, compares: bool) -> Any:
    """A zip of ``data.pkl`` and one record a storage."""
    archive, records = _checked_zip(file, compares)
    pickles = [record for record in records if record.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise DamagedCheckpointError("it is a zip, but not one of torch.save")
    folder = pickles[0].removesuffix("data.pkl")

    stored: dict[str, int] = {}

    def check_storage(key: str, nbytes: int) -> None:
        record = records.get(f"{folder}data/{key}")
        if record is None or nbytes > record.file_size:
            held = "is not there" if record is None else f"has {record.file_size}"
            raise DamagedCheckpointError(f"storage {key[:80]} declares {nbytes} bytes and {held}")
        stored[key] = record.file_size

    # As PyTorch finds it, whose reader of zips is not Python's.
    file.seek(0)
    original = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    instructions = as_protocol_2(io.BytesIO(original))
    expanded = check_pickle(io.BytesIO(instructions), check_storage)
    check_expanded(expanded, sum(stored.values()))
    if instructions == original:
        return _load(file, map_location)
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w") as copy:
        for record in records:
            copy.writestr(record, instructions if record == pickles[0] else archive.read(record))
    return _load(rewritten, map_location)


def _checked_zip(
    file: BinaryIO, compares: bool
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Opens a zip whose bytes are those that were written, and that holds what it declares."""
    size = file.seek(0, os.SEEK_END)
    if _is_cut_in_its_comment(file):
        raise DamagedCheckpointError("its last bytes are missing. Copy it again.")
    archive = zipfile.ZipFile(file)
    records = {record.filename: record for record in archive.infolist()}
    # PyTorch ignores the case of names, and looks for the directory where the file says it is.
    names = {name.casefold() for name in records}
    if len(names) < len(archive.infolist()) or zipfile._EndRecData(file)[6] != archive.start_dir:
        raise UnsafeCheckpointError("it is a zip that can be read in two ways")
    if any(record.endswith("constants.pkl") for record in records):
        raise UnsafeCheckpointError(
            "it is a TorchScript program, not weights. Save the state_dict of its model instead."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
        raise UnsafeCheckpointError(
            "its records are compressed, as torch.save never does. If it is an archive around a "
            "checkpoint, unpack it first."
        )
    if sum(record.file_size for record in archive.infolist()) > size:
        raise UnsafeCheckpointError("it declares more bytes than it has")
    if not any(record.CRC for record in records.values()):
        # torch.serialization.set_crc32_options(False) leaves the checksums out.
        for record in records.values():
            record.CRC = None
    if compares:
        _check_bytes(file, archive, size)
    return archive, records


def _check_bytes(file: BinaryIO, archive: zipfile.ZipFile, size: int) -> None:
    """Compares the checksum of the file, or of its records, unless that has just been done."""
    if (identity := _identity(file)) in _verified:
        _verified.remove(identity)
        return
    checksum = stored_checksum(file)
    if checksum is not None and checksum != sha256_of(file, size - CHECKSUM_LENGTH):
        raise DamagedCheckpointError(
            "its bytes have changed since it was written: its SHA-256 is not the one it was saved "
            "with. Copy it again, or take the checkpoint before it."
        )
    if checksum is None and (damaged := archive.testzip()) is not None:
        raise DamagedCheckpointError(f"the bytes of its record {damaged} have changed")


_verified: set[tuple[str, int, int]] = set()


def mark_verified(path: str | os.PathLike) -> None:
    """Notes that the checksum of this file has been compared; it is not when it is read next."""
    with open(path, "rb") as file:
        _verified.add(_identity(file))


def _identity(file: BinaryIO) -> tuple[str, int, int] | None:
    """What changes when a file is written again; None of a file in memory."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError):
        return None
    return os.path.realpath(str(file.name)), status.st_size, status.st_mtime_ns


def _is_cut_in_its_comment(file: BinaryIO) -> bool:
    """Whether a zip has fewer bytes at its end than it says, which ``zipfile`` overlooks."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 22))
    end = file.read()
    record = end[end.rfind(b"PK\x05\x06") :]
    return len(record) < 22 or len(record) != 22 + struct.unpack("<H", record[20:22])[0]


# --- PyTorch before 1.6 ---------------------------------------------------------------------------


def _read_legacy(file: BinaryIO, name: str, map_location: Any) -> Any:
    """Five pickles (magic number, protocol, machine, what was saved, keys of storages), then the
    storages. Such files are old and small: this one is read into memory, which bounds what a
    pickle may ask to be read."""
    stream = io.BytesIO(file.read())
    instructions = []
    declared: dict[str, int] = {}
    expanded = 0
    for place in range(5):
        instructions.append(as_protocol_2(stream))
        note = declared.__setitem__ if place == WHAT_WAS_SAVED else None
        expanded += check_pickle(io.BytesIO(instructions[-1]), note)
        if instructions[0] != LEGACY_MAGIC_NUMBER:
            raise UnsafeCheckpointError(
                "it is a pickle, but not one of torch.save. Save it again with torch.save."
            )
    if sum(declared.values()) > len(stream.getbuffer()) - stream.tell():
        raise DamagedCheckpointError("its storages declare more bytes than the file has")
    check_expanded(expanded, sum(declared.values()))
    # uint16 and the like are saved as bytes under a name that PyTorch does not find in such files.
    instructions[WHAT_WAS_SAVED] = instructions[WHAT_WAS_SAVED].replace(
        b"ctorch.storage\nUntypedStorage\n", b"ctorch\nByteStorage\n"
    )
    return _load(io.BytesIO(b"".join([*instructions, stream.read()])), map_location)


# --- safetensors ----------------------------------------------------------------------------------


def _read_safetensors(file: BinaryIO, name: str, map_location: Any) -> dict[str, torch.Tensor]:
    """A header in JSON and the bytes; it cannot hold a program.

    The header of what :func:`mmhybrid.apis.publish` writes describes the model, as ``meta`` does.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(f"{name}: reading it needs `pip install safetensors`") from None
    try:
        content = file.read()
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DamagedCheckpointError(
            f"{name} is no whole safetensors file ({error}). Copy or download it again."
        ) from None
    if isinstance(map_location, (str, torch.device)):
        tensors = {key: tensor.to(map_location) for key, tensor in tensors.items()}
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = (header.get("__metadata__") or {}).get("mmhybrid")
    if text is None:
        return tensors
    described = loads(text)
    dataset_meta = dict(classes=described.get("classes"), palette=described.get("palette"))
    return dict(state_dict=tensors, meta=dict(mmhybrid=described, dataset_meta=dataset_meta))
