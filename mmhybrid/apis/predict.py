"""Predicting on images and videos with OpenMMLab's own inferencers and visualizers."""

from __future__ import annotations

import glob
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader
from mmengine.utils import ProgressBar
from PIL import Image

from mmhybrid.datasets.data_paths import classes_of, datasets_of
from mmhybrid.deploy.fuse import fuse
from mmhybrid.engine.runner.check_config import check_model
from mmhybrid.engine.runner.run_config import UserError, without_pretrained
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights import CheckpointError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
TOP = 5  # classes that are kept of a classifier


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        done: images and frames that were predicted on.
        unreadable: what could not be read, and why.
    """

    done: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def make_inferencer(
    cfg: Config, checkpoint: str, *, device: str | None = None, fused: bool = False
) -> Any:
    """The inferencer of mmdet, mmseg or mmpretrain that a config asks for.

    Args:
        cfg: of a detector, segmentor or classifier.
        checkpoint: file or address of the weights.
        device: such as ``'cuda:0'``; the GPU, if there is one, by default.
        fused: fuse the model, see :func:`mmhybrid.deploy.fuse`.

    Raises:
        UserError: the config is of another package, its model is wrong, or the weights do not fit.
    """
    scope = cfg.get("default_scope")
    cfg = without_pretrained(cfg)
    check_model(cfg)
    # They warn that they take the classes of COCO or Cityscapes; below, those of the config follow.
    warnings.filterwarnings("ignore", message="dataset_meta or class names are not saved")
    warnings.filterwarnings("ignore", message="Failed to add .*vis_backend")
    try:
        if scope == "mmdet":
            from mmdet.apis import DetInferencer

            inferencer = DetInferencer(cfg, checkpoint, device, show_progress=False)
        elif scope == "mmseg":
            from mmseg.apis import MMSegInferencer

            inferencer = MMSegInferencer(cfg, checkpoint, device=device)
            inferencer.show_progress = False
        elif scope == "mmpretrain":
            from mmpretrain.apis import ImageClassificationInferencer

            inferencer = ImageClassificationInferencer(cfg, checkpoint, device)
        else:
            raise UserError(f"predicting needs a config of mmdet, mmseg or mmpretrain, not {scope}")
    except (CheckpointError, OSError) as error:
        raise UserError(str(error)) from error
    inferencer.model = revert_sync_batchnorm(inferencer.model).eval()
    if fused:
        inferencer.model = fuse(inferencer.model)
    meta = _dataset_meta(cfg, checkpoint)
    inferencer.model.dataset_meta = meta
    if scope == "mmdet":
        inferencer.visualizer.dataset_meta = meta
    elif scope == "mmseg":
        inferencer.visualizer.set_dataset_meta(meta["classes"], meta.get("palette"))
    return inferencer


def _dataset_meta(cfg: Config, checkpoint: str) -> dict[str, Any]:
    """Classes and colours that the checkpoint names, or else of the data set of the config."""
    saved = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu").get("meta") or {}
    trained_on = saved.get("dataset_meta") or {}
    if trained_on.get("classes"):
        return dict(classes=trained_on["classes"], palette=trained_on.get("palette"))
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    classes = classes_of(dataset, cfg.default_scope)
    given = dataset.get("metainfo") or {}
    kind = type_of(dataset, DATASETS, cfg.default_scope)
    colours = getattr(kind, "METAINFO", {}).get("palette")
    palette = given.get("palette") or (None if "classes" in given else colours)
    return dict(classes=classes, palette=palette)


def find_inputs(names: Iterable[str]) -> list[tuple[Path, str]]:
    """Expands folders and patterns.

    Args:
        names: files, folders (of which every file is taken, whatever it is) and patterns such as
            ``'images/**/*.jpg'``.

    Returns:
        Each file, and a name for what is made of it, no two alike.

    Raises:
        UserError: nothing is found for a name.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).is_file())
        if not found:
            raise UserError(f"there is no image {name}")
        files += found
    files = list(dict.fromkeys(files))
    stems = [path.stem for path in files]
    return [
        (path, path.stem if stems.count(path.stem) == 1 else f"{index:04d}_{path.name}")
        for index, path in enumerate(files)
    ]


def read_image(path: Path) -> np.ndarray:
    """An image (H, W, 3), BGR, uint8, as OpenMMLab's pipelines read it.

    Raises:
        OSError, ValueError: it is no image, or is cut short.
    """
    content = path.read_bytes()
    # OpenCV fills with grey what is missing of a JPEG; Pillow says that it is.
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
    image = mmcv.imfrombytes(content)
    if image is None:
        raise ValueError("OpenCV cannot read it")
    return image


def read_rgb(name: str | Path) -> np.ndarray:
    """The same image as (H, W, 3), RGB, for a command line that names one.

    Raises:
        UserError: it is no image, or is cut short.
    """
    try:
        return read_image(Path(name))[..., ::-1].copy()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {error}") from error


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, as :func:`read_image` gives images.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    video = cv2.VideoCapture(str(path))
    good, frame = video.read()
    if not good:
        raise ValueError("OpenCV cannot read this video")
    while good:
        yield frame
        good, frame = video.read()
    video.release()


def read_all(
    files: Iterable[tuple[Path, str]], outcome: Outcome, report: Callable[[str], None]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (path, name, image) of every image and frame; what cannot be read is reported.

    A frame's name is that of its video, as a folder, and its number.
    """
    for path, name in files:
        try:
            if path.suffix.lower() in VIDEOS:
                for index, frame in enumerate(read_frames(path)):
                    yield f"{path}#{index}", f"{name}/{index:06d}", frame
            else:
                yield str(path), name, read_image(path)
        except (OSError, ValueError, cv2.error, Image.DecompressionBombError) as error:
            reason = str(error).replace(repr(path), "").strip() or type(error).__name__
            outcome.unreadable[str(path)] = reason
            report(f"cannot read {path}: {reason}")


def predict(
    inferencer: Any,
    names: Iterable[str],
    folder: Path,
    *,
    batch_size: int = 1,
    score_threshold: float = 0.3,
    images: bool = True,
    results: bool = True,
    report: Callable[[str], None] = print,
) -> Outcome:
    """Predicts on all inputs and writes what comes out.

    ``FOLDER/images`` gets the drawn images, and a folder with the frames of each video, which
    ``FOLDER/videos`` gets as a video. Boxes and masks go to ``FOLDER/predictions.json`` in COCO's
    format, with a ``score`` each; the ``category_id`` of a class is its label + 1. Label maps go to
    ``FOLDER/labels``, one PNG an image or frame. Classes go to ``FOLDER/predictions.json``, the
    five best of each image.

    Args:
        inferencer: from :func:`make_inferencer`.
        names: see :func:`find_inputs`.
        folder: to write to.
        batch_size: images at a time.
        score_threshold: least score of what is drawn; all is written.
        images: draw images.
        results: write results.
        report: told of what cannot be read.

    Returns:
        How many were done, and what could not be read.

    Raises:
        UserError: there is no such input.
    """
    files = find_inputs(names)
    outcome = Outcome()
    collected = _Collected(list(inferencer.model.dataset_meta["classes"]))
    bar = ProgressBar(len(files))
    bar.start()
    images_of: Counter[str] = Counter()  # of an input: 1, or as many as a video has frames
    stream = read_all(files, outcome, lambda text: report(f"\n{text}"))
    while batch := list(islice(stream, batch_size)):
        samples = _samples(inferencer, [image for _, _, image in batch])
        for (path, name, image), sample in zip(batch, samples, strict=True):
            if results:
                collected.add(path, name, image, sample, folder)
            if images:
                target = folder / "images" / f"{name}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                _draw(inferencer, image, sample, str(target), score_threshold, collected.classes)
            outcome.done += 1
            source = name.partition("/")[0]
            images_of[source] += 1
            if images_of[source] == 1:
                bar.update()
    print(flush=True)
    if images:
        for path, name in files:
            if path.suffix.lower() in VIDEOS and images_of[name]:
                _join_frames(path, name, folder, images_of[name])
    if results:
        collected.write(folder)
    return outcome


def _join_frames(path: Path, name: str, folder: Path, count: int) -> None:
    """Makes the drawn frames of a video one again, at its own speed."""
    (folder / "videos").mkdir(exist_ok=True)  # OpenCV is silent where it cannot write
    mmcv.frames2video(
        str(folder / "images" / name),
        str(folder / "videos" / f"{name}.mp4"),
        fps=cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS),
        fourcc="mp4v",
        end=count,
        show_progress=False,
    )


def _samples(inferencer: Any, images: list[np.ndarray]) -> list[Any]:
    """One data sample an image; the three inferencers return them in three ways."""
    if hasattr(inferencer, "config"):  # mmpretrain's, whose call shows a bar for every batch
        if _takes_rgb(inferencer.config):
            images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        batches = inferencer.preprocess(images, len(images))
        return [sample for batch in batches for sample in inferencer.forward(batch)]
    if not hasattr(inferencer.model, "decode_head"):
        return inferencer(images, batch_size=len(images), return_datasamples=True)["predictions"]
    samples = []
    for _, alike in groupby(images, np.shape):  # all that mmsegmentation takes as a batch
        alike = list(alike)
        found = inferencer(alike, batch_size=len(alike), return_datasamples=True)
        samples += found if isinstance(found, list) else [found]
    return samples


def _takes_rgb(cfg: Config) -> bool:
    """Whether images come from the data set as RGB, and not from files, which are BGR."""
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    return not any(type_name(step) == "LoadImageFromFile" for step in dataset.pipeline)


def _draw(
    inferencer: Any,
    image: np.ndarray,
    sample: Any,
    target: str,
    score_threshold: float,
    classes: list[str],
) -> None:
    """Draws by the library's own visualizer, which takes RGB; inferencers hand it BGR."""
    rgb = np.ascontiguousarray(image[..., ::-1])
    visualizer = inferencer.visualizer
    if hasattr(sample, "pred_label"):
        if visualizer is None:
            from mmpretrain.visualization import UniversalVisualizer

            visualizer = inferencer.visualizer = UniversalVisualizer()
        small = max(1, round(224 / min(rgb.shape[:2])))
        visualizer.visualize_cls(
            rgb, sample, classes=classes, draw_gt=False, rescale_factor=small, out_file=target
        )
    elif hasattr(sample, "pred_sem_seg"):
        visualizer.add_datasample(
            "image", rgb, sample, draw_gt=False, out_file=target, with_labels=False
        )
    else:
        visualizer.add_datasample(
            "image", rgb, sample, draw_gt=False, out_file=target, pred_score_thr=score_threshold
        )


class _Collected:
    """The results of all images, until they are written.

    Args:
        classes: their names.
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.found: list[dict] = []

    def add(self, path: str, name: str, image: np.ndarray, sample: Any, folder: Path) -> None:
        if hasattr(sample, "pred_label"):
            self._add_classes(path, sample)
        elif hasattr(sample, "pred_sem_seg"):
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            target = folder / "labels" / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16)).save(
                target
            )
        else:
            self._add_objects(path, image, sample)

    def _add_classes(self, path: str, sample: Any) -> None:
        scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        best = [
            dict(label=label, name=self._name(label), score=round(score, 6))
            for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
        ]
        self.found.append(dict(file=path, **best[0], best=best))

    def _add_objects(self, path: str, image: np.ndarray, sample: Any) -> None:
        height, width = image.shape[:2]
        image_id = len(self.images) + 1
        self.images.append(dict(id=image_id, file_name=path, height=height, width=width))
        found = sample.pred_instances.cpu().numpy()
        for index, (box, label, score) in enumerate(
            zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        ):
            left, top, right, bottom = (round(value, 2) for value in box)
            row = dict(
                id=len(self.annotations) + 1,
                image_id=image_id,
                category_id=label + 1,
                score=round(score, 6),
                bbox=[left, top, round(right - left, 2), round(bottom - top, 2)],
                area=round((right - left) * (bottom - top), 2),
                iscrowd=0,
            )
            if "masks" in found:
                row |= _run_lengths(found.masks[index])
            self.annotations.append(row)

    def _name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)

    def write(self, folder: Path) -> None:
        """Writes ``predictions.json``, if there is something for it."""
        if self.images:
            names = enumerate(self.classes, start=1)
            content: Any = dict(
                images=self.images,
                annotations=self.annotations,
                categories=[dict(id=index, name=name) for index, name in names],
            )
        elif self.found:
            content = self.found
        else:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "predictions.json").write_text(json.dumps(content))


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask as COCO keeps it, and its area."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        segmentation=dict(size=encoded["size"], counts=encoded["counts"].decode()),
        area=int(mask.sum()),
    )
