"""mmdet's COCO metric with the evaluation of faster-coco-eval."""

from typing import Any
from unittest.mock import patch

from mmengine.registry import METRICS

from mmhybrid.errors import UserError

try:
    from mmdet.evaluation.metrics import coco_metric
except (ImportError, AssertionError):  # not there, or with an mmcv that it refuses
    coco_metric = None

if coco_metric is not None:

    @METRICS.register_module()
    class FasterCocoMetric(coco_metric.CocoMetric):
        """mmdet's ``CocoMetric``, its arguments and results, evaluated by faster-coco-eval in C++.

        Use it as ``val_evaluator = dict(type="mmhybrid.FasterCocoMetric")`` in a config.

        Raises:
            UserError: If faster-coco-eval is not installed.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                from faster_coco_eval import COCOeval_faster
            except ImportError:
                words = "FasterCocoMetric needs faster-coco-eval: pip install faster-coco-eval"
                raise UserError(words) from None
            super().__init__(*args, **kwargs)
            self.evaluation = COCOeval_faster

        def compute_metrics(self, results: list) -> dict[str, float]:
            """As ``CocoMetric``, which takes the class of the evaluation from its module."""
            with patch.object(coco_metric, "COCOeval", self.evaluation):
                return super().compute_metrics(results)
