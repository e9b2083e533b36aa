"""An exported model in the place of an inferencer of mmdet, mmseg or mmpretrain."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from mmhybrid.deploy.predictor import Prediction, Predictor, PredictorError
from mmhybrid.errors import UserError

# By task, where the class is that draws what was found.
VISUALIZERS = {
    "detection": ("mmdet.visualization", "DetLocalVisualizer"),
    "instance_segmentation": ("mmdet.visualization", "DetLocalVisualizer"),
    "segmentation": ("mmseg.visualization", "SegLocalVisualizer"),
    "classification": ("mmpretrain.visualization", "UniversalVisualizer"),
}


def is_exported(name: str | Path) -> bool:
    """Whether this is a folder that ``tools/export.py`` wrote."""
    return Path(name, "model.json").is_file()


class DeployedInferencer:
    """A :class:`mmhybrid.deploy.Predictor`, called as OpenMMLab's inferencers are.

    Args:
        folder (str | Path): That ``tools/export.py`` wrote.

    Raises:
        UserError: The folder cannot be used, or is of a backbone alone.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            self.predictor = Predictor(folder)
        except PredictorError as error:
            raise UserError(str(error)) from error
        if self.predictor.task not in VISUALIZERS:
            raise UserError(f"{folder} holds a backbone, which gives feature maps alone")
        if not self.predictor.classes:
            raise UserError(f"{folder}/model.json names no classes")
        classes = tuple(self.predictor.classes)
        palette = [tuple(colour) for colour in self.predictor.palette]
        dataset_meta = dict(classes=classes, palette=palette)
        if ids := self.predictor.meta.get("category_ids"):
            dataset_meta["category_ids"] = ids
        # What tiles look at.
        meta, self.tile = self.predictor.meta, None
        nms = dict(iou_threshold=meta.get("iou_threshold") or 0.5)
        test_cfg = dict(nms=nms, crop_size=meta.get("window"))
        self.model = SimpleNamespace(dataset_meta=dataset_meta, test_cfg=test_cfg)
        module, name = VISUALIZERS[self.predictor.task]
        self.visualizer = getattr(importlib.import_module(module), name)()
        self.visualizer.dataset_meta = dataset_meta

    def __call__(self, images: list[np.ndarray], **options: Any) -> dict[str, list[Any]]:
        """Data samples of images (H, W, 3), BGR, uint8; options of inferencers change nothing."""
        images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        try:
            found = self.predictor(images, tile=self.tile)
        except PredictorError as error:
            raise UserError(str(error)) from error
        return dict(predictions=[sample_of(one) for one in found])


def sample_of(found: Prediction) -> Any:
    """A prediction as the data sample that a model of OpenMMLab gives."""
    if found.boxes is not None:
        parts = dict(bboxes=found.boxes, labels=found.labels, scores=found.scores)
        objects = InstanceData(**{key: torch.from_numpy(part) for key, part in parts.items()})
        if found.masks is not None:
            objects.masks = torch.from_numpy(found.masks)
        from mmdet.structures import DetDataSample

        return DetDataSample(pred_instances=objects)
    if found.label_map is not None:
        from mmseg.structures import SegDataSample

        label_map = torch.from_numpy(found.label_map.astype(np.int64))[None]
        return SegDataSample(pred_sem_seg=PixelData(data=label_map))
    from mmpretrain.structures import DataSample

    sample = DataSample().set_pred_score(torch.from_numpy(found.probabilities))
    return sample.set_pred_label(int(found.labels[0]))
