"""Reading a checkpoint without running what a hostile one asks for.

Read are PyTorch's files, of 1.6 and later (a zip) and before, and safetensors. ``torch.load`` is
not used: MMEngine's own checkpoints hold what ``weights_only=True`` refuses, and with
``weights_only=False`` a file can run any program. The size of the file bounds the memory, whatever
the file declares; the checksums of a zip, and that of our own files, are compared.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mmhybrid.weights.errors import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
)
from mmhybrid.weights.unpickling import WeightsUnpickler
from mmhybrid.weights.writing import CHECKSUM_LENGTH, sha256_of, stored_checksum

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
CHUNK = 2**24


def read_checkpoint(source: str | os.PathLike | BinaryIO, map_location: Any = None) -> Any:
    """Reads a checkpoint.

    Args:
        source: path of a file, or a file that is open for reading bytes.
        map_location: as that of :func:`torch.load`; what was saved on a GPU goes to the CPU where
            there is none.

    Returns:
        What was saved: tensors, and containers and plain values around them. A configuration
        object is read as a dict, a path as a str.

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
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://"[: len(start)]):
        return "it is a pointer of Git LFS; run `git lfs pull`"
    if start.lstrip().startswith((b"<!", b"<html", b"<HTML")):
        return "it is a web page; the address does not lead to the file itself"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or tarfile.is_tarfile(file):
        return "it is an archive; unpack it and name the checkpoint inside"
    return "it is neither a file of torch.save nor safetensors"


def _restore(map_location: Any, storage: torch.UntypedStorage, location: str) -> Any:
    """Moves a storage to where it belongs."""
    if map_location is None and location.startswith("cuda") and not torch.cuda.is_available():
        return storage
    return torch.serialization._get_restore_location(map_location)(storage, location)


def _fill(stream: BinaryIO, nbytes: int) -> torch.UntypedStorage:
    """Reads so many bytes into a new storage."""
    storage = torch.empty(nbytes, dtype=torch.uint8)
    view = memoryview(storage.numpy())
    done = 0
    while done < nbytes:
        count = stream.readinto(view[done : done + CHUNK])
        if not count:
            raise EOFError(f"{nbytes - done} of {nbytes} bytes are missing")
        done += count
    return storage.untyped_storage()


# --- PyTorch 1.6 and later ------------------------------------------------------------------------


def _read_zip(file: BinaryIO, name: str, map_location: Any) -> Any:
    """A zip of ``data.pkl`` and one record a storage. Nothing is unpacked to disk, so that names
    of records reach no path."""
    size = file.seek(0, os.SEEK_END)
    checksum = stored_checksum(file)
    if checksum is not None and checksum != sha256_of(file, size - CHECKSUM_LENGTH):
        raise DamagedCheckpointError(
            "its bytes have changed since it was written: its SHA-256 is not the one it was saved "
            "with. Copy it again, or take the checkpoint before it."
        )
    if _is_cut_in_its_comment(file):
        raise DamagedCheckpointError("its last bytes are missing. Copy it again.")
    file.seek(0)
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
    pickles = [record for record in records if record.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise DamagedCheckpointError("it is a zip, but not one of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if not any(record.CRC for record in records.values()):
        # torch.serialization.set_crc32_options(False) leaves the checksums out.
        for record in records.values():
            record.CRC = None
    byte_order = records.get(f"{folder}byteorder")
    if byte_order is not None and archive.read(byte_order).decode() != sys.byteorder:
        raise CheckpointError("it was saved on a machine with another byte order")

    storages: dict[str, torch.UntypedStorage] = {}

    def read_storage(
        dtype: torch.dtype, key: str, location: str, count: int
    ) -> torch.UntypedStorage:
        if key not in storages:
            record = records[f"{folder}data/{key}"]
            with archive.open(record) as stream:
                storage = _fill(stream, record.file_size)
                stream.read(1)  # at the end, the checksum is compared
            storages[key] = _restore(map_location, storage, location)
        if count * dtype.itemsize > storages[key].nbytes():
            raise DamagedCheckpointError(
                f"storage {key} declares {count * dtype.itemsize} bytes and has "
                f"{storages[key].nbytes()}"
            )
        return storages[key]

    return WeightsUnpickler(io.BytesIO(archive.read(pickles[0])), name, read_storage).load()


def _is_cut_in_its_comment(file: BinaryIO) -> bool:
    """Whether a zip has fewer bytes at its end than it says, which ``zipfile`` overlooks."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 22))
    end = file.read()
    record = end[end.rfind(b"PK\x05\x06") :]
    return len(record) < 22 or len(record) != 22 + struct.unpack("<H", record[20:22])[0]


# --- PyTorch before 1.6 ---------------------------------------------------------------------------


class _BoundedReader:
    """A file that is never asked for more bytes than it has: asking allocates them."""

    def __init__(self, file: BinaryIO) -> None:
        position = file.tell()
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.readline = file.readline
        file.seek(position)

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.file.tell()))


def _read_legacy(file: BinaryIO, name: str, map_location: Any) -> Any:
    """Five pickles (magic number, protocol, machine, what was saved, keys of storages), then the
    storages. What was saved is read twice: for the sizes of its storages, then with their bytes."""
    bounded = _BoundedReader(file)
    if WeightsUnpickler(bounded, name).load() != LEGACY_MAGIC_NUMBER:
        raise UnsafeCheckpointError(
            "it is a pickle, but not one of torch.save. Save it again with torch.save."
        )
    if WeightsUnpickler(bounded, name).load() != LEGACY_PROTOCOL:
        raise DamagedCheckpointError("its protocol is unknown")
    machine = WeightsUnpickler(bounded, name).load()
    if machine["little_endian"] != (sys.byteorder == "little"):
        raise CheckpointError("it was saved on a machine with another byte order")
    position = file.tell()
    declared: dict[str, tuple[torch.dtype, str, int]] = {}

    def note_storage(
        dtype: torch.dtype, key: str, location: str, count: int
    ) -> torch.UntypedStorage:
        declared[key] = (dtype, location, count)
        return torch.UntypedStorage(count * dtype.itemsize, device="meta")

    WeightsUnpickler(bounded, name, note_storage).load()
    keys = WeightsUnpickler(bounded, name).load()
    here = file.tell()
    available = file.seek(0, os.SEEK_END) - here
    file.seek(here)
    storages = {}
    for key in map(str, keys):
        dtype, location, count = declared[key]
        (stored,) = struct.unpack("<q", file.read(8))
        nbytes = stored * dtype.itemsize
        available -= nbytes + 8
        if stored != count or available < 0:
            raise DamagedCheckpointError(
                f"storage {key} declares {count * dtype.itemsize} bytes and has less"
            )
        storages[key] = _restore(map_location, _fill(file, nbytes), location)
    file.seek(position)
    return WeightsUnpickler(bounded, name, lambda dtype, key, *_: storages[key]).load()


# --- safetensors ----------------------------------------------------------------------------------


def _read_safetensors(file: BinaryIO, name: str, map_location: Any) -> dict[str, torch.Tensor]:
    """A header in JSON and the bytes; it cannot hold a program."""
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(f"{name}: reading it needs `pip install safetensors`") from None
    try:
        tensors = safetensors.torch.load(file.read())
    except safetensors.SafetensorError as error:
        raise DamagedCheckpointError(
            f"{name} is no whole safetensors file ({error}). Copy or download it again."
        ) from None
    if isinstance(map_location, (str, torch.device)):
        return {key: tensor.to(map_location) for key, tensor in tensors.items()}
    return tensors
