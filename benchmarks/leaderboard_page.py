"""The leaderboard as one HTML file that works offline: charts, sortable tables, origins."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from mmhybrid.visualization.report_page import SVG_OPTIONS, to_svg

AXES = {
    "flops": "FLOPs (G)",
    "latency": "latency (ms)",
    "memory": "memory of a training step (MiB)",
}
# Where a name may stand: points to the right and up, and its alignment.
PLACES = (
    ((6, 0), "left", "center"),
    ((-6, 0), "right", "center"),
    ((0, 6), "center", "bottom"),
    ((0, -6), "center", "top"),
)


def to_html(board: Mapping[str, Any]) -> str:
    """Renders ``leaderboard.html`` from what :func:`benchmarks.leaderboard.leaderboard` returns."""
    charts: dict[str, list[str]] = {}
    for series in dict.fromkeys(point["series"] for point in board["points"]):
        points = [point for point in board["points"] if point["series"] == series]
        charts[series] = [scatter(points, axis) for axis in AXES]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("leaderboard.html").render(board, charts=charts)


def scatter(points: Sequence[Mapping[str, Any]], axis: str) -> str:
    """A chart of accuracy against a cost of :data:`AXES`, as SVG; empty where no model has it."""
    points = [point for point in points if axis in point]
    if not points:
        return ""
    with matplotlib.rc_context(SVG_OPTIONS):
        figure = Figure(figsize=(3.8, 3))
        axes = figure.add_axes((0.12, 0.14, 0.83, 0.83))
        for index, point in enumerate(points):
            colour = "#1d5fd1" if point["ours"] else "#8a929c"
            axes.plot(point[axis], point["value"], "o", color=colour, gid=f"point-{index}")
        axes.margins(0.15)
        axes.grid(color="#dfe3e8")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(AXES[axis])
        _label(axes, [(point["model"], point[axis], point["value"]) for point in points])
    svg = to_svg(figure)
    for index, point in enumerate(points):  # a browser shows the title of what is pointed at
        name = ", ".join(filter(None, [point["model"], point["method"]]))
        title = escape(f"{name}: {point['value']:g} at {point[axis]:.4g}")
        svg = svg.replace(f'<g id="point-{index}">', f'<g class="point"><title>{title}</title>', 1)
    return svg


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes a name beside each point where it covers nothing; leaves out what fits nowhere."""
    axes.autoscale_view()
    dots = axes.transData.transform([point[1:] for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    for name, *xy in points:
        for offset, across, along in PLACES:
            label = axes.annotate(
                name, xy, offset, textcoords="offset points", ha=across, va=along, fontsize=7
            )
            box = label.get_window_extent()
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()
