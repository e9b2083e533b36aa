"""The names and the number of the classes in every place of a config that has them."""

import logging
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.engine.runner.config_parts import Part, arguments_of, parts_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

Colour = tuple[int, int, int]

# The config of ours that learns from data of each task.
OURS = {
    "detection": "configs/retinanet_transxnet_t_coco.py",
    "instances": "configs/mask_rcnn_transxnet_t_coco.py",
    "segmentation": "configs/upernet_transxnet_t_ade20k.py",
    "classification": "configs/transxnet_t_imagenet.py",
}
# Base classes of the models whose outputs are classes, in the order that the tasks are tried.
TASKS = {
    "BaseDetector": "detection",
    "BaseSegmentor": "segmentation",
    "BaseClassifier": "classification",
}
# Base classes of models to which no list of classes can be given, and what they do instead.
OUT_OF_REACH = {
    "BaseMOTModel": "follows objects through videos",
    "BaseReID": "tells persons apart",
    "DepthEstimator": "predicts depth",
    "GLIP": "finds what a text names",
    "GroundingDINO": "finds what a text names",
    "MultimodalEncoderDecoder": "finds what a text names",
    "RPN": "proposes boxes of no class",
    "TwoStagePanopticSegmentor": "needs things and stuff in one annotation",
}
# Heads below these keys have a number of classes of their own: one of a proposal network, and that
# of COCO's stuff.
OTHER_CLASSES = ("rpn_head", "semantic_head")
WEIGHTS = ("class_weight", "pos_weight")
# Variables of a config's text that MMEngine does not read, and that tell of other data.
VARIABLES = re.compile(
    r"(.+_)?(pipelines?|dataset|datasets|class(es)?|class_names?|class_weight|palette|metainfo"
    r"|METAINFO|data_root|data|ann|ann_file|img_prefix)(_.+|\d)?"
    r"|dataset_.+|used_labels|num_(things_|stuff_)?classes"
)
READ = ("tta_pipeline", "data_preprocessor")


def with_classes(cfg: Config, classes: Sequence[str], palette: Sequence[Colour]) -> Config:
    """A config that learns, predicts, evaluates and draws these classes.

    Which arguments are a number of classes:

    * ``num_classes``, of anything but heads below ``rpn_head`` (one class: object) and
      ``semantic_head`` (COCO's stuff); where a part does not give it, and its class has a number as
      default (mmdet's box and mask heads: 80), it is written down;
    * ``num_things_classes``, while ``num_stuff_classes`` becomes 0, in heads that give them;
    * ``out_channels`` of mmseg's heads that repeats ``num_classes``, or is the 1 of two classes;
    * the length of ``class_weight`` and ``pos_weight``: equal weights are repeated, with the last
      one kept where it is that of no object (Mask2Former); weights of single classes are those of
      other classes, and are left out with a warning, unless the data sets are of these already;
    * ``topk`` of classifiers' heads and of ``Accuracy``: an entry that does not fit is left out;
    * ``num_classes`` of a classifier's ``data_preprocessor``, which mixup needs, in any case.

    Every data set gets ``classes`` and ``palette`` as ``metainfo``, and a visualizer that names
    some gets them too. Variables of the config's text that say something about other data and that
    nothing reads go.

    Args:
        cfg (Config): Of a detector, a segmentor or a classifier, in either of MMEngine's styles,
            with ``default_scope``. It stays as it is.
        classes (Sequence[str]): Names.
        palette (Sequence[tuple[int, int, int]]): A colour (R, G, B) for each.

    Raises:
        UserError: The model has no fixed classes, no place for their number, or a head of a type
            that does not exist.
    """
    task = task_of(cfg)
    cfg = deepcopy(cfg)
    count = len(classes)
    metainfos = [dataset.get("metainfo") or {} for _, dataset in datasets_of(cfg)]
    are_new = any(tuple(one.get("classes") or ()) != tuple(classes) for one in metainfos or [{}])
    for name in [one for one in cfg if VARIABLES.fullmatch(one) and one not in READ]:
        cfg.pop(name)
    model_parts = [part for part in parts_of(cfg) if part.path[:1] == ("model",)]
    old = _set_counts(model_parts, count)
    if not old:
        raise UserError(
            f"the {type_name(cfg.model)} of this config has no place for a number of classes, such "
            f"as num_classes of a head; {_ours(task)}"
        )
    if task == "classification":
        inner = cfg.model.get("data_preprocessor")
        (inner or cfg.setdefault("data_preprocessor", ConfigDict()))["num_classes"] = count
    for part in parts_of(cfg):
        if part.path[:1] != ("model",) and type(part.node.get("num_classes")) is int:
            part.node["num_classes"] = count
        for key in set(WEIGHTS) & set(part.given) if are_new else ():
            _set_weights(part, key, count, old)
        if "topk" in part.node and _is_accuracy(part):
            part.node["topk"] = fitting_topk(part.node["topk"], count)
        if part.path == ("visualizer",):
            part.node.pop("dataset_name", None)
            named = dict(classes=list(classes), palette=list(palette))
            part.node.update({key: named[key] for key in named if key in part.node})
    for _, dataset in datasets_of(cfg):
        dataset["metainfo"] = ConfigDict(classes=tuple(classes), palette=list(palette))
    return cfg


def task_of(cfg: Config) -> str:
    """What a config learns: ``task`` of the ``PreparedData`` that fits it best.

    Raises:
        UserError: Its model is no detector, segmentor or classifier of a fixed list of classes.
    """
    if not cfg.get("model"):
        raise UserError("the config has no model")
    node, scope = cfg.model, cfg.get("default_scope")
    bases = Part((), node, scope).bases()
    # Around the model: test-time augmentation, semi-supervised training.
    while not bases & OUT_OF_REACH.keys() and "type" in (inner := _inside(node)):
        node, bases = inner, Part((), inner, scope).bases()
    name = type_name(cfg.model)
    if not bases:
        raise UserError(f"model: there is no type {name!r} in {scope or 'MMEngine'}")
    task = next((TASKS[base] for base in TASKS if base in bases), None)
    for base in bases & OUT_OF_REACH.keys():
        raise UserError(f"{name} {OUT_OF_REACH[base]}: {_ours(task or 'detection')}")
    if task is None:
        raise UserError(
            f"{name} is no detector, segmentor or classifier: {_ours('classification')}"
        )
    head = node.get("head") or {}
    if isinstance(head, dict) and "MultiLabelClsHead" in Part((), head, scope).bases():
        raise UserError(f"{type_name(head)} gives an image several labels: {_ours(task)}")
    panoptic = node.get("panoptic_head")
    if panoptic and panoptic.get("num_stuff_classes", 53):
        raise UserError(
            f"a panoptic {name} {OUT_OF_REACH['TwoStagePanopticSegmentor']}: {_ours('instances')}"
        )
    # BoxInst predicts masks and learns from boxes.
    with_masks = task == "detection" and has_masks(node) and name != "BoxInst"
    return "instances" if with_masks else task


def _inside(model: Any) -> Any:
    return model.get("module") or model.get("detector") or {}


def has_masks(model: Any) -> bool:
    """Whether a detector predicts masks."""
    second = model.get("roi_head") or {}
    inside = [model.get("mask_head"), model.get("panoptic_head"), second.get("mask_head")]
    detectron2 = (model.get("detector") or {}).get("mask_on")
    return any(inside) or bool(detectron2) or "Ins" in type_name(model.get("bbox_head") or {})


def fitting_topk(topk: Any, count: int) -> tuple[int, ...]:
    """Those k of ``topk`` that say something of so many classes; 1 if none does."""
    topk = (topk,) if isinstance(topk, int) else topk
    return tuple(k for k in topk if k < count) or (1,)


def _ours(task: str) -> str:
    return f"{OURS[task]} can be trained on a list of classes"


def _set_counts(parts: list[Part], count: int) -> set[int]:
    """Writes the number of classes into the parts of a model; returns the numbers that it had."""
    old: set[int] = set()
    for part in parts:
        node = part.node
        if set(part.path) & set(OTHER_CLASSES):
            continue
        found = part.found()
        if found is None and (part.key == "head" or part.key.endswith("_head")) and "type" in node:
            raise UserError(f"{part.where}: there is no type {type_name(node)!r}")
        given = part.given
        now = given.get("num_classes")
        if now is None and found is not None:
            default = arguments_of(found)[0].get("num_classes")
            now = default if type(default) is int and default > 1 else None
        if type(now) is int and now > 0:
            old.add(now)
            node["num_classes"] = count
            if given.get("out_channels") in (now, 1):
                node["out_channels"] = None
        if "num_things_classes" in given or "num_stuff_classes" in given:
            old.add(given.get("num_things_classes", 0) + given.get("num_stuff_classes", 0))
            node.update(num_things_classes=count, num_stuff_classes=0)
    return old


def _set_weights(part: Part, key: str, count: int, old: set[int]) -> None:
    weights = part.given[key]
    if weights is None or isinstance(weights, int | float):
        return
    if not isinstance(weights, str) and len(set(weights)) == 1 and len(weights) in old:
        part.node[key] = [weights[0]] * count
    elif not isinstance(weights, str) and len(set(weights[:-1])) == 1 and len(weights) - 1 in old:
        part.node[key] = [weights[0]] * count + [weights[-1]]
    else:
        part.node[key] = None
        message = f"{part.where}.{key} is left out: it weighs the classes of other data"
        print_log(message, logger="current", level=logging.WARNING)


def _is_accuracy(part: Part) -> bool:
    return type_name(part.node) == "Accuracy" or "ClsHead" in part.bases()
