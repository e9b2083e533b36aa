"""Predicting on images and videos with OpenMMLab's own inferencers."""

import importlib
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS

from mmhybrid.apis.inputs import count_images, find_inputs, is_video, read_all
from mmhybrid.apis.outputs import Results, draw, join_frames
from mmhybrid.datasets.data_paths import classes_of, datasets_of
from mmhybrid.deploy.fuse import fuse
from mmhybrid.engine.console import ProgressLine
from mmhybrid.engine.runner.check_config import check_model
from mmhybrid.engine.runner.checkpoint_config import config_of, size_note
from mmhybrid.engine.runner.run_config import without_pretrained
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights.loading import read_address
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints

INFERENCERS = {
    "mmdet": "DetInferencer",
    "mmseg": "MMSegInferencer",
    "mmpretrain": "ImageClassificationInferencer",
}

# COCO's 80 categories have the ids 1 to 90 without these.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@dataclass
class Outcome:
    """Number of images and frames that were predicted on; files that were not, and why."""

    done: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def make_inferencer(
    cfg: Config | str,
    checkpoint: str | None = None,
    *,
    device: str | None = None,
    fused: bool = False,
) -> Any:
    """Makes the inferencer of mmdet, mmseg or mmpretrain that a config asks for.

    Args:
        cfg (Config | str): Of a detector, segmentor or classifier; or a checkpoint that holds it.
        checkpoint (str, optional): File or address of the weights. Defaults to ``cfg``.
        device (str, optional): Such as ``'cuda:0'``. Defaults to the GPU, if there is one.
        fused (bool): Fuse the model, see :func:`mmhybrid.deploy.fuse`.

    Raises:
        UserError: The config is of another package, its model is wrong, or the weights do not fit.

    Example:
        >>> from mmhybrid.apis import make_inferencer
        >>> inferencer = make_inferencer('work_dirs/NAME/best.pth', fused=True)  # doctest: +SKIP
    """
    if isinstance(cfg, str):
        checkpoint, cfg = checkpoint or cfg, config_of(cfg)
    elif note := size_note(cfg, checkpoint):
        print_log(note, logger="current", level=logging.WARNING)
    scope = cfg.get("default_scope")
    if scope not in INFERENCERS:
        raise UserError(f"predicting needs a config of {', '.join(INFERENCERS)}, not {scope}")
    cfg = without_pretrained(cfg)
    check_model(cfg)
    make = getattr(importlib.import_module(f"{scope}.apis"), INFERENCERS[scope])
    with warnings.catch_warnings():
        # They take the classes of COCO or Cityscapes; those of the config follow.
        warnings.filterwarnings("ignore", message="dataset_meta or class names are not saved")
        warnings.filterwarnings("ignore", message="Failed to add .*vis_backend")
        try:
            with enable_safe_checkpoints():
                inferencer = make(cfg, checkpoint, device=device)
        except OSError as error:
            raise UserError(str(error)) from error
    inferencer.show_progress = False
    inferencer.model = revert_sync_batchnorm(inferencer.model).eval()
    if fused:
        inferencer.model = fuse(inferencer.model)
    saved = getattr(inferencer.model, "dataset_meta", None) or {}
    meta = dataset_meta(cfg, checkpoint)
    if scope == "mmdet":
        meta["category_ids"] = saved.get("category_ids") or _category_ids(cfg, meta["classes"])
    inferencer.model.dataset_meta = meta
    if scope == "mmdet":
        inferencer.visualizer.dataset_meta = meta
    elif scope == "mmseg":
        inferencer.visualizer.set_dataset_meta(meta["classes"], meta.get("palette"))
    return inferencer


def dataset_meta(cfg: Config, checkpoint: str | None) -> dict[str, Any]:
    """Classes and palette of the checkpoint, or else of the data set of the config."""
    meta = (read_address(checkpoint, "meta").get("meta") if checkpoint else None) or {}
    # mmdet 2 and mmseg 0 save the two by themselves, in capitals.
    old = dict(classes=meta.get("CLASSES"), palette=meta.get("PALETTE"))
    trained_on = meta.get("dataset_meta") or old
    if trained_on.get("classes"):
        return dict(classes=trained_on["classes"], palette=trained_on.get("palette"))
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    given = dataset.get("metainfo") or {}
    if "classes" not in given:
        inherited = getattr(type_of(dataset, DATASETS, cfg.default_scope), "METAINFO", {})
        given = dict(palette=inherited.get("palette")) | given
    return dict(classes=classes_of(dataset, cfg.default_scope), palette=given.get("palette"))


def _category_ids(cfg: Config, classes: Sequence[str]) -> list[int]:
    """Ids of the classes: of the config, or the annotations that it names, COCO's, or 1 and on."""
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    if given := (dataset.get("metainfo") or {}).get("category_ids"):
        return list(given)
    path = Path(dataset.get("data_root") or "", dataset.get("ann_file") or "")
    with suppress(OSError, ValueError, LookupError, TypeError):
        ids = {one["name"]: one["id"] for one in json.loads(path.read_bytes())["categories"]}
        return [ids[name] for name in classes]
    if type_name(dataset) == "CocoDataset" and tuple(classes) == classes_of(
        dict(type=dataset["type"]), cfg.default_scope
    ):
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(classes) + 1))


def predict(
    inferencer: Any,
    names: Iterable[str],
    folder: str | Path,
    *,
    batch_size: int = 1,
    score_threshold: float = 0.3,
    images: bool = True,
    results: bool = True,
    report: Callable[[str], None] = print,
) -> Outcome:
    """Predicts on all inputs and writes what comes out.

    Drawn images and frames go to ``FOLDER/images``, drawn videos to ``FOLDER/videos``, label maps
    to ``FOLDER/labels``, one PNG an image or frame. Boxes and masks go to
    ``FOLDER/predictions.json`` in COCO's format, with a ``score`` each and the
    ``category_id`` of the data set's annotations, or the five best classes of each image.

    Args:
        inferencer: From :func:`make_inferencer`.
        names (Iterable[str]): Files, folders (of which all images and videos are taken, those of
            subfolders too) and patterns such as ``'images/**/*.jpg'``; a UserError where nothing
            is found for one.
        folder (str | Path): To write to.
        batch_size (int): Images at a time.
        score_threshold (float): Least score of boxes that are drawn; all are written.
        images, results (bool): Draw images, and write results.
        report (Callable[[str], None]): Called with a message for each unreadable file.

    Example:
        >>> predict(inferencer, ['street/*.jpg'], 'predictions', batch_size=8)  # doctest: +SKIP
        Outcome(done=20, unreadable={})
    """
    folder = Path(folder)
    files = find_inputs(names, leave_out=folder)
    outcome = Outcome()
    meta = inferencer.model.dataset_meta
    collected = Results(folder, list(meta["classes"]), meta.get("category_ids"))

    def on_error(path: Path, reason: str) -> None:
        outcome.unreadable[str(path)] = reason
        with ProgressLine.external_write_mode(file=sys.stderr):
            report(f"cannot read {path}: {reason}")

    line = ProgressLine(total=count_images(files), desc="predict", unit="image")
    images_of: Counter[str] = Counter()  # by path: 1, or as many as a video has frames
    stream = read_all(files, on_error)
    while batch := list(islice(stream, batch_size)):
        samples = samples_of(inferencer, [image for _, _, image in batch])
        for (path, name, image), sample in zip(batch, samples, strict=True):
            if results:
                collected.add(path, name, image, sample)
            if images:
                draw(inferencer, image, sample, folder / "images" / f"{name}.jpg", score_threshold)
            images_of[path.rpartition("#")[0] or path] += 1  # a frame's is VIDEO#NUMBER
            line.update()
    line.close()
    outcome.done = images_of.total()
    for path, name in files:
        if images and is_video(path) and images_of[str(path)]:
            join_frames(path, name, folder, images_of[str(path)])
    if results:
        collected.write()
    return outcome


def samples_of(inferencer: Any, images: list[np.ndarray]) -> list[Any]:
    """One data sample an image; the three inferencers return them in three ways."""
    if hasattr(inferencer, "config"):  # mmpretrain's, whose call shows a bar for every batch
        _, dataset = next(datasets_of(inferencer.config, ("test_dataloader",)))
        if not any(type_name(step) == "LoadImageFromFile" for step in dataset.pipeline):
            # The data set gives arrays, which are RGB; files are read as BGR.
            images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        batches = inferencer.preprocess(images, len(images))
        return [sample for batch in batches for sample in inferencer.forward(batch)]
    if not hasattr(inferencer.model, "decode_head"):
        return inferencer(images, batch_size=len(images), return_datasamples=True)["predictions"]
    samples = []
    for alike in (list(group) for _, group in groupby(images, np.shape)):
        # These are all that mmsegmentation takes as a batch.
        found = inferencer(alike, batch_size=len(alike), return_datasamples=True)
        samples += found if isinstance(found, list) else [found]
    return samples
