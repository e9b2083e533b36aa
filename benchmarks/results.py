"""Reading the files in ``results/``: rows of benchmarks and of accuracy, none without its origin.

What a run here wrote (:mod:`mmhybrid.engine.runner.results`) becomes rows of accuracy, and so does
what a folder of ``tools/publish.py`` says of its model. Figures of others are entered by hand,
one a row::

    {"model": "TransXNet-T", "method": "Mask R-CNN 1x", "dataset": "COCO", "metric": "box AP",
     "value": 44.5, "config": "mask_rcnn_transxnet_t_coco",
     "origin": {"type": "paper", "source": "https://arxiv.org/abs/2310.19380", "where": "README"}}
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.config_names import parse_config_name
from mmhybrid.errors import UserError
from mmhybrid.weights import list_weights

Row = dict[str, Any]
REQUIRED = {
    "benchmark": {"model", "spec", "mode", "size", "batch_size"},
    "accuracy": {"model", "dataset", "metric", "value", "origin"},
}
OPTIONAL = {"method", "config", "note"}  # of a row of accuracy
# What an origin of each type must say, and how tables call it.
EVALUATION = ("checkpoint", "sha256", "command", "commit", "device")
ORIGINS = {
    "paper": ("source", "where"),
    "converted": EVALUATION,
    "evaluated": EVALUATION,
    "trained": ("command", "seed", "commit", "device"),
}
ORIGIN_NAMES = {
    "paper": "the paper's",
    "converted": "published weights, evaluated here",
    "evaluated": "a checkpoint evaluated here",
    "trained": "trained here",
}
# Metrics of mmdet, mmseg and mmpretrain: the name in tables, and the factor to a percentage.
METRICS = {
    f"{part}_mAP{ending}": (f"{shown} AP{ending.strip('_')}", 100)
    for part, shown in (("bbox", "box"), ("segm", "mask"))
    for ending in ("", "_50", "_75")
} | {
    "mIoU": ("mIoU", 1),
    "accuracy/top1": ("top-1", 1),
    "accuracy/top5": ("top-5", 1),
}


def check_row(row: Mapping[str, Any], type: str = "accuracy") -> None:
    """Raises UserError unless a row is complete and, of accuracy, names its origin."""
    shown = f"a row of {type} ({row.get('model')}, {row.get('dataset')}, {row.get('metric')})"
    if missing := REQUIRED[type] - set(row):
        raise UserError(f"{shown} lacks {', '.join(sorted(missing))}")
    if type == "benchmark":
        return
    if unknown := set(row) - REQUIRED[type] - OPTIONAL:
        raise UserError(f"{shown} has unknown {', '.join(sorted(unknown))}")
    if isinstance(row["value"], bool) or not isinstance(row["value"], int | float):
        raise UserError(f"{shown} has no number: {row['value']!r}")
    if not 0 <= row["value"] <= 100:
        raise UserError(f"{shown} is no percentage: {row['value']}")
    origin = row["origin"] if isinstance(row["origin"], dict) else {}
    needed = ORIGINS.get(origin.get("type"))
    if needed is None:
        raise UserError(f"{shown} names no origin: its type must be one of {', '.join(ORIGINS)}")
    if lacking := [key for key in needed if origin.get(key) in (None, "", "unknown")]:
        raise UserError(f"the origin of {shown} does not say: {', '.join(lacking)}")


def read_results(paths: Iterable[str | Path]) -> dict[str, list[Row]]:
    """All rows, by ``'benchmark'`` and ``'accuracy'``, of JSON files and folders with such files.

    In a folder, files of another format are left out; folders in it that ``tools/publish.py`` wrote
    are read by their config.json. Rows of a benchmark have under ``made`` how
    they were measured.
    """
    found: dict[str, list[Row]] = {type: [] for type in REQUIRED}
    for path in map(Path, paths):
        inside = sorted([*path.glob("*.json"), *path.glob("*/config.json")])
        for file in inside if path.is_dir() else [path]:
            try:
                # Files of mmhybrid 0.1 have "kind" for "type".
                content = json.loads(file.read_text("utf-8").replace('"kind":', '"type":'))
            except FileNotFoundError:
                raise UserError(f"there is no {file}") from None
            except ValueError as error:
                raise UserError(f"{file} is no JSON file: {error}") from error
            if isinstance(content, dict) and content.get("model_type") == "mmhybrid":
                content = content.get("result")  # published; None where it was not evaluated
            type = content.get("type") if isinstance(content, dict) else None
            if type not in (*REQUIRED, "run"):
                if path.is_dir():
                    continue
                raise UserError(f"{file} holds no results: its type is none of run, {REQUIRED}")
            try:
                rows = rows_of_run(content) if type == "run" else content.get("rows", [])
                type = "accuracy" if type == "run" else type
                for row in rows:
                    check_row(row, type)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
            made = dict(made=content.get("made", {})) if type == "benchmark" else {}
            found[type] += [{**row, **made} for row in rows]
    return found


def with_published(results: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """What ``read_results`` returned, with the figures that the catalogue of weights has of whole
    configs, where none of a paper is there."""

    def key(row: Row) -> tuple[Any, ...]:
        return row.get("config"), row["dataset"], row["metric"]

    entered = {key(row) for row in results["accuracy"] if row["origin"]["type"] == "paper"}
    found = []
    for entry in (one for one in list_weights() if one.config):
        name = parse_config_name(entry.config)
        about = dict(model=name.model, config=entry.config, dataset=name.dataset)
        about |= dict(method=name.method) if name.method else {}
        origin = dict(type="paper", source=entry.url, where="published with these weights")
        rows = [dict(about, metric=k, value=v, origin=origin) for k, v in entry.metrics.items()]
        found += [row for row in rows if key(row) not in entered]
    return dict(results, accuracy=[*results["accuracy"], *found])


def rows_of_run(run: Mapping[str, Any]) -> list[Row]:
    """Rows of accuracy from the record of a run: its metrics that are in :data:`METRICS`."""
    name = parse_config_name(run["config"])
    dataset = name.dataset or run["dataset"]
    shared = dict(
        model=name.model,
        config=run["config"],
        dataset=f"{dataset}, quick run" if run.get("quick") else dataset,
        origin=run["origin"],
    )
    shared |= dict(method=name.method) if name.method else {}
    shared |= dict(note=run["note"]) if "note" in run else {}
    rows = [
        dict(shared, metric=metric, value=round(value * factor, 3))
        for key, value in run["metrics"].items()
        for ending, (metric, factor) in METRICS.items()
        # COCO's evaluation says -1 where there was nothing to find.
        if (key == ending or key.endswith(f"/{ending}")) and value >= 0
    ]
    if not rows:
        raise UserError(f"none of these metrics is for a table: {', '.join(run['metrics'])}")
    return rows


def variant(row: Row) -> str:
    """What sets a figure measured here apart from others of its config and origin: its note."""
    return "" if row["origin"]["type"] == "paper" else row.get("note", "")


def subject(row: Row) -> tuple[Any, str]:
    """What a figure is of: a config, or a model by a method, and its variant."""
    return row.get("config") or (row["model"], row.get("method")), variant(row)


def figures_of(rows: Iterable[Row]) -> list[Row]:
    """The rows of accuracy that tables show, with one key more, ``runs``: what the value is of.

    Runs trained here that differ in their seed alone are one row with their mean. Of other rows
    that say the same, the last stays: they are no repetitions.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (*subject(row), row["dataset"], row["metric"], row["origin"]["type"])
        groups.setdefault(key, []).append(row)
    figures = []
    for group in groups.values():
        runs = group if group[0]["origin"]["type"] == "trained" else group[-1:]
        value = runs[0]["value"]
        if len(runs) > 1:
            value = round(statistics.mean(run["value"] for run in runs), 3)
        figures.append(dict(runs[-1], value=value, runs=runs))
    return figures
