"""What predicting writes: drawn images and videos, COCO's JSON, label maps, classes."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from PIL import Image

from mmhybrid.errors import UserError

TOP = 5  # classes that are kept of a classifier
# Of COCO's 80 categories.
COCO_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]

LONGEST = 2**16 - 1  # side of a JPEG
MASKS = 2**28  # pixels of masks that are drawn at once


def check_folder(folder: Path) -> None:
    """A UserError where nothing can be written to a folder, or it cannot be made; it is not."""
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    with _refusing(folder), tempfile.TemporaryFile(dir=there):
        pass


def make_folder(folder: Path) -> None:
    """Makes a folder, unless it is there; a UserError where nothing can be written to it."""
    check_folder(folder)
    with _refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def draw(
    inferencer: Any, image: np.ndarray, sample: Any, target: Path, score_threshold: float
) -> None:
    """Draws the data sample of an image (H, W, 3), BGR, uint8, by the library's own visualizer."""
    target.parent.mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(image[..., ::-1])  # visualizers take RGB; inferencers pass BGR
    options: dict[str, Any] = dict(draw_gt=False, out_file=str(target))
    if hasattr(sample, "pred_label"):
        if inferencer.visualizer is None:
            from mmpretrain.visualization import UniversalVisualizer

            inferencer.visualizer = UniversalVisualizer()
        height, width = image.shape[:2]
        factor = min(round(224 / min(height, width)), LONGEST // max(height, width))
        options["rescale_factor"] = max(1, factor)
        classes = inferencer.model.dataset_meta["classes"]
        inferencer.visualizer.visualize_cls(image, sample, classes, **options)
        return
    if "masks" in sample.get("pred_instances", ()) and "pred_panoptic_seg" not in sample:
        _draw_masks(inferencer.visualizer, image, sample, score_threshold, options)
        return
    is_map = hasattr(sample, "pred_sem_seg")
    options |= dict(with_labels=False) if is_map else dict(pred_score_thr=score_threshold)
    inferencer.visualizer.add_datasample("image", image, sample, **options)


def _draw_masks(
    visualizer: Any, image: np.ndarray, sample: Any, least: float, options: dict[str, Any]
) -> None:
    """Draws objects with masks, as many at a time as :data:`MASKS` allows."""
    found = sample.pred_instances
    found = found[found.scores > least].cpu()
    height, width = image.shape[:2]
    count = max(1, MASKS // (height * width))
    target = options.pop("out_file")
    for start in range(0, max(1, len(found)), count):
        part = found[start : start + count]
        if isinstance(part.masks, list):  # of tiles
            from pycocotools import mask

            masks = [mask.decode(code) for code in part.masks]
            part.masks = torch.tensor(np.array(masks)).reshape(-1, height, width)
        is_last = start + count >= len(found)
        options |= dict(pred_score_thr=least, out_file=target if is_last else None)
        visualizer.add_datasample("image", image, type(sample)(pred_instances=part), **options)
        image = visualizer.get_image()


def join_frames(path: Path, name: str, folder: Path, count: int) -> None:
    """Writes the drawn frames FOLDER/images/NAME of a video as a video, at its own speed."""
    target = folder / "videos" / f"{name}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)  # OpenCV is silent where it cannot write
    mmcv.frames2video(
        str(folder / "images" / name),
        str(target),
        fps=cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS),
        fourcc="mp4v",
        end=count,
        show_progress=False,
    )


class Results:
    """Writes label maps to a folder at once, and collects all else until :meth:`write`.

    Args:
        folder (Path): To write to.
        classes (list[str]): Names.
        category_ids (list[int], optional): Ids of the classes in COCO's format. Defaults to 1 and
            on.
    """

    def __init__(
        self, folder: Path, classes: list[str], category_ids: list[int] | None = None
    ) -> None:
        self.folder = folder
        self.classes = classes
        self.category_ids = category_ids or list(range(1, len(classes) + 1))
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.classified: list[dict] = []

    def add(self, path: str, name: str, image: np.ndarray, sample: Any) -> None:
        """Adds the data sample of an image, with the image's path and the name of its outputs."""
        if hasattr(sample, "pred_label"):
            scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
            names = dict(enumerate(self.classes))
            best = [
                dict(label=label, name=names.get(label, str(label)), score=round(score, 6))
                for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
            ]
            self.classified.append(dict(file=path, **best[0], best=best))
        elif hasattr(sample, "pred_sem_seg"):
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
            target = self.folder / "labels" / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(target)
        else:
            self._add_objects(path, image, sample)

    def _add_objects(self, path: str, image: np.ndarray, sample: Any) -> None:
        from pycocotools import mask

        height, width = image.shape[:2]
        image_id = len(self.images) + 1
        self.images.append(dict(id=image_id, file_name=path, height=height, width=width))
        found = sample.pred_instances.cpu().numpy()
        lists = (found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist())
        for index, (box, label, score) in enumerate(zip(*lists, strict=True)):
            left, top, right, bottom = (round(value, 2) for value in box)
            row = dict(
                id=len(self.annotations) + 1,
                image_id=image_id,
                category_id=self.category_ids[label],
                score=round(score, 6),
                bbox=[left, top, round(right - left, 2), round(bottom - top, 2)],
                area=round((right - left) * (bottom - top), 2),
                iscrowd=0,
            )
            if "masks" in found:
                code = found.masks[index]
                if not isinstance(code, dict):  # those of tiles are encoded
                    code = mask.encode(np.asfortranarray(code.astype(np.uint8)))
                row["area"] = int(mask.area(code))
                row["segmentation"] = dict(size=code["size"], counts=code["counts"].decode())
            self.annotations.append(row)

    def write(self) -> None:
        """Writes ``predictions.json``, unless label maps were all."""
        numbered = zip(self.category_ids, self.classes, strict=True)
        categories = [dict(id=id_, name=name) for id_, name in numbered]
        objects = dict(images=self.images, annotations=self.annotations, categories=categories)
        content: Any = objects if self.images else self.classified
        if content:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "predictions.json").write_text(json.dumps(content))
