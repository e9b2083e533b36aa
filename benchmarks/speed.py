"""Measuring the sections of ``results/speed.md``; tables and plots."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import transxnet_speed as transxnet
from benchmarks.parts_speed import attention_cost, fused_speed, shortcut_cost
from benchmarks.training_speed import training_steps
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.engine.runner.results import write_json
from mmhybrid.errors import UserError

Row = dict[str, Any]


def forward(repeats: int) -> list[Row]:
    rows = transxnet.forward((224, 224), repeats=max(repeats, 15))
    rows += transxnet.forward((512, 512), repeats=repeats)
    return rows + transxnet.forward((800, 1344), repeats=repeats, with_peers=True)


# Each takes the number of timed calls.
SECTIONS: dict[str, Callable[[int], list[Row]]] = {
    "forward": forward,
    "attention": lambda n: transxnet.attention_memory(),
    "errors": lambda n: transxnet.errors((224, 224)) + transxnet.errors((800, 1344)),
    "growth": lambda n: transxnet.growth(repeats=n),
    "compiled": lambda n: transxnet.compiled(repeats=n),
    "fused": lambda n: fused_speed(repeats=max(n, 15)),
    "training": lambda n: transxnet.training_step(repeats=n),
    "train_step": lambda n: training_steps(repeats=n),
    "attention_cost": lambda n: attention_cost(repeats=max(n, 15)),
    "shortcut": lambda n: shortcut_cost(repeats=max(n, 15)),
}


def measure(sections: Sequence[str], folder: Path, threads: int, repeats: int) -> None:
    """Measures, and writes speed.json, speed.md and two plots.

    ``sections`` are of :data:`SECTIONS`; none for all. What is not measured stays as it was.
    """
    if unknown := set(sections) - {*SECTIONS}:
        raise UserError(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    torch.set_num_threads(threads)
    machine = machine_with(threads)
    file = folder / "speed.json"
    results = json.loads(file.read_text()) if file.exists() else {"machines": {}}
    for section in sections or SECTIONS:
        print(f"measuring: {section} ...", flush=True)
        results[section] = SECTIONS[section](repeats)
        results["machines"][section] = machine
        # After every section, so that a stopped run keeps what it has.
        write_json(file, results)
        (folder / "speed.md").write_text(page(results))
        print(table(results[section]) + "\n", flush=True)
        if section == "growth":
            draw_growth(results["growth"], folder / "transxnet_growth.png")
        if section == "attention_cost":
            draw_attention_cost(results["attention_cost"], folder / "attention_cost.png")


def machine_with(threads: int) -> dict[str, Any]:
    """What times depend on, for the record."""
    machine = dict(processor=platform.processor() or platform.machine(), threads=threads)
    return machine | dict(torch=torch.__version__, python=platform.python_version())


def page(results: dict[str, Any]) -> str:
    """All sections as Markdown."""
    parts = ["# Speed", "Where no other model is named: of TransXNet-T."]
    for section in SECTIONS:
        if section in results:
            machine = ", ".join(f"{k}: {v}" for k, v in results["machines"][section].items())
            parts += [f"## {section}", machine, table(results[section])]
    return "\n\n".join(parts) + "\n"


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table; all samples are left out."""
    if not rows:
        return "nothing"
    keys = [key for key in rows[0] if not key.startswith("all_")]
    values = [[row.get(key, "") for key in keys] for row in rows]
    shown = [[f"{v:.3g}" if isinstance(v, float) else v for v in row] for row in values]
    return markdown_table(keys, shown)


def draw_growth(rows: list[Row], file: Path) -> None:
    """Time and memory against the number of pixels, with the fitted exponents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    titles = {"seconds": "time (s)", "peak_mib": "peak memory (MiB)"}
    for ax, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        exponent = _log_plot(ax, rows, "pixels", key)
        _ticks(ax, {row["pixels"]: f"{row['side']}²" for row in rows})
        ax.set(xlabel="image (pixels)", title=f"{title}: pixels to the power of {exponent:.2f}")
    figure.suptitle("TransXNet-T, fused, forward, one image")
    figure.savefig(file, dpi=120)


def draw_attention_cost(rows: list[Row], file: Path) -> None:
    """Time against tokens on logarithmic scales, with the exponent of each layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for name in dict.fromkeys(row["layer"] for row in rows):
        exponent = _log_plot(ax, [row for row in rows if row["layer"] == name], "tokens", "seconds")
        label = f"{name.replace('_', ' ')}: tokens to the power of {exponent:.2f}"
        ax.get_lines()[-1].set_label(label)
    _ticks(ax, {row["tokens"]: str(row["tokens"]) for row in rows})
    ax.set(xlabel="tokens", ylabel="time (s)", title="One attention layer, 128 channels")
    ax.legend()
    figure.savefig(file, dpi=120)


def _log_plot(ax: Any, rows: list[Row], x: str, y: str) -> float:
    """Plots on logarithmic scales; returns the fitted exponent."""
    ax.loglog([row[x] for row in rows], [row[y] for row in rows], "o-")
    ax.grid(alpha=0.3)
    return transxnet.fitted_exponent(rows, y, x)


def _ticks(ax: Any, labels: dict[int, str]) -> None:
    ax.set_xticks(list(labels), list(labels.values()), minor=False)
    ax.minorticks_off()
