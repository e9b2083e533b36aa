"""faster-coco-eval against pycocotools on drawn objects: the same numbers, and how much sooner."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

import mmhybrid  # noqa: F401  (mmdet's imports need it)
from mmhybrid.analysis.tables import markdown_table

HEIGHT, WIDTH = 160, 200
NOTE = """# pycocotools and faster-coco-eval

Written by `python -m benchmarks coco`: {images} drawn images, {objects} ellipses of {classes}
classes as objects, {found} shifted and scaled ones as detections, with the settings of mmdet's
CocoMetric. Seconds are of processor time, one thread; the last column is the largest difference of
any metric, precision or recall.
"""


def draw(images: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations of ellipses in COCO's format, and detections that are near them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]

    def ellipse(place: np.ndarray) -> dict[str, Any]:
        x, y, a, b = place
        inside = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1
        code = run_lengths.encode(np.asfortranarray(inside.astype(np.uint8)))
        box, area = run_lengths.toBbox(code).tolist(), int(run_lengths.area(code))
        return dict(segmentation=code | dict(counts=code["counts"].decode()), bbox=box, area=area)

    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(12)):
            place = rng.uniform((10, 10, 2, 2), (WIDTH - 10, HEIGHT - 10, 60, 60))
            about = dict(image_id=image, category_id=int(rng.integers(classes)) + 1)
            crowd = dict(id=len(truth) + 1, iscrowd=int(rng.random() < 0.03))
            truth.append(about | crowd | ellipse(place))
            for _ in range(rng.integers(4)):
                shift = rng.normal(0, 0.15, 4)
                near = np.concatenate(
                    [place[:2] + place[2:] * shift[:2], place[2:] * np.exp(shift[2:])]
                )
                wrong = (
                    dict(category_id=int(rng.integers(classes)) + 1) if rng.random() < 0.1 else {}
                )
                found.append(about | wrong | ellipse(near) | dict(score=float(rng.random())))
    found = [one for one in found if one.pop("area")]
    listed = [dict(id=one + 1, height=HEIGHT, width=WIDTH) for one in range(images)]
    categories = [dict(id=one + 1, name=str(one)) for one in range(classes)]
    return dict(images=listed, annotations=truth, categories=categories), found


def evaluate(truth: dict, found: list[dict], iou_type: str, evaluation: Any) -> tuple[Any, float]:
    """The evaluation of a class such as ``COCOeval``, and its seconds of processor time."""
    from mmdet.datasets.api_wrappers import COCO

    other = "segmentation" if iou_type == "bbox" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        results = coco.loadRes([{key: one[key] for key in one if key != other} for one in found])
        start = time.process_time()
        run = evaluation(coco, results, iou_type)
        run.params.maxDets = [100, 300, 1000]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run, time.process_time() - start


def compare(truth: dict, found: list[dict], iou_type: str) -> tuple[float, float, float]:
    """Seconds of pycocotools and of faster-coco-eval, and the largest difference."""
    from faster_coco_eval import COCOeval_faster
    from mmdet.datasets.api_wrappers import COCOeval

    slow, before = evaluate(truth, found, iou_type, COCOeval)
    fast, after = evaluate(truth, found, iou_type, COCOeval_faster)
    pairs = [(slow.stats, np.asarray(fast.stats)[: len(slow.stats)])]
    pairs += [(slow.eval[key], fast.eval[key]) for key in ("precision", "recall", "scores")]
    return before, after, max(float(np.abs(one - other).max()) for one, other in pairs)


def write_table(out: Path, images: int = 5000, classes: int = 80) -> str:
    """Measures, and writes ``coco_metric.md`` into ``out``."""
    truth, found = draw(images, classes)
    rows = []
    for iou_type, name in (("bbox", "boxes"), ("segm", "masks")):
        before, after, difference = compare(truth, found, iou_type)
        row = [name, f"{before:.1f}", f"{after:.1f}", f"{before / after:.1f}", f"{difference:.1e}"]
        rows.append(row)
    columns = ("of", "pycocotools, s", "faster-coco-eval, s", "times as fast", "difference")
    sizes = dict(
        images=images, classes=classes, objects=len(truth["annotations"]), found=len(found)
    )
    table = markdown_table(columns, rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "coco_metric.md").write_text(f"{NOTE.format(**sizes)}\n{table}\n", encoding="utf-8")
    return table
