"""Checkpoints by address."""

import datetime
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.reading import read_checkpoint
from mmhybrid.weights.writing import sha256_of


def load_url(
    url: str,
    model_dir: str | os.PathLike | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = True,
    file_name: str | None = None,
    sha256: str | None = None,
) -> Any:
    """Downloads a checkpoint, unless it is in the cache, and reads it.

    Args: As those of :func:`torch.hub.load_state_dict_from_url`, but for
        sha256: what the file's SHA-256 starts with, at least eight digits; the address may end in
            ``#sha256=...`` instead.
        check_hash: take it from a name such as ``name-0123abcd.pth`` where it is not given.
    """
    url, _, fragment = url.partition("#")
    if sha256 is None and fragment.startswith("sha256="):
        sha256 = fragment.removeprefix("sha256=")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise CheckpointError(
            f"sha256={sha256} of {url} is no SHA-256: 8 to 64 digits from 0 to f are expected"
        )
    folder = Path(model_dir or Path(torch.hub.get_dir()) / "checkpoints")
    path = folder / (file_name or os.path.basename(urlparse(url).path))
    if sha256 is None and check_hash:
        sha256 = hash_in_name(path.name)
    fetched = not path.exists()
    if fetched:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=progress)
        except OSError as error:
            raise CheckpointError(
                f"cannot download {url} ({error}). Download it elsewhere, in a browser say, and "
                f"put it at {path}; or name a file that you have with --cfg-options "
                "model.backbone.init_cfg.checkpoint=PATH; or start without pretrained weights "
                "with --cfg-options model.backbone.init_cfg=None"
            ) from error
    if sha256 is not None:
        try:
            check_sha256(path, sha256)
        except CheckpointError:
            if fetched:
                path.unlink()  # the next run must not take it from the cache
            raise
    return read_checkpoint(path, map_location)


def hash_in_name(name: str) -> str | None:
    """The start of the SHA-256 in a file's name, as OpenMMLab and torchvision write it."""
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if match is None:
        return None
    try:
        datetime.datetime.strptime(match[1], "%Y%m%d")  # a date looks the same
        return None
    except ValueError:
        return match[1]


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Compares a file with the start of its SHA-256."""
    with open(path, "rb") as file:
        digest = sha256_of(file, os.path.getsize(path))
    if not digest.startswith(expected.lower()):
        raise CheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {digest} and "
            f"should start with {expected}. Remove it and download it again."
        )
