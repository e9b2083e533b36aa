"""Hue jitter under NumPy 2.

``mmcv.adjust_hue`` shifts hues by ``np.uint8(shift)``. NumPy 2 raises ``OverflowError`` where the
shift is negative, so that every second image of mmpretrain's ``ColorJitter`` with hue fails
(https://github.com/VBTI-development/onedl-mmcv/pull/41). Negative shifts are taken modulo 256
instead, which is what NumPy 1 did.
"""

import functools
import sys
from types import ModuleType

import numpy as np

from mmhybrid.import_hooks import add_import_hook


def _patch(photometric: ModuleType) -> None:
    adjust_hue = photometric.adjust_hue
    try:
        adjust_hue(np.zeros((2, 2, 3), np.uint8), -0.1)
        return
    except OverflowError:
        pass

    @functools.wraps(adjust_hue)
    def adjust_hue_modulo(
        img: np.ndarray, hue_factor: float, backend: str | None = None
    ) -> np.ndarray:
        try:
            return adjust_hue(img, hue_factor, backend)
        except OverflowError:
            return _shift_hue(img, int(hue_factor * 255) % 256, backend or "cv2")

    for name in ("mmcv.image.photometric", "mmcv.image", "mmcv"):
        module = sys.modules.get(name)
        if getattr(module, "adjust_hue", None) is adjust_hue:
            module.adjust_hue = adjust_hue_modulo


def _shift_hue(img: np.ndarray, shift: int, backend: str) -> np.ndarray:
    """Adds ``shift``, of a circle of 256, to the hue of a BGR image (H, W, 3)."""
    if backend == "pillow":
        from PIL import Image

        hsv = np.array(Image.fromarray(np.ascontiguousarray(img[..., ::-1])).convert("HSV"))
        hsv[..., 0] += np.uint8(shift)
        return np.array(Image.fromarray(hsv, "HSV").convert("RGB"), dtype=img.dtype)[..., ::-1]
    import cv2

    hsv = cv2.cvtColor(img.astype(np.uint8), cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(shift)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL).astype(img.dtype)


def apply() -> None:
    """Repairs mmcv's hue jitter when mmcv is imported."""
    add_import_hook("mmcv.image.photometric", _patch)
