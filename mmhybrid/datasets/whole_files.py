"""Writing a file whole or not at all, for other processes too."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under another name, and gives it its own; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{uuid.uuid4().hex}")
    new.write_bytes(content)
    os.replace(new, path)
