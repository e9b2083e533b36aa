#!/usr/bin/env python
"""Compare finished or running trainings: one table and one plot of several runs, seed by seed."""

import argparse
import json
import sys
from glob import glob
from pathlib import Path
from typing import Any

from command_line import prepare

EXAMPLES = """examples:
  A method with and without a part, three seeds each (quote what holds a star):
    python tools/compare_runs.py "plain=work_dirs/plain_*" "shortcut=work_dirs/dw_*" \\
        --out results/dw_cifar10
  One run alone:
    python tools/compare_runs.py TransXNet=work_dirs/retinanet_transxnet_t_coco --out curves
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=FOLDERS", help="a name, and a pattern of work folders"
    )
    parser.add_argument(
        "--out", required=True, help="where to write: PATH.png, PATH.md and PATH.json"
    )
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
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    table = "\n".join(table_of(runs)) + "\n"
    out.with_suffix(".md").write_text(table)
    draw(runs, out.with_suffix(".png"))
    print(table + f"Written: {out}.png, {out}.md, {out}.json")


def read_run(folder: Path) -> dict[str, Any]:
    """The seed of the newest run in a work folder, its losses and metrics by iteration."""
    from mmengine.config import Config

    from mmhybrid.engine.report import headlines

    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    if not logs:
        sys.exit(f"error: {folder} holds no log of a run (TIME/vis_data/scalars.json)")
    losses, metrics, step = [], [], 0
    for line in map(json.loads, logs[-1].read_text().splitlines()):
        if "loss" in line:
            step = line["step"]
            losses.append((step, line["loss"]))
        else:  # an evaluation; its own step may count epochs
            metrics.append((step, headlines(line)))
    randomness = Config.fromfile(logs[-1].parent / "config.py").get("randomness", {})
    return {"seed": randomness.get("seed"), "losses": losses, "metrics": metrics}


def table_of(runs: list[dict[str, Any]]) -> list[str]:
    """The last metrics of each run, one row a seed and one column a name and metric."""
    names = list(dict.fromkeys(run["name"] for run in runs))
    labels = list((runs[0]["metrics"] or [(0, {})])[-1][1])
    columns = [(name, label) for label in labels for name in names]
    last = {(r["seed"], r["name"]): r["metrics"][-1][1] for r in runs if r["metrics"]}
    lines = ["| seed | " + " | ".join(f"{name}, {label}" for name, label in columns) + " |"]
    lines.append("|" + " --- |" * (len(columns) + 1))
    for seed in dict.fromkeys(run["seed"] for run in runs):
        values = [last.get((seed, name), {}).get(label) for name, label in columns]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    return lines


def draw(runs: list[dict[str, Any]], file: Path) -> None:
    """Losses on the left, the first metric on the right; one colour a name, one line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(run["name"] for run in runs))
    for run in runs:
        style = dict(color=f"C{names.index(run['name'])}", alpha=0.8)
        left.plot(*zip(*run["losses"], strict=True), lw=1, **style)
        label = next(iter(run["metrics"][0][1]), None) if run["metrics"] else None
        if label:
            points = [(step, values[label]) for step, values in run["metrics"]]
            right.plot(*zip(*points, strict=True), "o-", **style)
            right.set(title=label)
    for name in names:
        right.plot([], [], "o-", color=f"C{names.index(name)}", label=name)
    right.legend()
    left.set(title="training loss")
    for axes in (left, right):
        axes.set(xlabel="iteration")
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
