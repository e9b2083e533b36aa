"""The last words of a training run: how to use what it made, or what to look at if that is weak."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from mmhybrid.engine.runner.report import read_log


def verdict(runner: Runner) -> str:
    """``Done.`` and the command that predicts, or advice where the result is near zero."""
    losses, metrics = read_log(Path(runner.log_dir) / "vis_data" / "scalars.json")
    dataset = runner.train_dataloader.dataset
    classes = list(getattr(dataset, "metainfo", {}).get("classes") or [])
    weak = near_zero(metrics[-1], len(classes)) if metrics else ""
    if not weak:
        best = Path(runner.work_dir) / "best.pth"
        made = best if best.is_file() else runner.message_hub.runtime_info.get("last_ckpt")
        return f"Done. To predict: python -m mmhybrid predict {made} IMAGES"
    rate = max(line.get("lr", 0) for line in losses) if losses else 0
    first = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return (
        f"{weak}: the model has learned next to nothing. What to look at:\n"
        f"  the loss: if it does not fall, try a tenth of the learning rate ({rate:g}), and ten "
        "times it\n"
        f"  the iterations: {runner.iter} over {len(dataset)} images may be too few\n"
        f"  the classes and their order: {first or 'the data names none'}\n"
        "  images without labels, boxes outside of images: python -m mmhybrid check CONFIG\n"
        "  the start: pretrained weights need fewer images than random ones, docs/fine_tuning.md"
    )


def near_zero(metrics: Mapping[str, Any], classes: int) -> str:
    """The first metric that is near zero or no better than guessing, with its value, or ``''``.

    mmdet's AP50 is a share; mmseg's mIoU and mmpretrain's accuracy are percentages.
    """
    guessed = 100 / max(classes, 2)
    least = {"bbox_mAP_50": 0.01, "mIoU": guessed / 2, "accuracy/top1": 1.2 * guessed}
    for key, value in metrics.items():
        for name, limit in least.items():
            if f"/{key}".endswith(f"/{name}") and (math.isnan(value) or value < limit):
                return f"{key} is {value:.3g}"
    return ""
