"""Writing a checkpoint so that it is there whole, or not at all.

A SHA-256 of all bytes stands at the end of the file, as the comment that a zip may have: PyTorch
still reads it, and :func:`mmhybrid.weights.read_checkpoint` compares it.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mmhybrid.weights.errors import CheckpointWriteError

UNFINISHED = ".part"  # ends the name of a file that is being written
CHECKSUM = b"sha256:"
CHECKSUM_LENGTH = len(CHECKSUM) + 64
CHUNK = 2**22


def write_checkpoint(value: Any, path: str | os.PathLike) -> None:
    """Saves a checkpoint as :func:`torch.save` does, durably and with a checksum.

    Raises:
        CheckpointWriteError: the disk is full, the folder may not be written to and the like. What
            was there before is still there.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from mmhybrid.weights import read_checkpoint, write_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(dict(state_dict=dict(weight=torch.ones(2))), f'{folder}/a.pth')
        ...     read_checkpoint(f'{folder}/a.pth')
        {'state_dict': {'weight': tensor([1., 1.])}}
    """
    try:
        with durable_file(path) as file:
            keeper = _ErrorKeeper(file)
            torch.save(value, keeper)
            if keeper.error is not None:
                raise keeper.error
            # The checksum is the comment of the zip, whose length stands in its last bytes.
            file.seek(-2, os.SEEK_END)
            file.write(struct.pack("<H", CHECKSUM_LENGTH))
            digest = sha256_of(file, file.seek(0, os.SEEK_END))
            file.seek(0, os.SEEK_END)
            file.write(CHECKSUM + digest.encode())
    except OSError as error:
        free = ""
        with suppress(OSError):
            disk = os.statvfs(Path(path).parent)
            free = f" ({disk.f_bavail * disk.f_frsize / 2**20:,.0f} MiB are free there)"
        raise CheckpointWriteError(
            f"cannot write {path}: {error.strerror or error}{free}"
        ) from error


@contextmanager
def durable_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file open for writing that takes its name when all of it is on the disk."""
    path = Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with open(unfinished, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    with suppress(OSError):  # not every file system can flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _ErrorKeeper:
    """Hands bytes on to a file, and keeps the error that PyTorch would turn into another."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)  # PyTorch's writer ends the program when it cannot finish its zip

    def flush(self) -> None:
        pass


def stored_checksum(file: BinaryIO) -> str | None:
    """The SHA-256 that a file of :func:`write_checkpoint` ends with, or None in other files."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - CHECKSUM_LENGTH))
    end = file.read()
    return end[len(CHECKSUM) :].decode("latin1") if end.startswith(CHECKSUM) else None


def sha256_of_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return sha256_of(file, os.path.getsize(path))


def sha256_of(file: BinaryIO, count: int) -> str:
    """The SHA-256 of the first ``count`` bytes of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while count > 0 and (chunk := file.read(min(CHUNK, count))):
        digest.update(chunk)
        count -= len(chunk)
    return digest.hexdigest()
