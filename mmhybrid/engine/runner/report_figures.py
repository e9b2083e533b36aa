"""The figures of a report: per class, what is taken for what, precision against recall.

The packages count: pycocotools matches boxes, mmsegmentation and mmpretrain make their own metrics
from the counts. Every function returns the same keys, :data:`NOTHING` in short.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmhybrid.engine.hooks.report_hook import MOST_WORST, Evaluation

SCORE = 0.3  # least score of a box that counts as found, as tools/predict.py draws them
IOU = 0.5  # least overlap of a box with an object that it finds
MOST_CURVES = 8  # classes with a curve of their own, the most frequent
NOTHING: dict[str, Any] = dict(task="", classes=[], confusion=None, curves=[], rule="", worst=[])


def figures_of(evaluation: Evaluation, dataset: Any) -> dict[str, Any]:
    """The figures of an evaluation.

    Returns:
        ``task``; ``classes``, a list of dicts with ``class``, ``count`` and the metrics of a class;
        ``confusion`` with ``labels`` and ``matrix`` (truth, prediction); ``curves`` with ``name``,
        ``recall`` and ``precision``; the ``rule`` for the ``worst`` images and these, from the
        worst on: dicts with ``text`` and what is needed to draw them.
    """
    names = list((getattr(dataset, "metainfo", None) or {}).get("classes") or [])
    if evaluation.coco_metric is not None:
        return detection_figures(evaluation, dataset)
    if evaluation.confusion is not None:
        return segmentation_figures(evaluation, names)
    if evaluation.answers:
        return classification_figures(evaluation, names)
    return NOTHING


def detection_figures(evaluation: Evaluation, dataset: Any) -> dict[str, Any]:
    """Of boxes and masks, from the predictions that mmdet's CocoMetric wrote."""
    metric, folder = evaluation.coco_metric, Path(evaluation.folder.name)
    coco, ids = metric._coco_api, list(metric.cat_ids)
    names = [coco.cats[one]["name"] for one in ids]
    counts = [len(coco.getAnnIds(metric.img_ids, one, iscrowd=False)) for one in ids]
    classes = [{"class": n, "count": c} for n, c in zip(names, counts, strict=True)]
    curves: list[dict[str, Any]] = []
    for iou_type, label in (("bbox", "box"), ("segm", "mask")):
        if iou_type not in metric.metrics:
            continue
        run = coco_evaluation(metric, _read(folder / f"found.{iou_type}.json"), iou_type)
        with redirect_stdout(io.StringIO()):
            run.accumulate()
        # (overlaps, recalls, classes), of all sizes; -1 where there is no object.
        values = run.eval["precision"][:, :, :, 0, -1]
        values = np.where(values < 0, np.nan, values)
        for index, line in enumerate(classes):
            line[f"{label} AP"] = _mean(values[:, :, index])
            line[f"{label} AP50"] = _mean(values[0, :, index])
        known = [i for i in np.argsort(counts)[::-1] if counts[i]]
        if known:
            mean = np.nanmean(values[0][:, known], axis=1)
            shown = [(f"{label}, all classes", mean)]
            if iou_type == metric.metrics[0]:
                shown += [(names[i], values[0][:, i]) for i in known[:MOST_CURVES]]
            recall = run.params.recThrs
            curves += [dict(name=n, recall=_list(recall), precision=_list(p)) for n, p in shown]
    matrix, worst = match_boxes(metric, _read(folder / "found.bbox.json"))
    masks = "segm" in metric.metrics
    found = _read(folder / f"found.{'segm' if masks else 'bbox'}.json")
    for index, line in enumerate(classes):
        line["found"] = int(matrix[index, index])
        line["missed"] = int(matrix[index].sum() - matrix[index, index])
        line["wrong boxes"] = int(matrix[:, index].sum() - matrix[index, index])
    shown = _instances(metric, found, [one["img_id"] for one in worst])
    files = _image_files(dataset, {one["img_id"] for one in worst})
    return dict(
        task="detection",
        classes=classes,
        confusion=dict(labels=[*names, "nothing"], matrix=matrix.tolist()),
        curves=curves,
        rule="Most mistakes: objects missed, boxes where nothing is, and boxes of a wrong class. "
        f"A box counts from a score of {SCORE} on, and finds an object from an IoU of {IOU} on.",
        worst=[
            dict(one, image=files.get(one["img_id"], ""), **shown[one["img_id"]]) for one in worst
        ],
    )


def coco_evaluation(metric: Any, found: Sequence[dict], iou_type: str, **params: Any) -> Any:
    """pycocotools' evaluation of predictions, with the settings of an mmdet ``CocoMetric``.

    ``params`` are others of its ``Params``.
    """
    from mmdet.datasets.api_wrappers import COCOeval

    coco = metric._coco_api
    with redirect_stdout(io.StringIO()):
        if iou_type == "segm":  # else pycocotools takes the area of the box for that of the mask
            found = [{key: one[key] for key in one if key != "bbox"} for one in found]
        if found:
            results = coco.loadRes(list(found))
        else:  # of which loadRes makes an error
            results = type(coco)()
            results.dataset = dict(coco.dataset, annotations=[])
            results.createIndex()
        run = COCOeval(coco, results, iou_type)
        given = dict(catIds=metric.cat_ids, imgIds=metric.img_ids, iouThrs=metric.iou_thrs)
        vars(run.params).update(given, maxDets=list(metric.proposal_nums), **params)
        run.evaluate()
    return run


def match_boxes(metric: Any, found: Sequence[dict]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """What is taken for what, and the worst images, after pycocotools' matching without classes.

    Returns:
        Counts (truth, prediction), with "nothing" as last of both; the images with mistakes.
    """
    found = [one for one in found if one["score"] >= SCORE]
    everywhere = dict(areaRng=[[0, 1e10]], areaRngLbl=["all"])
    run = coco_evaluation(metric, found, "bbox", useCats=0, iouThrs=np.array([IOU]), **everywhere)
    truths, boxes = run.cocoGt.anns, run.cocoDt.anns
    index = {one: i for i, one in enumerate(metric.cat_ids)}
    nothing = len(index)
    matrix = np.zeros((nothing + 1, nothing + 1), int)
    images = []
    for one in filter(None, run.evalImgs):
        pairs = []
        for truth, box, crowd in zip(
            one["gtIds"], one["gtMatches"][0], one["gtIgnore"], strict=True
        ):
            if not crowd:
                label = index[boxes[int(box)]["category_id"]] if box else nothing
                pairs.append((index[truths[truth]["category_id"]], label))
        taken = set(map(int, one["gtMatches"][0]))
        for box, ignored in zip(one["dtIds"], one["dtIgnore"][0], strict=True):
            if box not in taken and not ignored:
                pairs.append((nothing, index[boxes[box]["category_id"]]))
        for pair in pairs:
            matrix[pair] += 1
        missed = sum(label == nothing for _, label in pairs)
        extra = sum(truth == nothing for truth, _ in pairs)
        confused = sum(nothing not in pair and pair[0] != pair[1] for pair in pairs)
        text = f"{missed} missed, {extra} where nothing is, {confused} of a wrong class"
        images.append(dict(img_id=one["image_id"], mistakes=missed + extra + confused, text=text))
    images = sorted(images, key=lambda one: -one["mistakes"])[:MOST_WORST]
    return matrix, [one for one in images if one["mistakes"]]


def _instances(metric: Any, found: Sequence[dict], images: Sequence[Any]) -> dict[Any, dict]:
    """Of each image, ``truth`` and ``found``: fields of mmengine's ``InstanceData``."""
    from pycocotools import mask

    coco, masks = metric._coco_api, "segm" in metric.metrics
    index = {one: i for i, one in enumerate(metric.cat_ids)}
    shown = {}
    for image in images:
        truth = [one for one in coco.imgToAnns[image] if one["category_id"] in index]
        boxes = [one for one in found if one["image_id"] == image and one["score"] >= SCORE]
        fields = [_boxes(truth, index), _boxes(boxes, index)]
        fields[1]["scores"] = np.array([one["score"] for one in boxes])
        if masks:
            info = coco.imgs[image]
            empty = np.zeros((0, info["height"], info["width"]), np.uint8)
            drawn = [coco.annToMask(one) for one in truth]
            decoded = [mask.decode(one["segmentation"]) for one in boxes]
            for part, one in zip(fields, (drawn, decoded), strict=True):
                part["masks"] = np.stack(one) if one else empty
        shown[image] = dict(truth=fields[0], found=fields[1])
    return shown


def _boxes(annotations: Sequence[dict], index: Mapping[Any, int]) -> dict[str, np.ndarray]:
    corners = np.array([one["bbox"] for one in annotations], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return dict(
        bboxes=corners, labels=np.array([index[one["category_id"]] for one in annotations], int)
    )


def segmentation_figures(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    """Of label maps, by mmsegmentation's own formulas."""
    from mmseg.evaluation import IoUMetric

    counted = torch.from_numpy(evaluation.confusion).double()
    known = counted[:-1]
    inside, found, truth = known.diagonal(), counted.sum(0), known.sum(1)
    values = IoUMetric.total_area_to_metrics(
        inside, found + truth - inside, found, truth, ["mIoU", "mFscore"]
    )
    columns = {"IoU": "IoU", "accuracy": "Acc", "precision": "Precision"}
    classes = []
    for index, name in enumerate(names):
        line = {"class": name, "count": int(truth[index])}
        line["images"] = int(evaluation.with_class[index])
        classes.append(line | {key: _number(values[of][index]) for key, of in columns.items()})
    points = [
        dict(name=line["class"], recall=[line["accuracy"]], precision=[line["precision"]])
        for line in classes
        if line["accuracy"] is not None and line["precision"] is not None
    ]
    worst = [
        dict(image=sample.get("img_path", ""), iou=1 - badness, text=f"IoU {1 - badness:.3f}")
        | dict(sample=sample)
        for badness, _, sample in sorted(evaluation.worst, key=lambda one: one[:2])[::-1]
    ]
    return dict(
        task="segmentation",
        classes=classes,
        confusion=dict(labels=list(names), matrix=known.long().tolist()),
        curves=points,
        rule="Lowest IoU, a mean over the classes that the image or the prediction has.",
        worst=worst,
    )


def classification_figures(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    """Of one label an image, by mmpretrain's metrics."""
    from mmpretrain.evaluation import ConfusionMatrix

    truth, best, scores = map(np.array, zip(*evaluation.answers, strict=True))
    count = max(len(names), truth.max() + 1, best.max() + 1)
    names = [*names, *map(str, range(len(names), count))]
    labels = torch.from_numpy(best), torch.from_numpy(truth)
    matrix = ConfusionMatrix.calculate(*labels, num_classes=int(count)).numpy()
    support, found, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    classes = [
        {"class": name, "count": int(support[i]), "found": int(right[i])}
        | {"accuracy": float(right[i] / support[i]) if support[i] else None}
        | {"precision": float(right[i] / found[i]) if found[i] else None}
        | {"F1": float(2 * right[i] / (support[i] + found[i])) if support[i] else None}
        for i, name in enumerate(names)
    ]
    frequent = [i for i in np.argsort(support)[::-1] if support[i]][:MOST_CURVES]
    shown = [("all classes", np.ones(len(best), bool), len(truth))]
    shown += [(names[i], best == i, int(support[i])) for i in frequent]
    curves = [
        dict(name=name, **_curve(scores[mine], (best == truth)[mine], number))
        for name, mine, number in shown
        if mine.any()
    ]
    worst = [
        dict(
            image=image if isinstance(image, str) else "",
            text=f"{names[right]} taken for {names[wrong]}, {score:.2f}",
            pixels=image,
        )
        for _, _, ((right, wrong, score), image) in sorted(
            evaluation.worst, key=lambda one: one[:2]
        )[::-1]
    ]
    return dict(
        task="classification",
        classes=classes,
        confusion=dict(labels=names, matrix=matrix.tolist()),
        curves=curves,
        rule="Highest score of a wrong class.",
        worst=worst,
    )


def _curve(scores: np.ndarray, right: np.ndarray, number: int) -> dict[str, list]:
    """Precision and recall of the answers from a falling score on, at most 200 points."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    points = np.unique(np.linspace(0, len(hits) - 1, 200).astype(int))
    return dict(recall=_list(hits[points] / number), precision=_list(hits[points] / (points + 1)))


def most_confused(confusion: Mapping[str, Any], most: int = 10) -> list[tuple[str, str, int]]:
    """Truth, prediction and count of the most frequent mistakes."""
    matrix = np.array(confusion["matrix"])
    np.fill_diagonal(matrix, 0)
    order = np.argsort(matrix, axis=None, kind="stable")[::-1][:most]
    places = [np.unravel_index(one, matrix.shape) for one in order]
    labels = confusion["labels"]
    return [(labels[i], labels[j], int(matrix[i, j])) for i, j in places if matrix[i, j]]


def _image_files(dataset: Any, ids: set) -> dict[Any, str]:
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return {info["img_id"]: info["img_path"] for info in infos if info.get("img_id") in ids}


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _number(value: Any) -> float | None:
    return None if np.isnan(float(value)) else float(value)


def _list(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
