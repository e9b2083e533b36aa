"""The report of a run as one HTML file that works offline, and its figures as JSON beside it."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from mmengine.runner import Runner
from PIL import Image
from torchvision.transforms.functional import pad, pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from mmhybrid.engine.hooks.report_hook import ReportHook
from mmhybrid.engine.runner.report import headlines
from mmhybrid.engine.runner.report_content import report_content
from mmhybrid.engine.runner.report_figures import most_confused

SIDE = 640  # largest side of an image on the page, in pixels
MOST_BYTES = 6_000_000  # of all images
MOST_NUMBERS = 15  # classes up to which the confusion matrix has its numbers written in
# Text stays text, and the same points give the same file.
SVG_OPTIONS = {"svg.fonttype": "none", "svg.hashsalt": "mmhybrid", "font.size": 8}


def write_page(
    runner: Runner, hook: ReportHook, config: str, folder: str | Path | None = None
) -> Path | None:
    """Writes ``report.html`` and ``report.json`` into a folder, by default the work folder.

    Args:
        runner: After ``train()`` or ``test()``.
        hook: The hook that was registered with it.
        config: Config file, as the user named it.
        folder: Where to write to; it is made.

    Returns:
        The page; None in all processes but the first, and where it could not be written: the log
        says why, and the run is none the worse for it.
    """
    if runner.rank != 0:
        return None
    try:
        folder = Path(folder or runner.work_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        content = report_content(runner, hook, config)
        page = folder / "report.html"
        page.write_text(to_html(content, list(draw_worst(content))), "utf-8")
        plain = {key: one for key, one in content.items() if key != "worst"}
        kept = ("image", "text", "mistakes", "iou")
        plain["worst"] = [{k: one[k] for k in kept if k in one} for one in content["worst"]]
        (folder / "report.json").write_text(json.dumps(plain, default=str), "utf-8")
    except Exception:
        runner.logger.exception("The report could not be written. All else of the run is there")
        return None
    runner.logger.info(f"Report: {page}")
    return page


def to_html(content: Mapping[str, Any], images: Sequence[Mapping[str, str]] = ()) -> str:
    """Renders ``report.html`` from a report's content and the images of :func:`draw_worst`."""
    loader = PackageLoader("mmhybrid", "visualization")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    try:
        charts = draw_charts(content)
    except ImportError as error:
        charts = dict(problem=f"No charts: {error}")
    confusion = content["confusion"]
    confused = most_confused(confusion) if confusion else []
    legend = []
    if content["task"] == "segmentation":
        counts = np.array(confusion["matrix"])
        seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
        colours = content["palette"]
        legend = [(confusion["labels"][i], colours[i % len(colours)]) for i in seen]
    template = environment.get_template("report.html")
    return template.render(
        content, charts=charts, confused=confused, legend=legend, pictures=images
    )


def draw_charts(content: Mapping[str, Any]) -> dict[str, str]:
    """Charts of a report's content as SVG, by name; those without a point are left out."""
    log, charts = content["log"], {}
    losses, metrics = log["losses"], log["metrics"]
    named = sorted({key for line in losses for key in line if "loss" in key}, key=len)
    lines = {key: [(one["step"], one[key]) for one in losses if key in one] for key in named}
    charts["Loss"] = _lines(lines, "iteration", floor=0.0)
    rates = {"lr": [(one["step"], one["lr"]) for one in losses if "lr" in one]}
    charts["Learning rate"] = _lines(rates, "iteration", floor=0.0)
    values = [(one["step"], headlines(one)) for one in metrics]
    labels = dict.fromkeys(label for _, one in values for label in one)
    lines = {key: [(step, one[key]) for step, one in values if key in one] for key in labels}
    charts["Metrics"] = _lines(lines, log["unit"], marker="o", floor=0.0)
    curves = content["curves"]
    lines = {one["name"]: list(zip(one["recall"], one["precision"], strict=True)) for one in curves}
    marker = "o" if content["task"] == "segmentation" else ""
    charts["Precision against recall"] = _lines(
        lines, "recall", "precision", marker=marker, floor=-0.02, top=1.02
    )
    if content["confusion"] and len(content["confusion"]["labels"]) > 1:
        charts["Confusion"] = _matrix(**content["confusion"])
    return {name: svg for name, svg in charts.items() if svg}


def _lines(
    lines: Mapping[str, list[tuple[float, float]]],
    across: str,
    up: str = "",
    *,
    marker: str = "",
    floor: float | None = None,
    top: float | None = None,
) -> str:
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        xs, ys = zip(*points, strict=True)
        dot = marker or ("o" if len(points) == 1 else "")
        axes.plot(
            xs, ys, marker=dot, ms=4, label=name, lw=1 if index else 2, color=f"C{index % 10}"
        )
    axes.set(xlabel=across, ylabel=up, ylim=(floor, top))
    if top:
        axes.set_xlim(floor, top)
    axes.grid(color="#dfe3e8")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(lines) > 1 and len(lines) <= 20:
        axes.legend(fontsize=7, frameon=False, ncols=1 if len(lines) < 8 else 2)
    return to_svg(figure)


def _matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Rows are truth, and their shares are the colours."""
    from matplotlib.figure import Figure

    counts = np.array(matrix)
    seen = np.flatnonzero(counts.sum(0) + counts.sum(1))  # of 80 classes, few images have few
    if not len(seen):
        return ""
    labels, counts = [labels[one] for one in seen], counts[np.ix_(seen, seen)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(0.42 * len(labels), 3.4, 9))
    figure = Figure(figsize=(side + 1, side + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    every = -(-len(labels) // 80)  # a thousand names would be no names
    ticks = range(0, len(labels), every)
    names = [_shortened(labels[one]) for one in ticks]
    small = 7 if len(labels) <= 30 else 4
    axes.set_xticks(ticks, names, rotation=90, fontsize=small)
    axes.set_yticks(ticks, names, fontsize=small)
    axes.set(xlabel="prediction", ylabel="truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(labels) <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                text = f"{count}" if counts.max() < 10_000 else f"{share[row, column]:.0%}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return to_svg(figure)


def _shortened(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def to_svg(figure: Any) -> str:
    """A figure of Matplotlib as an ``<svg>`` element."""
    import matplotlib

    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(SVG_OPTIONS):
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def draw_worst(content: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The worst images as ``data:`` addresses, with their names and what is wrong with them.

    Boxes, masks and maps: truth left, prediction right. An image that cannot be drawn is said to
    be so.
    """
    left = MOST_BYTES
    for one in content["worst"]:
        name = Path(one["image"]).name
        try:
            data = _jpeg(_draw(content, one))
        except Exception as error:  # whatever is wrong with an image, the others are shown
            yield dict(name=name, text=f"{one['text']}; cannot be drawn: {error}", source="")
            continue
        left -= len(data)
        if left < 0:
            return
        source = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        yield dict(name=name, text=one["text"], source=source)


def _draw(content: Mapping[str, Any], one: Mapping[str, Any]) -> Image.Image:
    import mmcv

    if content["task"] == "classification":
        pixels = mmcv.imread(one["image"], channel_order="rgb") if one["image"] else one["pixels"]
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        return image
    image = Image.fromarray(mmcv.imread(one["image"], channel_order="rgb"))
    factor = SIDE / max(image.size)  # what is written on a small image would cover it
    size = [round(side * factor) for side in image.size]
    drawn = pil_to_tensor(image.resize(size, Image.Resampling.BICUBIC))
    names, colours = content["confusion"]["labels"], content["palette"]
    if content["task"] == "detection":
        parts = [dict(one[part], factor=factor) for part in ("truth", "found")]
    else:
        sample = one["sample"]
        maps = (getattr(sample, part).data[0] for part in ("gt_sem_seg", "pred_sem_seg"))
        parts = [_masks(labels, len(names)) for labels in maps]
    panels = [_panel(drawn, names, colours, **part) for part in parts]
    pair = torch.cat([pad(panels[0], [0, 0, 8, 0], fill=255), panels[1]], dim=2)
    return to_pil_image(pair)


def _masks(labels: torch.Tensor, count: int) -> dict[str, Any]:
    shown = [int(one) for one in labels.unique() if 0 <= one < count]
    return dict(labels=shown, masks=np.array([(labels == one).numpy() for one in shown]))


def _panel(
    image: torch.Tensor,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    labels: Sequence[int],
    masks: np.ndarray | None = None,
    bboxes: np.ndarray | None = None,
    scores: Sequence[float] | None = None,
    factor: float = 1.0,
) -> torch.Tensor:
    """An image with what is there, or was found, drawn over it."""
    own = [colours[int(label) % len(colours)] for label in labels]
    if masks is not None and len(masks):
        area = torch.from_numpy(masks.astype(np.float32))[None]
        area = torch.nn.functional.interpolate(area, image.shape[1:])[0] > 0.5
        image = draw_segmentation_masks(image, area, alpha=0.5, colors=own)
    if bboxes is not None and len(bboxes):
        from matplotlib.font_manager import findfont

        texts = [names[label] for label in labels]
        if scores is not None:
            texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
        font = dict(font=findfont("DejaVu Sans"), font_size=14)
        text = dict(labels=texts, fill_labels=True, label_colors="white", **font)
        boxes = torch.from_numpy(bboxes * factor)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])  # models may find less than none
        image = draw_bounding_boxes(image, boxes, colors=own, width=2, **text)
    return image


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    return file.getvalue()
