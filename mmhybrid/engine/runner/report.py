"""What a quick run leaves to look at: its metrics, their course, and images of predictions."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.runner import Runner

IMAGES = 12
# Metrics worth a curve and a line in the end, by a part of their names.
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


def write_report(runner: Runner) -> dict[str, float]:
    """Write ``metrics.json``, ``curves.png`` and the folder ``images`` into the work folder.

    Args:
        runner: After training.

    Returns:
        The last value of each metric that has a name in :data:`HEADLINES`.
    """
    folder = Path(runner.work_dir)
    losses, metrics = read_log(Path(runner.log_dir) / "vis_data" / "scalars.json")
    final = headlines(metrics[-1]) if metrics else {}
    content = dict(iterations=runner.iter, final=final, metrics=metrics, losses=losses)
    (folder / "metrics.json").write_text(json.dumps(content, indent=1))
    draw_curves(losses, metrics, folder / "curves.png")
    draw_images(runner, folder / "images")
    return final


def tell(runner: Runner, final: dict[str, float]) -> None:
    """Say what the run ended with and where to look."""
    folder = Path(runner.work_dir).absolute()
    lines = [f"{name:>16}  {value:.3f}" for name, value in final.items()]
    runner.logger.info(
        "\n".join(
            [
                "Done. On images that the model has not seen before:",
                *lines,
                f"Images, truth and prediction side by side: {folder / 'images'}",
                f"Losses and metrics: {folder / 'curves.png'}, {folder / 'metrics.json'}",
                f"Checkpoints: {folder}",
            ]
        )
    )


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split MMEngine's log into lines of training (they hold ``loss``) and of evaluation."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    losses = [line for line in lines if "loss" in line]
    return losses, [line for line in lines if "loss" not in line]


def headlines(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics to tell, under their usual names."""
    return {
        label: metrics[key]
        for ending, label in HEADLINES.items()
        for key in metrics
        if key == ending or key.endswith("/" + ending)
    }


def draw_curves(losses: list[dict], metrics: list[dict], path: Path) -> None:
    """Plot losses and metrics over iterations."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in sorted({key for line in losses for key in line if "loss" in key}):
        points = [(line["step"], line[name]) for line in losses if name in line]
        left.plot(*zip(*points, strict=True), label=name, lw=2.5 if name == "loss" else 1)
    left.set(xlabel="iteration", title="Losses", ylim=(0, None))
    courses: dict[str, list[tuple[float, float]]] = {}
    for line in metrics:
        for label, value in headlines(line).items():
            courses.setdefault(label, []).append((line["step"], value))
    for label, points in courses.items():
        right.plot(*zip(*points, strict=True), "o-", label=label)
    right.set(xlabel="iteration", title="Metrics on held-out images", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def draw_images(runner: Runner, folder: Path) -> None:
    """Draw held-out images by the visualizer of mmdet, mmseg or mmpretrain.

    Detection and segmentation put the truth on the left and the prediction on the right; a
    classifier writes both on the image.
    """
    runner.model.eval()
    samples = (pair for batch in runner.val_dataloader for pair in _predict(runner, batch))
    for index, (image, sample) in enumerate(islice(samples, IMAGES)):
        name = Path(sample.get("img_path", f"{index:04d}")).stem
        target = str(folder / f"{name}.png")
        draw = getattr(runner.visualizer, "visualize_cls", None)
        if draw is not None:
            draw(image, sample, out_file=target, rescale_factor=4)
            continue
        options = {"pred_score_thr": 0.5} if "pred_instances" in sample else {}
        runner.visualizer.add_datasample(name, image, sample, out_file=target, **options)


def _predict(runner: Runner, batch: dict):
    """Yield (image (H, W, 3), RGB, uint8; sample with truth and prediction)."""
    import mmcv

    for inputs, sample in zip(batch["inputs"], runner.model.val_step(batch), strict=True):
        if sample.get("img_path"):
            yield mmcv.imread(sample.img_path, channel_order="rgb"), sample
        else:  # read from a pickle: the image exists as input alone
            yield np.ascontiguousarray(inputs.permute(1, 2, 0).cpu().numpy()), sample
