"""An exported graph evaluated on the data of its config, in the place of the PyTorch model."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmhybrid.datasets.data_paths import check_data
from mmhybrid.deploy.model_json import task_of
from mmhybrid.deploy.onnx_outputs import takes_bgr
from mmhybrid.deploy.runtimes import Graph
from mmhybrid.engine.runner.report import headlines
from mmhybrid.engine.runner.run_config import build_runner, without_pretrained


def metric_of_graphs(cfg: Config) -> Callable[[Graph], float]:
    """Returns a function that evaluates a graph on the test data of a config.

    The metric is the first that a report shows: AP of boxes, mIoU, accuracy. The graph takes images
    of any size, one at a time.

    Raises:
        UserError: The data is not there.
    """
    check_data(cfg, ("test_dataloader",))
    cfg = without_pretrained(cfg)
    cfg.load_from, cfg.resume, cfg.launcher = None, False, "none"
    cfg.work_dir = tempfile.mkdtemp()
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    runner = build_runner(cfg)
    return lambda graph: _evaluate(runner, graph)


def _evaluate(runner: Runner, graph: Graph) -> float:
    model = runner.model
    fill = FILLERS[task_of(model)]
    given = model.data_preprocessor

    def predict(inputs: Tensor, data_samples: list[Any], **options: Any) -> list[Any]:
        filled = []
        for x, sample in zip(inputs.split(1), data_samples, strict=True):
            # Which the graph normalises again.
            image = x * given.std + given.mean if hasattr(given, "mean") else x
            image = image.flip(1) if takes_bgr(model, runner.cfg) else image
            found = {key: torch.from_numpy(y) for key, y in graph(image.cpu().numpy()).items()}
            filled += fill(model, found, x.shape[-2:], sample)
        return filled

    model.predict = predict
    return float(next(iter(headlines(runner.test()).values())))


def _segmentation(model: nn.Module, found: dict, size: tuple[int, int], sample: Any) -> list[Any]:
    options = dict(mode="bilinear", align_corners=model.align_corners)
    return model.postprocess_result(F.interpolate(found["logits"], size, **options), [sample])


def _classification(model: nn.Module, found: dict, size: tuple[int, int], sample: Any) -> list[Any]:
    return model.head._get_predictions(found["logits"], [sample])


def _detection(model: nn.Module, found: dict, size: tuple[int, int], sample: Any) -> list[Any]:
    kept = found["scores"] > 0  # the others fill up
    boxes = found["boxes"][kept] / torch.tensor(sample.scale_factor).repeat(2)
    results = InstanceData(bboxes=boxes, scores=found["scores"][kept], labels=found["labels"][kept])
    if "masks" in found:
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

        height, width = sample.ori_shape
        masks = found["masks"][kept][:, None]
        pasted, _ = _do_paste_mask(masks, boxes, height, width, skip_empty=False)
        results.masks = pasted >= model.test_cfg.rcnn.mask_thr_binary
    return model.add_pred_to_datasample([sample], [results])


FILLERS = {
    "segmentation": _segmentation,
    "classification": _classification,
    "detection": _detection,
    "instance_segmentation": _detection,
}
