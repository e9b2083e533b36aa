"""Tables of what was measured and what was reported, none without its origin.

A figure of accuracy stands in a column of its metric *and* the type of its origin, so that figures
of the papers, of published weights and of training here never share one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.config_names import NEIGHBOURS, WRAPPED, family_names
from benchmarks.leaderboard_page import to_html
from benchmarks.model_index import read_costs
from benchmarks.results import (
    ORIGIN_NAMES,
    ORIGINS,
    Row,
    figures_of,
    read_results,
    subject,
    variant,
    with_published,
)
from mmhybrid.analysis.tables import markdown_table

# The order of the tables; other data sets follow.
DATASETS = ("ImageNet-1K", "COCO", "ADE20K", "Cityscapes", "CIFAR-10", "CIFAR-100", "Tiny-ImageNet")


def leaderboard(results: Mapping[str, list[Row]], costs: Mapping[str, Row]) -> dict[str, Any]:
    """Arranges what ``read_results`` and ``read_costs`` return.

    Returns:
        ``tables``, each with ``title``, ``note``, ``columns`` (``key``, ``title``, ``digits`` of
        figures or None for text) and ``rows``; ``origins``, all of them in words, which rows name
        by number under ``sources``; and ``points`` for charts.
    """
    origins: list[str] = []
    tables = []
    for dataset in dict.fromkeys([*DATASETS, *(row["dataset"] for row in results["accuracy"])]):
        if rows := [row for row in results["accuracy"] if row["dataset"] == dataset]:
            tables.append(_accuracy_table(dataset, rows, costs, origins))
    tables += _speed_tables(results["benchmark"])
    return dict(tables=tables, origins=origins, points=_points(results, costs))


def _columns(*columns: tuple[str, str, int | None]) -> list[Row]:
    return [dict(key=key, title=title, digits=digits) for key, title, digits in columns]


def _accuracy_table(
    dataset: str, rows: list[Row], costs: Mapping[str, Row], origins: list[str]
) -> Row:
    there = {(row["metric"], row["origin"]["type"]) for row in rows}
    columns = _columns(
        ("model", "model", None),
        ("method", "method", None),
        ("parameters", "parameters, M", 1),
        ("flops", "FLOPs, G", 2),
        *(
            (f"{metric}/{type}", f"{metric}, {ORIGIN_NAMES[type]}", 2)
            for metric in dict.fromkeys(row["metric"] for row in rows)
            for type in ORIGINS
            if (metric, type) in there
        ),
        ("sources", "origin", None),
    )

    lines: dict[tuple[Any, str], Row] = {}
    for row in figures_of(rows):
        # What has a config is one line, however its method is called.
        empty = dict(model=row["model"], method=_method(row), sources=[])
        line = lines.setdefault(subject(row), empty)
        if cost := costs.get(row.get("config", "")):
            line.update(parameters=cost["parameters"] / 1e6, flops=cost["flops"] / 1e9)
        for run in row["runs"]:
            if (origin := describe_origin(run)) not in origins:
                origins.append(origin)
            line["sources"].append(f"[{origins.index(origin) + 1}]")
        line[f"{row['metric']}/{row['origin']['type']}"] = row["value"]
    for line in lines.values():
        line["sources"] = " ".join(dict.fromkeys(line["sources"]))
        line["ours"] = is_ours(line["model"])
    note = "In per cent. FLOPs as OpenMMLab's tables count them, at the size that papers use."
    return dict(title=dataset, note=note, columns=columns, rows=list(lines.values()))


def _method(row: Row) -> str:
    return ", ".join(filter(None, [row.get("method"), variant(row)]))


def describe_origin(row: Row) -> str:
    """The origin of a row of accuracy, in a sentence."""
    origin = row["origin"]
    type = origin["type"]
    if type == "paper":
        words = [origin["source"], origin["where"]]
    elif type == "trained":
        words = [origin["command"], f"seed {origin['seed']}"]
    else:
        digest = origin["sha256"][:12]
        words = [f"{origin['checkpoint']} (SHA-256 {digest})", origin["command"]]
    if type != "paper":
        words += [f"commit {origin['commit']}", origin["device"]]
    text = f"{ORIGIN_NAMES[type]}: {', '.join(words)}"
    return f"{text}; {row['note']}" if "note" in row else text


def is_ours(model: str) -> bool:
    """Whether a model is one of this package's."""
    families = set(family_names().values()) - set(NEIGHBOURS.values())
    ours = any(f"{model}-".startswith(f"{family}-") for family in families)
    return ours or model.endswith(WRAPPED)


SPEED_COLUMNS = (
    ("model", "model", None, 1),
    ("mode", "mode", None, 1),
    ("parameters", "parameters, M", 1, 1e-6),
    ("macs", "MACs, G", 2, 1e-9),
    ("mm_macs", "FLOPs, G", 2, 1e-9),
    ("activations", "activations, M", 1, 1e-6),
    ("latency", "latency, ms", 1, 1e3),
    ("throughput", "images/s", 2, 1),
    ("training", "training step, ms", 1, 1e3),
    ("forward_memory", "memory, MiB", 0, 2**-20),
    ("training_memory", "training memory, MiB", 0, 2**-20),
)
SPEED_NOTE = (
    "Times are medians of rounds in which all models took turns; compare them within this table "
    "only. Memory is the peak beyond the weights. MACs are all that is multiplied and accumulated; "
    "FLOPs as OpenMMLab's tables count them, without attention and dynamic convolutions."
)


def _speed_tables(rows: list[Row]) -> list[Row]:
    """A table for each run and size: times of different runs do not compare."""
    tables: dict[tuple[str, ...], Row] = {}
    for row in rows:
        note = SPEED_NOTE
        if made := row["made"]:
            note += (
                f" {made['command']}, commit {made['commit']}, {made['date']}: {made['device']}, "
                f"PyTorch {made['torch']}."
            )
        title = f"Speed and memory at {'x'.join(map(str, row['size']))}"
        columns = _columns(*(column[:3] for column in SPEED_COLUMNS))
        empty = dict(title=title, note=note, columns=columns, rows=[])
        table = tables.setdefault((title, json.dumps(made)), empty)
        line = {
            key: row[key] if digits is None else row[key] * factor
            for key, _, digits, factor in SPEED_COLUMNS
            if key in row
        }
        if "latency" in row:
            line["throughput"] = row["batch_size"] / row["latency"]
        if "error" in row:
            line["mode"] += f" ({row['error']})"
        table["rows"].append(dict(line, ours=is_ours(row["model"])))
    return list(tables.values())


# By the axis of a chart, in the units of leaderboard_page.AXES.
CHARTED = dict(flops=("flops", 1e-9), latency=("latency", 1e3), memory=("training_memory", 2**-20))


def _points(results: Mapping[str, list[Row]], costs: Mapping[str, Row]) -> list[Row]:
    """Accuracies with the costs that are known of their models, for charts."""
    speed = {row["model"]: row for row in results["benchmark"] if row["mode"] == "eager"}
    points = []
    for row in figures_of(results["accuracy"]):
        known = costs.get(row.get("config", ""), {}) | speed.get(row["model"], {})
        cost = {k: known[key] * by for k, (key, by) in CHARTED.items() if key in known}
        series = f"{row['dataset']}, {row['metric']}, {ORIGIN_NAMES[row['origin']['type']]}"
        about = dict(model=row["model"], method=_method(row), ours=is_ours(row["model"]))
        if cost:
            points.append(dict(about, series=series, value=row["value"], **cost))
    return points


def _shown(value: Any, digits: int | None) -> str:
    if value is None:
        return "-"
    return str(value) if digits is None else f"{value:.{digits}f}"


def to_markdown(board: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    head = (
        "Written by `python -m benchmarks leaderboard` from `results/`, with "
        "[leaderboard.csv](leaderboard.csv), every figure and its whole origin, and "
        "`leaderboard.html` with charts. Figures of papers, of published weights and of training "
        "here never share a column. A file of `tools/test.py --result` joins by lying in "
        "`results/`."
    )
    parts = ["# Leaderboard", head]
    for table in board["tables"]:
        columns = table["columns"]
        rows = [[_shown(row.get(c["key"]), c["digits"]) for c in columns] for row in table["rows"]]
        grid = markdown_table([column["title"] for column in columns], rows)
        parts += [f"## {table['title']}", table["note"], grid]
    origins = [f"{number}. {text}" for number, text in enumerate(board["origins"], 1)]
    return "\n\n".join([*parts, "## Origins", "\n".join(origins)]) + "\n"


def to_csv(results: Mapping[str, list[Row]], costs: Mapping[str, Row]) -> str:
    """Every figure of accuracy as a line, with its whole origin and the cost of its config."""
    details = list(dict.fromkeys(key for keys in ORIGINS.values() for key in keys))
    head = ["dataset", "model", "method", "metric", "value", "config", "parameters", "flops"]
    head += ["note", "origin", *details]
    file = io.StringIO()
    writer = csv.DictWriter(file, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in results["accuracy"]:
        origin = row["origin"]
        cost = costs.get(row.get("config", ""), {})
        writer.writerow({**cost, **row, **origin, "origin": origin["type"]})
    return file.getvalue()


def write_leaderboard(root: Path, paths: Iterable[str | Path], out: Path) -> str:
    """Writes leaderboard.md, .csv and .html into ``out``, and says so in a line.

    The costs of all configs are from the model index in the checkout ``root``.
    """
    results, costs = with_published(read_results(paths)), read_costs(root)
    board = leaderboard(results, costs)
    texts = {"md": to_markdown(board), "csv": to_csv(results, costs), "html": to_html(board)}
    out.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        (out / f"leaderboard.{ending}").write_text(text, encoding="utf-8")
    accuracies, measured = len(results["accuracy"]), len(results["benchmark"])
    return f"{accuracies} accuracies, {measured} measured models: leaderboard.* in {out}"
