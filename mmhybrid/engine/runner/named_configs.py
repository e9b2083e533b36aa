"""The configs of this package by their names: in the wheel, or in the checkout."""

from pathlib import Path

from mmhybrid.errors import UserError

PACKAGE = Path(__file__).resolve().parents[2]
FOLDERS = (PACKAGE / ".mim" / "configs", PACKAGE.parent / "configs")


def named_config(name: str) -> str | None:
    """The file of a config of this package: ``NAME``, ``NAME.py`` or ``configs/NAME.py``."""
    path = Path(name)
    if path.suffix not in ("", ".py") or str(path.parent) not in (".", "configs"):
        return None
    files = (folder / f"{path.stem}.py" for folder in FOLDERS)
    return next((str(file) for file in files if file.is_file()), None)


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
    known = sorted({file.stem for folder in FOLDERS for file in folder.glob("*.py")})
    raise UserError(f"there is no config {name}; those of this package: {', '.join(known)}")
