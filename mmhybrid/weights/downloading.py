"""Checkpoints by address: the catalogue's and all others that are downloaded."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log

from mmhybrid.weights.catalogue import SCHEME, get_weights, list_weights
from mmhybrid.weights.errors import CheckpointError, DamagedCheckpointError
from mmhybrid.weights.reading import read_checkpoint
from mmhybrid.weights.writing import sha256_of_file

DOWNLOADED = ("http://", "https://", SCHEME)
ASCII = "".join(map(chr, range(33, 127)))  # what `quote` leaves in an address as it is
# Parameters of an address that change with each request.
SIGNATURES = "(?:X-(?:Amz|Goog)-[^=&]*|AWSAccessKeyId|Key-Pair-Id|Signature|Expires|token|sig|se)"
# File names that say nothing of the model, as Hugging Face has them.
GENERIC = {"checkpoint", "model", "model_best", "model_final", "pytorch_model", "weights"}


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

    What cannot be read is not kept, and what lies damaged in the cache is downloaded anew.

    Args: As those of :func:`torch.hub.load_state_dict_from_url`, but for
        url: may be of the catalogue, ``mmhybrid://NAME``.
        sha256: what the file's SHA-256 starts with, at least eight digits; the address may end in
            ``#sha256=...`` instead.
        check_hash: take it from the catalogue, or from a name such as ``name-0123abcd.pth``, where
            it is not given. Digits alone may be a date or a step, and are not taken.

    Raises:
        CheckpointError: the file cannot be downloaded; the message says which, and where to put it.
        DamagedCheckpointError: what was downloaded is no whole checkpoint.
    """
    url, _, fragment = url.partition("#")
    if sha256 is None and fragment.startswith("sha256="):
        sha256 = fragment.removeprefix("sha256=")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise CheckpointError(
            f"sha256={sha256} of {url} is no SHA-256: 8 to 64 digits from 0 to f are expected"
        )
    entry = get_weights(url) if url.startswith(SCHEME) else None
    entry = entry or next((one for one in list_weights() if one.url == url), None)
    url = entry.url if entry else url
    folder = Path(model_dir or Path(torch.hub.get_dir()) / "checkpoints")
    path = folder / (file_name or cache_name(url, entry.name if entry else None))
    if sha256 is None and check_hash:
        sha256 = (entry and entry.sha256) or hash_in_name(file_name or file_of(url))

    def download(url: str, part: Path) -> None:
        show = progress and get_dist_info()[0] == 0
        torch.hub.download_url_to_file(quote(url, safe=ASCII), str(part), progress=show)

    def read(path: Path) -> Any:
        if sha256 is not None:
            check_sha256(path, sha256)
        return read_checkpoint(path, map_location)

    if path.exists():
        try:
            return read(path)
        except DamagedCheckpointError as error:
            print_log(f"{error} Downloading {url}.", "current", logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # PyTorch keeps what a server sent, be it half of the file or a proxy's page.
        with TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            part = Path(temporary) / path.name
            try:
                download(url, part)
            except HTTPError as error:
                if error.code != 404 or not (entry and entry.other_url):
                    raise
                download(entry.other_url, part)
            try:
                checkpoint = read(part)
            except CheckpointError as error:
                reason = str(error).replace(f"{part}: ", "").replace(str(part), "it")
                raise type(error)(f"what {url} sent is not kept: {reason}") from None
            part.replace(path)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"cannot download {url} ({error}): download it elsewhere, in a browser say, and "
            f"put it at {path}; or name a file that you have with --cfg-options "
            "model.backbone.init_cfg.checkpoint=PATH; or start without pretrained weights "
            "with --weights none or --cfg-options model.backbone.init_cfg=None"
        ) from error
    return checkpoint


def cache_name(url: str, name: str | None = None) -> str:
    """What a file is called in the cache, so that no two addresses share a place.

    Names of the catalogue's entries (``name``), and names with a hash, are the server's, unless
    such a name says nothing of the model; a digest of the address goes before all others.

    Example:
        >>> cache_name('https://example.com/v1.0/transx-t.pth.tar', 'transxnet_tiny.in1k')
        'transx-t.pth.tar'
        >>> cache_name('https://example.com/vit/model.safetensors', 'vit_tiny.in1k')
        'vit_tiny.in1k.safetensors'
        >>> cache_name('https://example.com/mine/model.safetensors')
        'abded40c5644165c-model.safetensors'
    """
    file = file_of(url)
    if name is None and hash_in_name(file) is None:
        lasting = re.sub(rf"(?<=[?&]){SIGNATURES}=[^&#]*&?", "", url, flags=re.IGNORECASE)
        digest = hashlib.sha256(lasting.rstrip("?&").encode()).hexdigest()
        return f"{digest[:16]}-{file or 'checkpoint'}"
    stem, dot, ending = file.partition(".")
    return f"{name}{dot}{ending}" if name and stem in GENERIC else file


def file_of(url: str) -> str:
    """The name of the file that an address ends in; empty where it ends in a slash."""
    return os.path.basename(urlparse(url).path)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Inside, the first process of a machine is ahead of the others, which find what it downloads.

    All processes of a run must come here.
    """
    rank, world_size = get_dist_info()
    first = int(os.environ.get("LOCAL_RANK", rank)) == 0
    if world_size > 1 and not first:
        barrier()
    try:
        yield
    finally:
        if world_size > 1 and first:
            barrier()


def hash_in_name(name: str) -> str | None:
    """The start of the SHA-256 in a file's name, as OpenMMLab and torchvision write it.

    Digits alone are none: a date, a time or an iteration looks the same.
    """
    match = re.search(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$", name)
    return match and match[1]


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Compares a file with the start of its SHA-256; DamagedCheckpointError where it differs."""
    digest = sha256_of_file(path)
    if not digest.startswith(expected.lower()):
        raise DamagedCheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {digest} and "
            f"should start with {expected}. Remove it and download it again."
        )
