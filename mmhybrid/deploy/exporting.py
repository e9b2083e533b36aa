"""Exporting a model into a folder that a service runs: a graph, and what there is to know of it."""

import copy
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmhybrid.analysis.timing import time_interleaved
from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.model_json import describe
from mmhybrid.deploy.onnx_export import (
    Difference,
    OnnxExportError,
    compare,
    export_onnx,
    random_images,
)
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.predictor import VERSION
from mmhybrid.deploy.quantizing import quantize_file
from mmhybrid.deploy.runtimes import Graph, open_graph, require, to_openvino
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.version import __version__

RUNTIME_OF = {"onnx": "onnxruntime", "openvino": "openvino"}
PRECISIONS = ("fp32", "bf16", "int8")
# All that an export may leave in a folder.
FILES = ("model.onnx", "model.safetensors", "model.xml", "model.bin", "model.json", "predictor.py")
CHECKED_SIZES = ((256, 320), (480, 640))


def export(
    model: nn.Module,
    folder: str | os.PathLike,
    *,
    format: str = "onnx",
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    precision: str = "fp32",
    calibration: Collection[np.ndarray] = (),
    evaluate: Callable[[Graph], float] | None = None,
    max_drop: float = 0.01,
    fused: bool = True,
    uint8: bool = False,
    safetensors: bool = False,
    cfg: Config | None = None,
    origin: Mapping[str, Any] | None = None,
    check: Iterable[tuple[int, int]] = CHECKED_SIZES,
    images: Iterable[Tensor] = (),
    tolerance: float = 1e-3,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Exports a model into a folder: a graph, ``model.json``, and the predictor that runs them.

    The graph of a whole model takes RGB images, values 0 to 255, and normalises them. What it
    computes is compared with PyTorch, and timed beside it. A folder is written whole or not at all;
    other files in it stay.

    Args:
        model (nn.Module): See :func:`mmhybrid.deploy.export_onnx`. Classes and palette are taken
            from its ``dataset_meta``, where it has one.
        folder (str | os.PathLike): To write to.
        format (str): ``'onnx'``, for onnxruntime, or ``'openvino'``.
        size (tuple[int, int], optional): Height and width of the images. Defaults to any.
        batch (int, optional): Images at a time; None for any number.
        precision (str): ``'fp32'``; ``'bf16'``, which OpenVINO computes in where the processor can;
            or ``'int8'``, see :func:`mmhybrid.deploy.quantizing.quantize`.
        calibration (Collection[np.ndarray]): For int8, some hundred inputs of the graph.
        evaluate (Callable[[Graph], float], optional): Gives a metric of a graph, for int8, higher
            is better; it is written down before and after. OpenVINO's layers that cost most of it
            are left as they are.
        max_drop (float): Of this metric.
        fused (bool): Fuse first, see :func:`mmhybrid.deploy.fuse`.
        uint8 (bool): The graph takes bytes, not float32.
        safetensors (bool): Write the weights of an .onnx file beside it.
        cfg (Config, optional): Whose test pipeline says how images are resized. Defaults to
            ``model.cfg``, as OpenMMLab's functions leave it.
        origin (Mapping[str, Any], optional): Where model and weights are from, for ``model.json``.
        check (Iterable[tuple[int, int]]): Sizes to compare at, on noise, where any is taken.
        images (Iterable[Tensor]): (B, C, H, W), to compare on as well.
        tolerance (float): Largest difference of float32 that is accepted, in terms of the largest
            value, or of 1 where that is larger; for labels, the share of the pixels.
        report (Callable[[str], None], optional): Called at the start of each step with what it
            does.

    Returns:
        dict[str, Any]: The content of ``model.json``.

    Raises:
        UserError: A package is missing; the message has the command that installs it.
        OnnxExportError: The model cannot be exported, or the graph computes something else.

    Example:
        >>> from mmhybrid.backbones import TransXNet
        >>> export(TransXNet('tiny'), 'exported', format='openvino')  # doctest: +SKIP
    """
    check_export(format, precision, calibration, safetensors)
    report = report or (lambda step: None)
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file: name a folder")
    model = copy.copy(model)  # of which this shares all but the config
    model.cfg = cfg or getattr(model, "cfg", None)
    meta = describe(model, model.cfg, report)
    detects = meta["task"] in ("detection", "instance_segmentation")
    if detects and batch != 1:
        raise ArgumentError("detectors are exported for one image at a time: batch=1")
    if uint8 and meta["task"] == "features":
        raise ArgumentError("a backbone takes images that are normalised, and no bytes")
    with _folder_within(folder) as part:
        file = part / "model.onnx"
        options = dict(batch=batch, size=size, uint8=uint8, safetensors=safetensors)
        export_onnx(model, file, fused=fused, boxes=detects, report=report, **options)
        if format == "openvino":
            report("translating it to OpenVINO")
            file = part / "model.xml"
            to_openvino(part / "model.onnx", file)
            for old in part.glob("model.onnx*"):
                old.unlink()
        runs = dict(precision=precision)
        figures = None
        if precision == "int8":
            figures = _quantize(file, calibration, evaluate, max_drop, report)
        report("comparing it with PyTorch")
        sizes = [size] if size else list(check)
        shapes = [(batch or 2, 3, *one) for one in sizes]
        noise = [random_images(model, shape) for shape in shapes]
        noise = [x.byte() for x in noise] if uint8 else noise
        rows = compare(model, file, chain(noise, images), detects, **runs)
        refuse_difference(rows, tolerance if precision == "fp32" else math.inf)
        run = open_graph(file, **runs)
        report("timing it beside PyTorch")
        meta = dict(
            format="mmhybrid",
            version=VERSION,
            file=file.name,
            runtime=RUNTIME_OF[format],
            precision=precision,
            **meta,
            input=dict(
                name="image",
                dtype="uint8" if uint8 else "float32",
                batch=batch,
                height=size and size[0],
                width=size and size[1],
                channels=3,
            ),
            outputs=list(run(noise[-1].numpy())),
            origin=dict(origin or {}),
            mmhybrid=__version__,
            difference=[
                dict(size=list(r.shape[2:]), output=r.output, largest=r.largest, scale=r.scale)
                for r in rows
            ],
            speed=_speed(model, run, noise[-1], fused, detects),
        )
        if figures:
            meta["metric"] = figures
        (part / "model.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        for predictor in Path(__file__).parent.glob("predictor.py"):
            (part / predictor.name).write_bytes(predictor.read_bytes())
        made = sorted(part.iterdir(), key=lambda path: path.name == "model.json")  # last
        for path in made:
            os.replace(path, folder / path.name)
        for name in set(FILES) - {path.name for path in made}:
            (folder / name).unlink(missing_ok=True)
    return meta


@contextmanager
def _folder_within(folder: Path) -> Iterator[Path]:
    """A folder in this one, which may be another file system than its parent; made if need be."""
    with ExitStack() as stack:
        try:
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            if is_new:  # if nothing is written
                stack.callback(lambda: any(folder.iterdir()) or folder.rmdir())
            part = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".export."))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error
        yield Path(part)


def refuse_difference(rows: Sequence[Difference], tolerance: float) -> None:
    """Raises OnnxExportError where a graph is further from PyTorch than is accepted."""
    for row in rows:
        if not math.isfinite(row.largest):
            raise OnnxExportError(f"{row.output} at {row.shape} has values that are not finite")
    worst = max(rows, key=lambda row: row.relative)
    if worst.relative > tolerance:
        raise OnnxExportError(
            f"{worst.output} at {worst.shape} differs by {worst.largest:.2e}, more than "
            f"--tolerance {tolerance} allows"
        )


def check_export(format: str, precision: str, calibration: Collection, safetensors: bool) -> None:
    """Raises what :func:`export` would for these of its arguments, before minutes pass."""
    if format not in RUNTIME_OF:
        raise ArgumentError(f"no format {format!r}: there are {', '.join(RUNTIME_OF)}")
    if precision not in PRECISIONS:
        raise ArgumentError(f"no precision {precision!r}: there are {', '.join(PRECISIONS)}")
    if precision == "bf16" and format == "onnx":
        raise ArgumentError(
            "onnxruntime does not compute in bfloat16 on a CPU; OpenVINO does: format openvino"
        )
    if safetensors and (format, precision) != ("onnx", "fp32"):
        raise ArgumentError("weights go into a .safetensors file beside a float32 .onnx file alone")
    if precision == "int8" and not len(calibration):
        raise ArgumentError("int8 needs images to find the ranges of its maps: --calibration")
    require("onnx", "onnxscript", RUNTIME_OF[format], *["nncf"] * (precision == "int8"))


def _quantize(
    file: Path,
    calibration: Collection[np.ndarray],
    evaluate: Callable[[Graph], float] | None,
    max_drop: float,
    report: Callable[[str], None],
) -> dict[str, float] | None:
    before = after = None
    if evaluate:
        report("evaluating it in float32")
        before = evaluate(open_graph(file))
    report(f"quantizing it by {len(calibration)} images")
    controlled = evaluate if file.suffix == ".xml" else None
    quantize_file(file, calibration, controlled, max_drop)
    if evaluate:
        report("evaluating it in int8")
        after = evaluate(open_graph(file, precision="int8"))
        return dict(fp32=before, int8=after)
    return None


@torch.no_grad()
def _speed(model: nn.Module, run: Graph, x: Tensor, fused: bool, detects: bool) -> dict[str, Any]:
    """Median milliseconds of PyTorch and the runtime, called in turn."""
    model = NamedOutputs(model, detects)
    model = fuse(model) if fused else copy.deepcopy(model).eval()
    calls = dict(pytorch=partial(model, x.float()), runtime=partial(run, x.numpy()))
    seconds = time_interleaved(calls, repeats=5)
    medians = {f"{key}_ms": statistics.median(values) * 1e3 for key, values in seconds.items()}
    return dict(size=list(x.shape[2:]), threads=torch.get_num_threads(), **medians)
