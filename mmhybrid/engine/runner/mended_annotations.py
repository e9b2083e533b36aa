"""Annotations in COCO's format, read as mmdet and COCOeval will, before a run starts."""

import json
import logging
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmhybrid.datasets.check_data.coco import is_coco, read_coco
from mmhybrid.datasets.check_data.problems import PROBLEMS, Found, findings_of
from mmhybrid.datasets.data_paths import classes_of, datasets_of, metrics_of
from mmhybrid.datasets.whole_files import write_whole
from mmhybrid.errors import UserError

# What ends a run in its first batch or evaluation, or gives labels that are wrong.
STOPS = {"bad-file", "bad-entry", "bad-box", "no-images", "class-named-twice"}
STOPS_IN = {
    "train": {"no-outline", "no-objects"},
    "evaluation": {"no-outline", "bad-outline"},
}
# What is no loss; `tools/check_data.py` tells it.
SILENT = {"crowd-box", "class-not-in-config", "box-cut", "image-without-label"}
ADVICE = "`python -m mmhybrid check CONFIG` lists all"


def with_mended_annotations(cfg: Config, loaders: tuple[str, ...]) -> Config:
    """A config that reads copies of those annotation files that need mending.

    They go to ``WORK_DIR/annotations``; data sets and metrics that name the file read the copy.
    What was mended, and what training leaves out, is logged with how often it occurs.

    Args:
        cfg (Config): With ``work_dir``. It stays as it is.
        loaders (tuple[str, ...]): Names of the loaders whose data sets the run reads.

    Raises:
        UserError: Something cannot be mended: the run would stop, or learn nothing.
    """
    cfg = deepcopy(cfg)
    scope = cfg.get("default_scope")
    copies: dict[str, str] = {}
    for loader, dataset in datasets_of(cfg, loaders):
        path = _path(dataset)
        if not path or not is_coco(dataset, scope) or path in copies:
            continue
        try:
            classes = classes_of(dataset, scope)
        except UserError:
            continue  # check_config says so
        contents = read_coco(dataset, classes, header_only=True)
        split = loader.removesuffix("_dataloader")
        told = [one for one in contents.found if one.code not in SILENT]
        _stop(told, split, len(contents.images))
        for finding in findings_of(told, split, len(contents.images), few_are_left_out=True):
            if PROBLEMS[finding.code][0] != "info":
                print_log(finding.text, logger="current", level=logging.WARNING)
        if contents.mended is not None:
            copy = Path(cfg.work_dir, "annotations", f"{split}_{Path(path).name}").absolute()
            write_whole(copy, json.dumps(contents.mended).encode())
            print_log(f"{path} was mended: this run reads {copy}", logger="current")
            copies[path] = str(copy)
    datasets = [dataset for _, dataset in datasets_of(cfg, loaders)]
    metrics = metrics_of(cfg, "val_evaluator") + metrics_of(cfg, "test_evaluator")
    for node in datasets + metrics:
        if isinstance(node, dict) and (path := _path(node)) in copies:
            node["ann_file"] = copies[path]
    return cfg


def _stop(found: list[Found], split: str, images: int) -> None:
    stops = STOPS | STOPS_IN["train" if split == "train" else "evaluation"]
    these = [one for one in found if one.code in stops]
    if these:
        told = "\n".join(f"  {one}" for one in findings_of(these, split, images, False))
        raise UserError(f"a run on these annotations would stop:\n{told}\n  {ADVICE}")


def _path(node: Any) -> str:
    """The annotation file on this machine that a data set or a metric reads."""
    file = node.get("ann_file")
    if not isinstance(file, str) or not file or "://" in file:
        return ""
    if (node.get("backend_args") or {}).get("backend", "local") != "local":
        return ""
    return os.path.abspath(os.path.join(node.get("data_root") or "", file))
