"""The files in ``results/`` that the leaderboard reads: one small JSON format, checked.

A file says of what ``kind`` it is and holds ``rows``:

* ``"benchmark"``: rows of :func:`mmhybrid.analysis.benchmark.benchmark`, and under ``made`` the
  command, commit, device and settings of the run.
* ``"accuracy"``: one figure a row, each with its origin::

      {"model": "TransXNet-T", "method": "Mask R-CNN 1x", "dataset": "COCO", "metric": "box AP",
       "value": 44.5, "config": "mask_rcnn_transxnet_t_coco",
       "origin": {"kind": "paper", "source": "https://arxiv.org/abs/2310.19380", "where": "README"}}

No row without an origin, of a known kind and complete, is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from benchmarks.config_names import parse_config_name
from mmhybrid.engine.runner.provenance import command, commit, device_name
from mmhybrid.engine.runner.report import read_log
from mmhybrid.engine.runner.run_config import UserError

Row = dict[str, Any]
KINDS = ("benchmark", "accuracy")
# What each kind of origin must say, and how it is called.
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
ADDRESSES = ("http://", "https://", "mim://")
TTA_NOTE = "test-time augmentation"
ACCURACY_KEYS = {"model", "dataset", "metric", "value", "origin"}
OPTIONAL_KEYS = {"method", "config", "note"}
BENCHMARK_KEYS = {"model", "spec", "mode", "size", "batch_size"}
# How the evaluators of mmdet, mmseg and mmpretrain call what tables show, with the factor that
# makes it a percentage.
METRICS = {
    "bbox_mAP": ("box AP", 100),
    "bbox_mAP_50": ("box AP50", 100),
    "bbox_mAP_75": ("box AP75", 100),
    "segm_mAP": ("mask AP", 100),
    "segm_mAP_50": ("mask AP50", 100),
    "segm_mAP_75": ("mask AP75", 100),
    "mIoU": ("mIoU", 1),
    "accuracy/top1": ("top-1", 1),
    "accuracy/top5": ("top-5", 1),
}


def check_accuracy(row: Mapping[str, Any]) -> None:
    """Raises UserError unless a row is complete and says where its figure comes from."""
    shown = f"{row.get('model')}, {row.get('dataset')} {row.get('metric')}"
    missing = ACCURACY_KEYS - set(row)
    if missing:
        raise UserError(f"a row of accuracy ({shown}) lacks {', '.join(sorted(missing))}")
    unknown = set(row) - ACCURACY_KEYS - OPTIONAL_KEYS
    if unknown:
        raise UserError(f"a row of accuracy ({shown}) has unknown {', '.join(sorted(unknown))}")
    if isinstance(row["value"], bool) or not isinstance(row["value"], int | float):
        raise UserError(f"a row of accuracy ({shown}) has no number: {row['value']!r}")
    if not 0 <= row["value"] <= 100:
        raise UserError(f"a row of accuracy ({shown}) is no percentage: {row['value']}")
    origin = row["origin"]
    kind = origin.get("kind") if isinstance(origin, dict) else None
    if kind not in ORIGINS:
        raise UserError(
            f"a row of accuracy ({shown}) names no origin: 'kind' must be one of "
            f"{', '.join(ORIGINS)}, not {kind!r}"
        )
    lacking = [key for key in ORIGINS[kind] if origin.get(key) in (None, "", "unknown")]
    if lacking:
        raise UserError(f"the origin of {shown} ({kind}) does not say: {', '.join(lacking)}")


def check_benchmark(row: Mapping[str, Any]) -> None:
    """Raises UserError unless a row says what was measured."""
    missing = BENCHMARK_KEYS - set(row)
    if missing:
        raise UserError(f"a row of a benchmark lacks {', '.join(sorted(missing))}: {dict(row)}")


CHECKS = {"benchmark": check_benchmark, "accuracy": check_accuracy}


def write_results(path: str | Path, kind: str, rows: Iterable[Row], **more: Any) -> None:
    """Writes a file of results, so that a stopped run leaves the old one or the new one.

    Args:
        path: of the file; its folder is made.
        kind: of :data:`KINDS`.
        rows: checked first.
        **more: what else the file holds, such as ``made``.

    Raises:
        UserError: a row is not complete.
    """
    rows = list(rows)
    for row in rows:
        CHECKS[kind](row)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(dict(kind=kind, **more), indent=1, ensure_ascii=False)[:-2]
    part = path.with_name(path.name + ".part")
    part.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    os.replace(part, path)


def read_results(paths: Iterable[str | Path]) -> dict[str, list[Row]]:
    """Reads files of results, and folders with such files.

    Args:
        paths: JSON files, or folders whose ``*.json`` are read; those in a folder that are of no
            kind known here are left out.

    Returns:
        All rows by kind. Rows of a benchmark have under ``made`` how they were measured.

    Raises:
        UserError: a file is missing, cannot be read, or holds an incomplete row.
    """
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for path in map(Path, paths):
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise UserError(f"there is no {file}") from None
            except ValueError as error:
                raise UserError(f"{file} is no JSON file: {error}") from error
            kind = content.get("kind") if isinstance(content, dict) else None
            if kind not in KINDS:
                if path.is_dir():
                    continue
                raise UserError(f"{file} holds no results: its 'kind' is none of {KINDS}")
            for row in content.get("rows", []):
                try:
                    CHECKS[kind](row)
                except UserError as error:
                    raise UserError(f"{file}: {error}") from error
                made = dict(made=content.get("made", {})) if kind == "benchmark" else {}
                found[kind].append({**row, **made})
    return found


def accuracy_rows(metrics: Mapping[str, Any], **row: Any) -> list[Row]:
    """Rows of accuracy from what an evaluation returned.

    Args:
        metrics: e.g. ``{'coco/bbox_mAP': 0.445}``. Those that :data:`METRICS` has are taken.
        **row: what all rows share: ``model``, ``dataset``, ``origin`` and so on.
    """
    rows = []
    for key, value in metrics.items():
        for ending, (metric, factor) in METRICS.items():
            # COCO's evaluation says -1 where there was nothing to find.
            if (key == ending or key.endswith(f"/{ending}")) and value >= 0:
                rows.append(dict(row, metric=metric, value=round(float(value) * factor, 3)))
    return rows


def variant(row: Row) -> str:
    """What sets a figure measured here apart from others of its config and kind: its note."""
    return "" if row["origin"]["kind"] == "paper" else row.get("note", "")


def subject(row: Row) -> tuple[Any, str]:
    """What a figure is of: a config, or a model by a method, and its variant."""
    return row.get("config") or (row["model"], row.get("method")), variant(row)


def figures_of(rows: Iterable[Row]) -> list[Row]:
    """The rows of accuracy that tables show.

    Runs trained here that differ in their seed alone are one row with their mean. Of other rows
    that say the same, the last stays: they are no repetitions.

    Args:
        rows: of :func:`read_results`.

    Returns:
        Rows with one key more, ``runs``: those that the value is of.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (*subject(row), row["dataset"], row["metric"], row["origin"]["kind"])
        groups.setdefault(key, []).append(row)
    figures = []
    for group in groups.values():
        runs = group if group[0]["origin"]["kind"] == "trained" else group[-1:]
        mean = statistics.mean(run["value"] for run in runs)
        value = round(mean, 3) if len(runs) > 1 else runs[0]["value"]
        figures.append(dict(runs[-1], value=value, runs=runs))
    return figures


def checkpoint_origin(
    checkpoint: str | Path, device: str = "cpu", *, published: bool = False
) -> Row:
    """The origin of figures that this process evaluates with weights that it did not train.

    They count as published where they have an address, or where somebody says so.
    """
    published = published or str(checkpoint).startswith(ADDRESSES)
    file, digest = Path(checkpoint), "not kept"
    if file.is_file():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return dict(
        kind="converted" if published else "evaluated",
        checkpoint=str(checkpoint),
        sha256=digest,
        command=command(),
        commit=commit(),
        device=device_name(device),
    )


def write_training_result(runner: Runner, config: str, quick: bool = False) -> Path | None:
    """Writes ``result.json`` into the work folder: what a training run ended with, and its origin.

    Args:
        runner: after training.
        config: path of the config.
        quick: whether it was a quick run, whose data are not the config's.

    Returns:
        The file, or None where nothing was evaluated.
    """
    _, evaluations = read_log(Path(runner.log_dir) / "vis_data" / "scalars.json")
    origin = dict(
        kind="trained",
        command=command(),
        seed=runner.seed,
        commit=commit(),
        device=device_name(_device(runner)),
    )
    about = _about(config, quick, runner.train_dataloader.dataset)
    rows = accuracy_rows(evaluations[-1] if evaluations else {}, **about, origin=origin)
    if not rows or runner.rank != 0:
        return None
    file = Path(runner.work_dir) / "result.json"
    write_results(file, "accuracy", rows)
    return file


def write_test_result(
    path: str,
    metrics: Mapping[str, Any],
    runner: Runner,
    config: str,
    quick: bool = False,
    *,
    tta: bool = False,
    published: bool = False,
) -> None:
    """Writes what an evaluation returned, with its origin.

    That is training here, where ``result.json`` lies beside the checkpoint, and otherwise
    :func:`checkpoint_origin`.

    Args:
        path: of the file.
        metrics: what the evaluation returned.
        runner: after the evaluation; its ``load_from`` is the checkpoint.
        config: path of the config.
        quick: whether the data are those of a quick run.
        tta: whether images were augmented; the rows say so in their note.
        published: whether others published the checkpoint.

    Raises:
        UserError: there is no metric that tables show.
    """
    checkpoint = runner._load_from
    training = Path(checkpoint).parent / "result.json"
    if training.is_file():
        origin = read_results([training])["accuracy"][0]["origin"]
    else:
        origin = checkpoint_origin(checkpoint, _device(runner), published=published)
    about = _about(config, quick, runner.test_dataloader.dataset)
    if tta:
        about["note"] = TTA_NOTE
    rows = accuracy_rows(metrics, **about, origin=origin)
    if not rows:
        raise UserError(f"none of these metrics is for a table: {', '.join(metrics)}")
    if runner.rank == 0:
        write_results(path, "accuracy", rows)


def _device(runner: Runner) -> str:
    return str(next(runner.model.parameters()).device)


def _about(config: str, quick: bool, dataset: Any) -> Row:
    """What all rows of a run share."""
    name = parse_config_name(Path(config).stem)
    about = dict(model=name.model, config=Path(config).stem)
    if name.method:
        about["method"] = name.method
    shown = name.dataset or type(dataset).__name__
    return about | dict(dataset=f"{shown}, quick run" if quick else shown)
