"""Reading a checkpoint without running what a hostile one asks for.

Read are PyTorch's files, of 1.6 and later (a zip) and before, and safetensors. The size of the file
bounds the memory, whatever the file declares.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mmhybrid.weights.errors import CheckpointError, DamagedCheckpointError, UnsafeCheckpointError
from mmhybrid.weights.pickles import Reader
from mmhybrid.weights.writing import CHECKSUM, CHECKSUM_LENGTH, sha256_of

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


def read_checkpoint(source: str | os.PathLike | BinaryIO, map_location: Any = None) -> Any:
    """Reads a checkpoint.

    Args:
        source: path of a file, or a file that is open for reading bytes.
        map_location: as that of :func:`torch.load`; by default the CPU where there is no GPU.

    Returns:
        What was saved: tensors, and containers and plain values around them. A configuration
        object and a defaultdict are read as a dict, a deque as a list, a path as a str.

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


def _read(file: BinaryIO, name: str, map_location: Any) -> Any:
    start = file.read(16)
    file.seek(0)
    if name.endswith(".safetensors") or start[8:9] == b"{":
        read = _read_safetensors
    elif start.startswith(b"PK"):
        read = _read_zip
    elif start.startswith(b"\x80"):
        read = _read_legacy
    else:
        raise DamagedCheckpointError(f"{name} is no checkpoint: {_what_it_is(file, start)}")
    if map_location is None and not torch.cuda.is_available():
        map_location = "cpu"
    try:
        if read is _read_safetensors:
            return _read_safetensors(file, map_location)
        try:
            return read(file, torch.serialization._get_restore_location(map_location))
        finally:  # the bytes of a sparse tensor may be read after it is made
            with torch.sparse.check_sparse_tensor_invariants():
                torch._utils._validate_loaded_sparse_tensors()
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
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://"[: len(start)]):
        return "it is a pointer of Git LFS; run `git lfs pull`"
    if start.lstrip().startswith((b"<!", b"<html", b"<HTML")):
        return "it is a web page; the address does not lead to the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or tarfile.is_tarfile(file):
        return "it is an archive; unpack it and name the checkpoint inside"
    return "it is neither a file of torch.save nor safetensors"


# Takes a storage to the device that a file names.
Restore = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def _storage(data: bytes) -> torch.UntypedStorage:
    return torch.UntypedStorage.from_buffer(data, byte_order="little", dtype=torch.uint8)


def _read_zip(file: BinaryIO, restore: Restore) -> Any:
    """A file of PyTorch 1.6 or later: a zip of ``data.pkl`` and one record a storage."""
    size = file.seek(0, os.SEEK_END)
    if _is_cut_in_its_comment(file, size):
        raise DamagedCheckpointError("its last bytes are missing. Copy it again.")
    archive = zipfile.ZipFile(file)
    records = {record.filename: record for record in archive.infolist()}
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
    pickles = [record for record in records if record.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        raise DamagedCheckpointError("it is a zip, but not one of torch.save")
    _check_bytes(file, size)
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    swapped = order in records and archive.read(order) != sys.byteorder.encode()
    storages: dict[str, torch.UntypedStorage] = {}

    def storage_of(key: str, dtype: torch.dtype, count: int, location: str) -> torch.UntypedStorage:
        record = records.get(f"{folder}data/{key}")
        if record is None or count * dtype.itemsize > record.file_size:
            held = "is not there" if record is None else f"has {record.file_size} bytes"
            raise DamagedCheckpointError(f"storage {key} declares {count} of {dtype} and {held}")
        if key not in storages:
            storage = _storage(archive.read(record))
            if swapped:
                storage.byteswap(dtype)
            storages[key] = restore(storage, location)
        return storages[key]

    return Reader(io.BytesIO(archive.read(pickles[0])), storage_of).load()


def _check_bytes(file: BinaryIO, size: int) -> None:
    """Compares the checksum of the file, if it has one, unless that has just been done."""
    if (identity := _identity(file)) in _verified:
        _verified.remove(identity)
        return
    file.seek(max(0, size - CHECKSUM_LENGTH))
    end = file.read()
    if end.startswith(CHECKSUM) and end != (
        CHECKSUM + sha256_of(file, size - CHECKSUM_LENGTH).encode()
    ):
        raise DamagedCheckpointError(
            "its bytes have changed since it was written: its SHA-256 is not the one it was saved "
            "with. Copy it again, or take the checkpoint before it."
        )


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


def _is_cut_in_its_comment(file: BinaryIO, size: int) -> bool:
    """Whether a zip has fewer bytes at its end than it says, which ``zipfile`` overlooks."""
    file.seek(max(0, size - 2**16 - 22))
    end = file.read()
    record = end[end.rfind(b"PK\x05\x06") :]
    return len(record) < 22 or len(record) != 22 + struct.unpack("<H", record[20:22])[0]


def _read_legacy(file: BinaryIO, restore: Restore) -> Any:
    """A file from before PyTorch 1.6: five pickles (magic number, protocol, machine, what was
    saved, keys of storages), then the storages. It is old and small, and read into memory."""
    stream = io.BytesIO(file.read())
    left = len(stream.getbuffer())
    storages: dict[str, tuple[torch.UntypedStorage, int, int]] = {}

    def storage_of(key: str, dtype: torch.dtype, count: int, location: str) -> torch.UntypedStorage:
        nonlocal left
        if key not in storages:
            nbytes = count * dtype.itemsize
            left -= nbytes
            if left < 0:
                raise DamagedCheckpointError("its storages declare more bytes than the file has")
            storages[key] = restore(torch.UntypedStorage(nbytes), location), count, nbytes
        return storages[key][0]

    if Reader(stream).load() != LEGACY_MAGIC_NUMBER:
        raise UnsafeCheckpointError(
            "it is a pickle, but not one of torch.save. Save it again with torch.save."
        )
    _, _, saved, keys = (Reader(stream, storage_of).load() for _ in range(4))
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise DamagedCheckpointError("it lists other storages than it uses")
    for key in keys:
        storage, count, nbytes = storages[key]
        data = stream.read(8 + nbytes)
        if len(data) < 8 + nbytes or struct.unpack("<q", data[:8])[0] != count:
            raise DamagedCheckpointError(f"its storage {key} is cut short")
        storage.copy_(_storage(data[8:]))
    return saved


def _read_safetensors(file: BinaryIO, map_location: Any) -> dict[str, torch.Tensor]:
    """A header in JSON and the bytes; it cannot hold a program."""
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError("reading it needs `pip install safetensors`") from None
    tensors = safetensors.torch.load(file.read())
    if isinstance(map_location, (str, torch.device)):
        return {key: tensor.to(map_location) for key, tensor in tensors.items()}
    return tensors
