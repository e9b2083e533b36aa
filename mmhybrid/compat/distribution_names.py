"""mmsegmentation under the name of its maintained fork.

MMEngine looks for the configs of ``mmseg::`` in the distribution ``mmsegmentation`` and says that
it is not installed where the fork ``onedl-mmsegmentation`` is, which installs the same modules.
``mmdet`` and ``mmpretrain`` are found, because there MMEngine falls back to the module's name
(https://github.com/VBTI-development/onedl-mmengine, :data:`mmengine.config.utils.MODULE2PACKAGE`).
"""

from importlib.metadata import distributions

from mmengine.config.utils import MODULE2PACKAGE


def apply() -> None:
    """Points ``mmseg::`` at the fork where only the fork is installed."""
    if is_installed("mmsegmentation") or not is_installed("onedl-mmsegmentation"):
        return
    MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"


def is_installed(name: str) -> bool:
    """Whether a distribution of that name is installed."""
    return any(distributions(name=name))
