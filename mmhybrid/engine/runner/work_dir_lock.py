"""One training at a time in a work folder.

Two would remove each other's checkpoints and both end well. The lock is the system's own (POSIX),
on a file in the folder: it is gone when the process is, however that ends, and the workers that a
process forks do not have it. Where there are no such locks, on Windows and some network file
systems, nothing is locked.
"""

import os
import socket
from pathlib import Path
from typing import BinaryIO

from mmhybrid.errors import UserError

LOCK = "run.lock"  # in the work folder; it stays there
_held: dict[str, tuple[int, BinaryIO]] = {}  # by folder: process and file


def lock_work_dir(work_dir: str | os.PathLike) -> None:
    """Takes a work folder for this process, unless it has it already. The folder is made.

    Raises:
        UserError: Another training runs in it.
    """
    try:
        import fcntl
    except ImportError:
        return
    folder = os.path.realpath(work_dir)
    if _held.get(folder, (0,))[0] == os.getpid():
        return
    file = None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder) / LOCK, "a+b")  # noqa: SIM115 (kept open while the run lasts)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
    except (BlockingIOError, PermissionError) as error:
        if file is None:
            return  # nothing can be written there, as will be told when something has to be
        file.seek(0)
        other = file.read(200).decode(errors="replace") or "another process"
        file.close()
        raise UserError(
            f"another run trains in {work_dir} ({other}): the two would remove each other's "
            "checkpoints. Name another folder with --work-dir, or wait until it has ended."
        ) from error
    except OSError:
        if file is not None:
            file.close()
        return
    _held[folder] = os.getpid(), file


def unlock_work_dir(work_dir: str | os.PathLike) -> None:
    """Gives it back, where this process has it."""
    process, file = _held.pop(os.path.realpath(work_dir), (0, None))
    if file is not None and process == os.getpid():
        file.close()
