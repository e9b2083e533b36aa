"""Image files as an exported graph takes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import nn

from mmhybrid.apis.inputs import read_rgb
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.deploy.model_json import MEAN, STD
from mmhybrid.deploy.onnx_outputs import takes_bgr
from mmhybrid.registry import type_name


@dataclass
class GraphInputs:
    """Images as (batch, 3, H, W), prepared as in the tests of a model; read when they are used.

    Args:
        paths (Sequence[Path]): Files.
        model (nn.Module): A whole model; for a backbone the images are normalised too.
        cfg (Config, optional): Whose test pipeline resizes them. Defaults to none: a backbone gets
            224x224, a whole model the image as it is, unless ``size`` says otherwise.
        size (tuple[int, int], optional): Height and width, where the graph takes no other.
        batch (int): How often each is repeated, for a graph that takes so many.
        uint8 (bool): Bytes, not float32.
    """

    paths: Sequence[Path]
    model: nn.Module
    cfg: Config | None = None
    size: tuple[int, int] | None = None
    batch: int = 1
    uint8: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.read, self.paths)

    def read(self, path: Path) -> np.ndarray:
        """One file; UserError where it is no image."""
        given = getattr(self.model, "data_preprocessor", None)
        image = _through_pipeline(path, self.cfg) if self.cfg else read_rgb(path)
        size = self.size or ((224, 224) if given is None else image.shape[:2])
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1])
        if given is None:
            image = (image - np.float32(MEAN)) / np.float32(STD)
        image = image.astype(np.uint8 if self.uint8 else np.float32)
        if not self.size and (divisor := getattr(given, "pad_size_divisor", 1)) > 1:
            below, right = (-side % divisor for side in image.shape[:2])
            # Padded after normalising there, before it here.
            value = (given.mean + given.pad_value * given.std).flatten().tolist()
            value = value[::-1] if takes_bgr(self.model, self.cfg) else value
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)
        return np.repeat(image.transpose(2, 0, 1)[None], self.batch, axis=0)


def _through_pipeline(path: Path, cfg: Config) -> np.ndarray:
    """An image (H, W, 3), RGB, after the test pipeline of a config."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    steps = [step for step in dataset["pipeline"] if type_name(step) != "LoadAnnotations"]
    reads = any(type_name(step) == "LoadImageFromFile" for step in steps)
    image = read_rgb(path)
    about: dict[str, Any] = dict(img_path=str(path), img_id=0, img=image)
    about |= dict(img_shape=image.shape[:2], ori_shape=image.shape[:2], reduce_zero_label=False)
    packed = Compose(steps)(about)["inputs"]
    packed = packed if isinstance(packed, torch.Tensor) else torch.as_tensor(packed)
    image = packed.permute(1, 2, 0).numpy()
    return image[..., ::-1] if reads else image  # files are read as BGR
