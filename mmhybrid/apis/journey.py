"""From a folder of images to a trained model and its predictions, in Python."""

import tempfile
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.runner import Runner
from PIL import Image

from mmhybrid.apis.deployed import is_exported
from mmhybrid.apis.inferencer import make_inferencer
from mmhybrid.apis.inputs import find_inputs, read_all, read_rgb, rgb_of
from mmhybrid.apis.outputs import draw
from mmhybrid.apis.samples import samples_of
from mmhybrid.engine.runner.named_configs import config_path
from mmhybrid.engine.runner.prepare_config import prepare_config
from mmhybrid.engine.runner.report import read_log
from mmhybrid.engine.runner.results import write_training_result
from mmhybrid.engine.runner.run_config import build_loops, build_runner, existing_file, load_config
from mmhybrid.errors import UserError
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints

TIMES = ("step", "data_time", "time")  # in a line of an evaluation, beside the metrics


@dataclass
class Prediction:
    """What a model finds in an image; a notebook shows the image with it.

    Args:
        image (PIL.Image.Image): The image with what was found drawn in.
        labels (list[str]): Class of each object, best first; of a classifier all classes; of a
            segmentation those that occur.
        scores (list[float]): By object or class, 0 to 1. Of a segmentation the share of pixels.
        boxes (np.ndarray, optional): (N, 4) x0, y0, x1, y1 in pixels.
        masks (np.ndarray, optional): (N, H, W) bool.
        label_map (np.ndarray, optional): (H, W) int, the class of each pixel.
        path (str): Of the image, ``''`` for an array.

    Example:
        >>> Prediction(Image.new("RGB", (4, 3)), ["cat", "dog"], [0.9, 0.1]).labels[0]
        'cat'
    """

    image: Image.Image
    labels: list[str]
    scores: list[float]
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    path: str = ""

    def _repr_png_(self) -> bytes:
        return self.image._repr_png_()


@dataclass
class TrainedModel:
    """What :func:`train` leaves.

    Args:
        checkpoint (Path): The best by ``metrics``, or the last where nothing was evaluated.
        config (Path): The finished config, which ``tools/train.py`` and ``tools/test.py`` take.
        metrics (dict[str, float]): Of the checkpoint, on the validation images.
    """

    checkpoint: Path
    config: Path
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def work_dir(self) -> Path:
        """Folder of all that the run wrote."""
        return self.config.parent

    @cached_property
    def _inferencer(self) -> Any:
        return make_inferencer(load_config(str(self.config)), str(self.checkpoint))

    def predict(self, image: Any, score_threshold: float = 0.3) -> Any:
        """As :func:`mmhybrid.predict` with this model."""
        return predict(self, image, score_threshold=score_threshold)


def train(
    data: str | Path,
    model: str,
    weights: str = "auto",
    *,
    quick: bool = False,
    resume: bool = False,
    work_dir: str | Path | None = None,
    options: dict[str, Any] | None = None,
    ignore: Iterable[str] = (),
) -> TrainedModel:
    """Trains a model on the images in a folder, as ``tools/train.py MODEL --data FOLDER`` does.

    Args:
        data (str | Path): Folder in any format that ``docs/formats.md`` names.
        model (str): Name of a config of this package, or a config's path.
        weights (str): ``'auto'``, ``'none'``, a name of :func:`mmhybrid.list_weights`, or a file.
            Where ``quick``, ``'auto'`` means none.
        quick (bool): A short run on a CPU, on small copies of the images. Defaults to False.
        resume (bool): Go on from the newest checkpoint in ``work_dir``. Defaults to False.
        work_dir (str | Path, optional): Defaults to ``work_dirs/MODEL_FOLDER``.
        options (dict, optional): Values by the keys of the config, which have the last word.
        ignore (Iterable[str]): Codes of problems of the data to go on in spite of.

    Raises:
        UserError: The data, or what was asked for, cannot be trained on; it says why.

    Example:
        >>> model = mmhybrid.train("helmets", "mask_rcnn_transxnet_t_coco")  # doctest: +SKIP
        >>> model.metrics["coco/bbox_mAP"], model.predict("new.jpg").labels  # doctest: +SKIP
    """
    args = Namespace(config=config_path(model), data=str(data), quick=quick)
    args.weights = None if quick and weights == "auto" else weights
    args.work_dir, args.cfg_options, args.ignore = work_dir and str(work_dir), options, ignore
    args.resume, args.launcher, args.data_root = "auto" if resume else None, "none", None
    args.amp, args.amp_dtype, args.auto_scale_lr, args.no_validate = False, "float16", False, False
    with enable_safe_checkpoints():
        cfg = prepare_config(args)
        runner = build_runner(cfg)
        build_loops(runner, ("train", "val"))
        runner.train()
    write_training_result(runner, args.config, quick)
    known = runner.message_hub.runtime_info
    checkpoint = known.get("best_ckpt") or known.get("last_ckpt")
    return TrainedModel(
        Path(str(checkpoint)).resolve(),
        Path(cfg.work_dir).resolve() / "config.py",
        _metrics_of_best(runner),
    )


def predict(
    model: str | Path | TrainedModel,
    image: Any,
    *,
    config: str | Path | None = None,
    score_threshold: float = 0.3,
    device: str | None = None,
) -> Prediction | list[Prediction]:
    """What a model finds in an image, or in several.

    Args:
        model (str | Path | TrainedModel): Of :func:`train`, a checkpoint, or the folder of an
            exported model.
        image (str | Path | np.ndarray | PIL.Image.Image | list): An image or video, a folder, a
            pattern, an array (H, W, 3) of uint8 in RGB; or a list of paths.
        config (str | Path, optional): Of the checkpoint: a path, or the name of one of this
            package. Defaults to the one that the checkpoint holds.
        score_threshold (float): Least score of objects. Defaults to 0.3.
        device (str, optional): Such as ``'cuda:0'``. Defaults to the GPU, if there is one.

    Returns:
        Prediction | list[Prediction]: One for an image; a list for anything else.

    Raises:
        UserError: No such image or checkpoint, another array, or the checkpoint holds no config.

    Example:
        >>> mmhybrid.predict("work_dirs/NAME/best.pth", "new.jpg").boxes  # doctest: +SKIP
    """
    is_named = isinstance(image, str | Path | list | tuple)
    array = None if is_named else rgb_of(image)
    if isinstance(model, TrainedModel) and device is None:
        inferencer = model._inferencer
    else:
        checkpoint = Path(model.checkpoint if isinstance(model, TrainedModel) else model)
        if not is_exported(checkpoint):
            existing_file(str(checkpoint), "checkpoint")
        cfg = load_config(config_path(str(config))) if config else str(checkpoint)
        inferencer = make_inferencer(cfg, str(checkpoint), device=device)
    if array is not None:
        return _predict_one(inferencer, array[..., ::-1].copy(), score_threshold)
    names = [str(one) for one in (image if isinstance(image, list | tuple) else [image])]
    is_single = not isinstance(image, list | tuple) and Path(image).is_file()
    found = [
        _predict_one(inferencer, pixels, score_threshold, path)
        for path, _, pixels in read_all(find_inputs(names), _refuse)
    ]
    return found[0] if is_single and len(found) == 1 else found


def _metrics_of_best(runner: Runner) -> dict[str, float]:
    """Of the best evaluation, which may have been before a resumption, or else of the last."""
    logs = sorted(Path(runner.work_dir).glob("*/vis_data/scalars.json"))
    evaluations = [one for log in logs for one in read_log(log)[1]]
    key = (runner.cfg.default_hooks.get("checkpoint") or {}).get("save_best")
    score = runner.message_hub.runtime_info.get("best_score")
    best = [one for one in evaluations if key in one and one[key] == score] or evaluations
    return {name: value for name, value in (best or [{}])[-1].items() if name not in TIMES}


def _refuse(path: Path, reason: str) -> None:
    raise UserError(f"cannot read {path}: {reason}")


def _predict_one(inferencer: Any, image: np.ndarray, least: float, path: str = "") -> Prediction:
    (sample,) = samples_of(inferencer, [image])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "drawn.png"
        draw(inferencer, image, sample, target, least)
        drawn = Image.fromarray(read_rgb(target))
    classes = inferencer.model.dataset_meta["classes"]
    if hasattr(sample, "pred_label"):
        scores = sample.pred_score.tolist()
        order = sorted(range(len(classes)), key=lambda index: -scores[index])
        labels = [classes[index] for index in order]
        return Prediction(drawn, labels, [scores[index] for index in order], path=path)
    if hasattr(sample, "pred_sem_seg"):
        label_map = sample.pred_sem_seg.data[0].cpu().numpy()
        numbers, counts = np.unique(label_map, return_counts=True)
        order = np.argsort(-counts)
        labels = [classes[index] for index in numbers[order]]
        shares = (counts[order] / label_map.size).tolist()
        return Prediction(drawn, labels, shares, label_map=label_map, path=path)
    found = sample.pred_instances.cpu()
    found = found[found.scores >= least]
    return Prediction(
        drawn,
        [classes[index] for index in found.labels.tolist()],
        found.scores.tolist(),
        found.bboxes.numpy(),
        found.masks.numpy() if "masks" in found else None,
        path=path,
    )
