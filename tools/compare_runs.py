#!/usr/bin/env python
"""Compare finished or running trainings: one table and one plot of several runs, seed by seed."""

import argparse
import json
import math
import sys
from collections import Counter
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from command_line import make_parser, prepare

EXAMPLES = """examples:
  A method with and without a part, three seeds each (quote what holds a star):
    python tools/compare_runs.py "plain=work_dirs/plain_*" "shortcut=work_dirs/dw_*" \\
        --out results/dw_cifar10
  One run alone:
    python tools/compare_runs.py TransXNet=work_dirs/retinanet_transxnet_t_coco --out curves
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", metavar="NAME=FOLDERS", help="a name, and a pattern of work folders")
    add("--out", required=True, help="where to write: PATH.png, PATH.md and PATH.json")
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    runs = []
    for word in args.runs:
        name, sign, pattern = word.partition("=")
        folders = sorted(glob(pattern))
        if not sign or not folders:
            sys.exit(f"error: {word!r} is not NAME=FOLDERS with a pattern that fits a folder")
        runs += [{"name": name, **read_run(Path(folder))} for folder in folders]
    out = Path(args.out)
    out = out.with_suffix("") if out.suffix in (".json", ".md", ".png") else out
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(runs, indent=1) + "\n")
    table = table_of(runs) + "\n"
    Path(f"{out}.md").write_text(table, encoding="utf-8")
    draw(runs, Path(f"{out}.png"))
    print(table + f"Written: {out}.png, {out}.md, {out}.json")


def read_run(folder: Path) -> dict[str, Any]:
    """The seed of the newest run in a work folder, and its losses and metrics by iteration, those
    of the runs that it resumed included."""
    from mmhybrid.engine.runner.report import headlines, read_lines
    from mmhybrid.weights.config_data import config_from_text
    from mmhybrid.weights.errors import UnsafeCheckpointError

    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    if not logs:
        sys.exit(f"error: {folder} holds no log of a run (TIME/vis_data/scalars.json)")
    losses, metrics = [], []
    for log in logs:
        lines = read_lines(log)
        # What a run that broke had done beyond its checkpoint, the next one did again.
        start = next((line["step"] for line in lines if "loss" in line), math.inf)
        losses = [point for point in losses if point[0] < start]
        metrics = [point for point in metrics if point[0] < start]
        step = losses[-1][0] if losses else 0
        for line in lines:
            if "loss" in line:
                step = line["step"]
                losses.append((step, line["loss"]))
            else:  # an evaluation; its own step may count epochs
                metrics.append((step, headlines(line) or _figures(line)))
    seed = None
    with suppress(OSError, UnsafeCheckpointError):  # the run's own config, which is not executed
        config = logs[-1].parent / "config.py"
        seed = config_from_text(config.read_text(), str(config)).get("randomness", {}).get("seed")
    return {"folder": str(folder), "seed": seed, "losses": losses, "metrics": metrics}


def _figures(line: dict[str, Any]) -> dict[str, float]:
    """All metrics of an evaluation, by the names that they have in the log."""
    others = ("step", "time", "data_time", "epoch", "iter")
    return {
        key: value
        for key, value in line.items()
        if key not in others and isinstance(value, int | float)
    }


def table_of(runs: list[dict[str, Any]]) -> str:
    """The last metrics of each run, one row a seed and one column a name and metric.

    A run whose seed is not known, or is that of another run of its name, has a row of its own.
    Where a name has several runs, their mean and standard deviation (n - 1) follow.
    """
    import numpy as np

    from mmhybrid.analysis.tables import markdown_table

    seeds = Counter((run["name"], run["seed"]) for run in runs)
    last: dict[Any, dict[tuple[str, str], float]] = {}
    for run in runs:
        known = run["seed"] is not None and seeds[run["name"], run["seed"]] == 1
        row = last.setdefault(run["seed"] if known else run["folder"], {})
        for _, metrics in run["metrics"][-1:]:
            row |= {(run["name"], label): value for label, value in metrics.items()}
    names = dict.fromkeys(run["name"] for run in runs)
    labels = dict.fromkeys(label for row in last.values() for _, label in row)
    columns = [(name, label) for label in labels for name in names]
    head = "run" if any(isinstance(title, str) for title in last) else "seed"
    rows = [[title] for title in last]
    several = ["mean ± standard deviation"]
    for column in columns:
        values = [row[column] for row in last.values() if column in row]
        decimals = 3 if values and max(values) <= 1 else 2  # 0.385 of mmdet, 77.30 of others
        for cells, row in zip(rows, last.values(), strict=True):
            cells.append(f"{row[column]:.{decimals}f}" if column in row else "")
        spread = (np.mean(values), np.std(values, ddof=1)) if values[1:] else ()
        several.append(" ± ".join(f"{value:.{decimals}f}" for value in spread))
    if any(several[1:]):
        rows.append(several)
    return markdown_table([head, *(f"{name}, {label}" for name, label in columns)], rows)


def draw(runs: list[dict[str, Any]], file: Path) -> None:
    """Losses on the left; the first metric, if there is one, on the right; one colour a name."""
    from matplotlib.figure import Figure

    evaluated = any(run["metrics"] for run in runs)
    figure = Figure(figsize=(11 if evaluated else 6, 4), layout="constrained")
    left, *right = figure.subplots(1, 2 if evaluated else 1, squeeze=False)[0]
    names = list(dict.fromkeys(run["name"] for run in runs))
    for run in runs:
        style = dict(color=f"C{names.index(run['name'])}", alpha=0.8)
        left.plot(*zip(*run["losses"], strict=True), lw=1, **style)
        label = next(iter(run["metrics"][0][1]), None) if run["metrics"] else None
        if label:
            points = [(step, of[label]) for step, of in run["metrics"] if label in of]
            right[0].plot(*zip(*points, strict=True), "o-", **style)
            right[0].set(title=label)
    left.set(title="training loss")
    for axes in (left, *right):
        axes.set(xlabel="iteration")
        axes.grid(alpha=0.3)
    for name in names:
        axes.plot([], [], "o-" if right else "-", color=f"C{names.index(name)}", label=name)
    axes.legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
