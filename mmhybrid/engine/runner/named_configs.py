"""The configs of this package by their names: in the wheel, or in the checkout."""

import difflib
from pathlib import Path

from mmhybrid.errors import UserError

PACKAGE = Path(__file__).resolve().parents[2]
FOLDERS = (PACKAGE / ".mim" / "configs", PACKAGE.parent / "configs")


def named_config(name: str) -> str | None:
    """The file of a config of this package: ``NAME``, ``NAME.py`` or ``configs/NAME.py``."""
    path = Path(name)
    if not _is_name(path):
        return None
    files = (folder / f"{path.stem}.py" for folder in FOLDERS)
    return next((str(file) for file in files if file.is_file()), None)


def _is_name(path: Path) -> bool:
    return path.suffix in ("", ".py") and str(path.parent) in (".", "configs")


def find_config(word: str) -> str:
    """A word of a command line; where it is the name of a config of this package, its file.

    Raises:
        UserError: There is nothing of this name, and a config of nearly this one.
    """
    path = Path(word)
    if path.is_file() or (path / "model.json").is_file():  # what is there, an export too
        return word
    if found := named_config(word):
        return found
    close = difflib.get_close_matches(path.stem, known_configs(), cutoff=0.8)
    if close and _is_name(path) and not path.exists():
        raise UserError(f"there is no config {word}; did you mean {' or '.join(close)}?")
    return word


def known_configs() -> list[str]:
    """The names of the configs of this package."""
    return sorted({file.stem for folder in FOLDERS for file in folder.glob("*.py")})


def config_path(name: str) -> str:
    """The file of a config: its path, or its name in this package.

    Raises:
        UserError: There is none.

    Example:
        >>> config_path("mask_rcnn_transxnet_t_coco").endswith("coco.py")
        True
    """
    if Path(name).is_file():
        return name
    if found := named_config(name):
        return found
    known = ", ".join(known_configs())
    raise UserError(f"there is no config {name}; those of this package: {known}")
