"""The summary of a quick run: metrics, and images of predictions."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

# Metrics that get a curve and a line in the summary, by the end of their names.
HEADLINES = {
    "bbox_mAP_50": "box AP50",
    "bbox_mAP": "box AP",
    "segm_mAP_50": "mask AP50",
    "segm_mAP": "mask AP",
    "mIoU": "mIoU",
    "aAcc": "pixel accuracy",
    "accuracy/top1": "top-1 accuracy",
    "single-label/f1-score": "F1",
}


def write_report(runner: Runner, log: dict[str, Any]) -> None:
    """Write ``metrics.json`` of a ``training_log``, and ``images``; log the :func:`headlines`."""
    folder = Path(runner.work_dir).absolute()
    losses, metrics = log["losses"], log["metrics"]
    final = headlines(metrics[-1]) if metrics else {}
    content = dict(iterations=runner.iter, final=final, metrics=metrics, losses=losses)
    (folder / "metrics.json").write_text(json.dumps(content, indent=1))
    draw_images(runner, folder / "images")
    table = "".join(f"{name:>16}  {value:.3f}\n" for name, value in final.items())
    runner.logger.info(
        f"On images that the model has not seen before:\n{table}"
        f"Images, truth and prediction side by side: {folder / 'images'}\n"
        f"Losses and metrics: {folder / 'metrics.json'}\n"
        f"Checkpoints: {folder}"
    )


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split MMEngine's log into lines of training (with ``loss``) and of evaluation."""
    lines = read_lines(path)
    return [one for one in lines if "loss" in one], [one for one in lines if "loss" not in one]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of MMEngine's log, without those that a full disk has cut."""
    lines = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError, RecursionError):
            lines.append(json.loads(line))
    return [one for one in lines if isinstance(one, dict)]


def headlines(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of :data:`HEADLINES`, by their usual names."""
    return {
        label: metrics[key]
        for ending, label in HEADLINES.items()
        for key in metrics
        if key == ending or key.endswith("/" + ending)
    }


@torch.no_grad()
def draw_images(runner: Runner, folder: Path) -> None:
    """Draw held-out images: truth left, prediction right; a classifier's are both on the image."""
    runner.model.eval()
    samples = (pair for batch in runner.val_dataloader for pair in _predict(runner, batch))
    for index, (image, sample) in enumerate(islice(samples, 12)):
        name = Path(sample.get("img_path", f"{index:04d}")).stem
        target = str(folder / f"{name}.png")
        if hasattr(runner.visualizer, "visualize_cls"):
            runner.visualizer.visualize_cls(image, sample, out_file=target, rescale_factor=4)
        else:
            options = {"pred_score_thr": 0.5} if "pred_instances" in sample else {}
            runner.visualizer.add_datasample(name, image, sample, out_file=target, **options)


def _predict(runner: Runner, batch: dict) -> Iterator[tuple[np.ndarray, BaseDataElement]]:
    """Images, (H, W, 3), RGB, uint8, and their samples with truth and prediction."""
    import mmcv

    for inputs, sample in zip(batch["inputs"], runner.model.val_step(batch), strict=True):
        if sample.get("img_path"):
            yield mmcv.imread(sample.img_path, channel_order="rgb"), sample
        else:  # read from a pickle: the image exists as input alone
            yield np.ascontiguousarray(inputs.permute(1, 2, 0).cpu().numpy()), sample
