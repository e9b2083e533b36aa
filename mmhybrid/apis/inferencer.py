"""Predicting on images and videos with OpenMMLab's own inferencers."""

import errno
import importlib
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS

from mmhybrid.apis.deployed import DeployedInferencer, is_exported
from mmhybrid.apis.inputs import count_images, find_inputs, is_video, read_all
from mmhybrid.apis.outputs import COCO_IDS, Results, draw, join_frames, make_folder
from mmhybrid.apis.tiling import Change, check_tiles, samples_in_tiles
from mmhybrid.datasets.data_paths import classes_of, datasets_of
from mmhybrid.deploy.fuse import fuse
from mmhybrid.engine.console import ProgressLine
from mmhybrid.engine.runner.check_classes import trained_on
from mmhybrid.engine.runner.check_config import check_model
from mmhybrid.engine.runner.checkpoint_config import config_of, size_note
from mmhybrid.engine.runner.run_config import without_pretrained
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights.loading import whole_models
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints

INFERENCERS = {
    "mmdet": "DetInferencer",
    "mmseg": "MMSegInferencer",
    "mmpretrain": "ImageClassificationInferencer",
}


@dataclass
class Outcome:
    """Number of images and frames that were predicted on; files that were not, and why.

    ``not_drawn`` has images and frames that were, but could not be drawn. ``changes`` has one for
    each image that tiles were compared with the whole of.
    """

    done: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    not_drawn: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


def make_inferencer(
    cfg: Config | str,
    checkpoint: str | None = None,
    *,
    device: str | None = None,
    fused: bool = False,
) -> Any:
    """Makes the inferencer of mmdet, mmseg or mmpretrain that a config asks for.

    Args:
        cfg (Config | str): Of a detector, segmentor or classifier; or a checkpoint that holds it;
            or the folder of an exported model, which runs on the CPU and is fused already.
        checkpoint (str, optional): File or address of the weights. Defaults to ``cfg``.
        device (str, optional): Such as ``'cuda:0'``. Defaults to the GPU, if there is one.
        fused (bool): Fuse the model, see :func:`mmhybrid.deploy.fuse`.

    Raises:
        UserError: The config is of another package, its model is wrong, or the weights do not fit.

    Example:
        >>> from mmhybrid.apis import make_inferencer
        >>> inferencer = make_inferencer('work_dirs/NAME/best.pth', fused=True)  # doctest: +SKIP
    """
    if isinstance(cfg, str) and is_exported(cfg):
        return DeployedInferencer(cfg)
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
            with enable_safe_checkpoints(), whole_models():
                inferencer = make(cfg, checkpoint, device=device)
        except OSError as error:
            raise UserError(str(error)) from error
    inferencer.show_progress = False
    inferencer.model = revert_sync_batchnorm(inferencer.model).eval()
    if fused:
        inferencer.model = fuse(inferencer.model)
    meta = dataset_meta(cfg, checkpoint)
    inferencer.model.dataset_meta = meta
    if scope == "mmdet":
        inferencer.visualizer.dataset_meta = meta
    elif scope == "mmseg":
        inferencer.visualizer.set_dataset_meta(meta["classes"], meta.get("palette"))
    return inferencer


def dataset_meta(cfg: Config, checkpoint: str | None) -> dict[str, Any]:
    """Classes and palette of the checkpoint, or else of the data set of the config.

    Of a detector also ``category_ids``, by which annotations in COCO's format number the classes.
    """
    meta = trained_on(checkpoint) if checkpoint else {}
    if "classes" not in meta:
        _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
        given = dataset.get("metainfo") or {}
        if "classes" not in given:
            inherited = getattr(type_of(dataset, DATASETS, cfg.default_scope), "METAINFO", {})
            given = dict(palette=inherited.get("palette")) | given
        meta = dict(classes=classes_of(dataset, cfg.default_scope), palette=given.get("palette"))
    ids = meta.pop("category_ids", None)
    if cfg.default_scope == "mmdet":
        meta["category_ids"] = ids or _category_ids(cfg, meta["classes"])
    return dict(palette=None) | meta


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
        return COCO_IDS
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
    tile: str | tuple[int, int] | None = None,
    tile_check: bool = False,
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
        tile (str | tuple[int, int], optional): Height and width of tiles for very large images, or
            ``'auto'``, see :func:`mmhybrid.apis.tiling.samples_in_tiles`. Defaults to none.
        tile_check (bool): Compare each result in tiles with that of the whole image.
        report (Callable[[str], None]): Called with a message for each file that cannot be read, and
            each image that cannot be drawn.

    Raises:
        UserError: There is no such image, the folder cannot be written to, or a classifier is
            asked for tiles.

    Example:
        >>> predict(inferencer, ['street/*.jpg'], 'predictions', batch_size=8)  # doctest: +SKIP
        Outcome(done=20, unreadable={}, not_drawn={}, changes=[])
    """
    folder = Path(folder)
    if tile is not None:
        check_tiles(inferencer)
    files = find_inputs(names, leave_out=folder)
    make_folder(folder)
    outcome = Outcome()
    meta = inferencer.model.dataset_meta
    collected = Results(folder, list(meta["classes"]), meta.get("category_ids"))

    def tell(text: str) -> None:
        with ProgressLine.external_write_mode(file=sys.stderr):
            report(text)

    def on_error(path: Path, reason: str) -> None:
        outcome.unreadable[str(path)] = reason
        tell(f"cannot read {path}: {reason}")

    line = ProgressLine(total=count_images(files), desc="predict", unit="image")
    images_of: Counter[str] = Counter()  # by path: 1, or as many as a video has frames
    stream = read_all(files, on_error)
    failures: list[Exception] = []

    def predicted(batch: list[np.ndarray]) -> list[Any]:
        return samples_in_tiles(inferencer, batch, tile, outcome.changes if tile_check else None)

    def on_failure(path: str, error: Exception) -> None:
        failures.append(error)
        on_error(Path(path), f"{type(error).__name__}: {error}")

    try:
        while batch := list(islice(stream, batch_size)):
            for (path, name, image), sample in _without_failures(predicted, batch, on_failure):
                if results:
                    collected.add(path, name, image, sample)
                if images:
                    target = folder / "images" / f"{name}.jpg"
                    try:
                        draw(inferencer, image, sample, target, score_threshold)
                    except Exception as error:  # of many types: what visualizers cannot take
                        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                            raise
                        outcome.not_drawn[path] = f"{type(error).__name__}: {error}"
                        tell(f"cannot draw {path}: {outcome.not_drawn[path]}")
                images_of[path.rpartition("#")[0] or path] += 1  # a frame's is VIDEO#NUMBER
                line.update()
    finally:  # what was done until then is kept, whatever ends it
        line.close()
        if results:
            collected.write()
    outcome.done = images_of.total()
    if failures and not outcome.done:
        raise failures[0]  # it is not the images
    not_drawn = {path.rpartition("#")[0] for path in outcome.not_drawn}
    for path, name in files:
        if not (images and is_video(path) and images_of[str(path)]):
            continue
        if str(path) in not_drawn:
            tell(f"no video of {path} is written: some of its frames could not be drawn")
        else:
            join_frames(path, name, folder, images_of[str(path)])
    return outcome


def _without_failures(
    predicted: Callable[[list[np.ndarray]], list[Any]],
    batch: Sequence[tuple[str, str, np.ndarray]],
    on_failure: Callable[[str, Exception], None],
) -> Iterator[tuple[tuple[str, str, np.ndarray], Any]]:
    """Yields the images of a batch with their data samples, without those at which it fails.

    Of an image of 4000 x 8 pixels, for one, ``Resize`` may leave none.
    """
    try:
        samples = predicted([image for _, _, image in batch])
    except Exception as error:
        if len(batch) == 1:
            on_failure(batch[0][0], error)
            return
        for one in batch:
            yield from _without_failures(predicted, [one], on_failure)
    else:
        yield from zip(batch, samples, strict=True)
