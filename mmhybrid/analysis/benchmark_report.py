"""A table and a chart of the rows of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmhybrid.analysis.benchmark import Row, Settings
from mmhybrid.analysis.tables import markdown_table

HEAD = (
    "model",
    "parameters, M",
    "MACs, G",
    "mm-style, G",
    "activations, M",
    "latency, ms",
    "spread",
    "images/s",
    "latency ratio",
    "training step, ms",
    "spread",
    "training ratio",
    "memory, MiB",
    "training memory, MiB",
)


def label(row: Row) -> str:
    """A row's name, with the mode where it is not eager."""
    return row["model"] + ("" if row["mode"] == "eager" else f", {row['mode']}")


def table(rows: list[Row], made: dict[str, str], settings: Settings) -> str:
    """A Markdown page: how it was measured, and a table for each size.

    Args:
        rows: of :func:`mmhybrid.analysis.benchmark.benchmark`.
        made: of :func:`mmhybrid.engine.runner.provenance.made`.
        settings: of the run.
    """
    lines = [
        "# Benchmark",
        "",
        f"`{made['command']}` at commit {made['commit']} on {made['date']}: {made['device']}, "
        f"PyTorch {made['torch']}, {settings.precision}, batch {settings.batch_size}"
        f"{', channels last' if settings.channels_last else ''}.",
        "",
        "Times are medians of rounds in which all models take turns, each with the quicker of two "
        "calls or more; the spread is the width of their middle half. Ratios, to the first row, "
        "are taken within each round. A training step is forward and backward, without loss and "
        "optimiser. Memory is the peak beyond the weights. MACs are all that is multiplied and "
        "accumulated; mm-style is what OpenMMLab's tables call FLOPs, without attention and "
        "dynamic convolutions.",
    ]
    for size in dict.fromkeys(tuple(row["size"]) for row in rows):
        body = [_cells(row, settings.batch_size) for row in rows if tuple(row["size"]) == size]
        lines += ["", f"## {size[0]}x{size[1]}", "", *markdown_table(HEAD, body)]
        lines += [
            f"\n{label(row)}: {row['error']}."
            for row in rows
            if tuple(row["size"]) == size and "error" in row
        ]
    return "\n".join(lines)


def _cells(row: Row, batch_size: int) -> list[str]:
    def cell(key: str, factor: float = 1, digits: int = 3) -> str:
        return f"{row[key] * factor:.{digits}g}" if key in row else "-"

    def whole(key: str, factor: float) -> str:
        return f"{row[key] * factor:.0f}" if key in row else "-"

    def percent(key: str) -> str:
        return f"{row[key]:.0%}" if key in row else "-"

    return [
        label(row),
        cell("parameters", 1e-6),
        cell("macs", 1e-9),
        cell("mm_macs", 1e-9),
        cell("activations", 1e-6),
        cell("latency", 1e3),
        percent("latency_spread"),
        f"{batch_size / row['latency']:.3g}" if "latency" in row else "-",
        cell("latency_ratio"),
        cell("training", 1e3),
        percent("training_spread"),
        cell("training_ratio"),
        whole("forward_memory", 2**-20),
        whole("training_memory", 2**-20),
    ]


def chart(rows: list[Row], file: Path) -> None:
    """Bars of times and memory, a line of panels for each size, quickest model first."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, float]] = [
        ("latency", "forward (ms)", 1e3),
        ("training", "training step (ms)", 1e3),
        ("training_memory", "memory of a training step (MiB)", 2**-20),
    ]
    panels = [panel for panel in panels if any(panel[0] in row for row in rows)]
    sizes = list(dict.fromkeys(tuple(row["size"]) for row in rows))
    tallest = max((sum(tuple(r["size"]) == s for r in rows) for s in sizes), default=1)
    figure = Figure(
        figsize=(4.2 * max(len(panels), 1), (0.32 * tallest + 1.2) * max(len(sizes), 1)),
        layout="constrained",
    )
    if not panels:
        figure.text(0.5, 0.5, "nothing could be measured", ha="center")
        figure.savefig(file, dpi=120)
        return
    axes = figure.subplots(len(sizes), len(panels), squeeze=False)
    for size, line in zip(sizes, axes, strict=True):
        here = [row for row in rows if tuple(row["size"]) == size]
        for ax, (key, title, factor) in zip(line, panels, strict=True):
            _bars(ax, here, key, factor)
            ax.set_title(f"{size[0]}x{size[1]}: {title}", fontsize=10)
    figure.savefig(file, dpi=120)


def _bars(ax: Any, rows: list[Row], key: str, factor: float) -> None:
    shown = sorted((row for row in rows if key in row), key=lambda row: -row[key])
    values = [row[key] * factor for row in shown]
    spread = [row[key] * factor * row.get(f"{key}_spread", 0) / 2 for row in shown]
    ours = [row["spec"].partition("(")[0].partition(".")[2] == "" for row in shown]
    ax.barh(
        [label(row) for row in shown],
        values,
        xerr=spread if any(spread) else None,
        color=["#2563eb" if one else "#9ca3af" for one in ours],
        error_kw=dict(lw=1),
    )
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
