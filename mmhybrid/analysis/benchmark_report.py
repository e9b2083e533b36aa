"""A table and a chart of the rows of a benchmark."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmhybrid.analysis.benchmark import Row, Settings
from mmhybrid.analysis.tables import markdown_table

# Title, key of the row, factor and format.
COLUMNS = (
    ("parameters, M", "parameters", 1e-6, ".3g"),
    ("MACs, G", "macs", 1e-9, ".3g"),
    ("mm-style, G", "mm_macs", 1e-9, ".3g"),
    ("activations, M", "activations", 1e-6, ".3g"),
    ("latency, ms", "latency", 1e3, ".3g"),
    ("latency IQR", "latency_spread", 1, ".0%"),
    ("images/s", "throughput", 1, ".3g"),
    ("latency ratio", "latency_ratio", 1, ".3g"),
    ("training step, ms", "training", 1e3, ".3g"),
    ("training IQR", "training_spread", 1, ".0%"),
    ("training ratio", "training_ratio", 1, ".3g"),
    ("memory, MiB", "forward_memory", 2**-20, ".0f"),
    ("training memory, MiB", "training_memory", 2**-20, ".0f"),
)
PANELS = (
    ("latency", "forward (ms)", 1e3),
    ("training", "training step (ms)", 1e3),
    ("training_memory", "memory of a training step (MiB)", 2**-20),
)


def table(rows: list[Row], made: Mapping[str, str], settings: Settings) -> str:
    """A Markdown page: how it was measured (``made`` as in the records), a table for each size."""
    parts = [
        "# Benchmark",
        f"`{made['command']}` at commit {made['commit']} on {made['date']}: {made['device']}, "
        f"PyTorch {made['torch']}, {settings.precision}, batch {settings.batch_size}"
        f"{', channels last' if settings.channels_last else ''}.",
        "Times are medians of rounds in which all models take turns, each with the quicker of two "
        "calls or more; the IQR is the width of their middle half, over the median. Ratios, to "
        "the first row, are taken within each round. A training step is forward and backward, "
        "without loss and optimiser. Memory is the peak beyond the weights. MACs are all that is "
        "multiplied and accumulated; mm-style is what OpenMMLab's tables call FLOPs, without "
        "attention and dynamic convolutions.",
    ]
    head = ["model", *(column[0] for column in COLUMNS)]
    for size, here in _by_size(rows).items():
        parts += [f"## {size}", markdown_table(head, map(_cells, here))]
        parts += [f"{label(row)}: {row['error']}." for row in here if "error" in row]
    return "\n\n".join(parts)


def label(row: Row) -> str:
    """A row's name, with the mode where it is not eager."""
    return row["model"] if row["mode"] == "eager" else f"{row['model']}, {row['mode']}"


def _by_size(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault("x".join(map(str, row["size"])), []).append(row)
    return found


def _cells(row: Row) -> list[str]:
    if "latency" in row:
        row = dict(row, throughput=row["batch_size"] / row["latency"])
    columns = [column[1:] for column in COLUMNS]
    return [label(row), *(f"{row[k] * by:{form}}" if k in row else "-" for k, by, form in columns)]


def chart(rows: list[Row], file: Path) -> None:
    """Bars of times and memory, a line of panels for each size, quickest model first."""
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(panel[0] in row for row in rows)]
    sizes = _by_size(rows)
    height = 0.32 * max(map(len, sizes.values()), default=1) + 1.2
    shape = (4.2 * max(len(panels), 1), height * max(len(sizes), 1))
    figure = Figure(shape, layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "nothing could be measured", ha="center")
    grid = figure.subplots(len(sizes), len(panels), squeeze=False) if panels else []
    for (size, here), line in zip(sizes.items(), grid, strict=False):
        for ax, (key, title, factor) in zip(line, panels, strict=True):
            shown = sorted((row for row in here if key in row), key=lambda row: -row[key])
            peers = ["." in row["spec"].partition("(")[0] for row in shown]
            colours = ["#9ca3af" if peer else "#2563eb" for peer in peers]
            widths = np.array([row[key] * factor for row in shown])
            spreads = widths * [row.get(f"{key}_spread", 0) / 2 for row in shown]
            names = list(map(label, shown))
            ax.barh(names, widths, xerr=spreads, color=colours, error_kw=dict(lw=1))
            ax.set_title(f"{size}: {title}", fontsize=10)
            ax.tick_params(labelsize=8)
            ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
