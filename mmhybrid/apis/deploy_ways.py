"""Every installed way to run a model on this machine's CPU, side by side."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.analysis.tables import markdown_table
from mmhybrid.analysis.timing import time_interleaved
from mmhybrid.deploy import compiled, fuse
from mmhybrid.deploy.onnx_export import export_onnx, random_images
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.quantizing import quantize_file
from mmhybrid.deploy.runtimes import open_graph, to_openvino

EXPORT = "python -m mmhybrid export {model} --size {size} --out FOLDER --format "
# What to do to run a model so.
COMMANDS = {
    "PyTorch": "python -m mmhybrid predict {model} IMAGES",
    "PyTorch fused": "python -m mmhybrid predict {model} IMAGES --fuse",
    "PyTorch fused, bf16": "mmhybrid.deploy.fuse(model, torch.bfloat16)",
    "PyTorch compiled": "mmhybrid.deploy.compiled(mmhybrid.deploy.fuse(model), images)",
    "onnxruntime": f"{EXPORT}onnx",
    "OpenVINO": f"{EXPORT}openvino",
    "OpenVINO bf16": f"{EXPORT}openvino --precision bf16",
    "OpenVINO int8": f"{EXPORT}openvino --precision int8 --calibration IMAGES",
}
EXACT = 1e-3  # largest difference of what counts as float32, as of an export


@torch.no_grad()
def measure_ways(
    model: nn.Module,
    size: tuple[int, int],
    *,
    calibration: Sequence[np.ndarray] = (),
    repeats: int = 5,
    leave_out: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Times a model on one image of a size, in PyTorch and in what else is installed.

    Ways take turns. The largest difference is from PyTorch as it is, in terms of the largest value,
    on noise: of a detector that of its scores, infinite where it finds another number of boxes; of
    a segmentor that of its logits.

    Args:
        model (nn.Module): As :func:`mmhybrid.deploy.export` takes it.
        size (tuple[int, int]): Height and width.
        calibration (Sequence[np.ndarray]): Inputs of the graph, for int8. Defaults to no int8.
        repeats (int): Calls of each that are timed.
        leave_out (Sequence[str]): Of :data:`COMMANDS`.
        report (Callable[[str], None]): Called at the start of each step with what it does.

    Returns:
        list[dict[str, Any]]: Of each way ``way``, ``milliseconds``, ``times`` (as fast as PyTorch
        as it is), ``difference`` and ``seconds_to_make``, or ``error``.
    """
    x = random_images(model, (1, 3, *size))
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], dict[str, Tensor]]] = {}
    expected = NamedOutputs(model).eval()(x)
    with TemporaryDirectory() as folder:
        makers = _makers(model, x, Path(folder), calibration, report)
        for way in [way for way in makers if way not in leave_out]:
            report(f"making it ready for {way}")
            rows[way], start = dict(way=way), time.monotonic()
            try:
                call = makers[way]()
                found = call()
            except Exception as error:  # the others are measured nevertheless
                lines = str(error).strip().splitlines() or [""]
                rows[way]["error"] = f"{type(error).__name__}: {lines[0]}"
                continue
            rows[way]["seconds_to_make"] = time.monotonic() - start
            rows[way]["difference"] = _difference(expected, found)
            calls[way] = call
        report("timing all in turn")
        seconds = time_interleaved(calls, repeats=repeats)
    for way, measured in seconds.items():
        rows[way]["milliseconds"] = statistics.median(measured) * 1e3
        pairs = zip(seconds["PyTorch"], measured, strict=True)
        rows[way]["times"] = statistics.median(a / b for a, b in pairs)
    return list(rows.values())


def _makers(
    model: nn.Module,
    x: Tensor,
    folder: Path,
    calibration: Sequence[np.ndarray],
    report: Callable[[str], None],
) -> dict[str, Callable[[], Callable[[], dict[str, Tensor]]]]:
    """By way, what makes a call that gives the model's outputs; one that cannot be had raises."""
    file = folder / "model.onnx"

    def pytorch(make: Callable[[], nn.Module]) -> Callable[[], dict[str, Tensor]]:
        return partial(NamedOutputs(make()).eval(), x)

    def in_runtime(runtime: str, **options: str) -> Callable[[], dict[str, Tensor]]:
        if not file.exists():
            export_onnx(model, file, batch=1, size=tuple(x.shape[2:]), report=report)
        return partial(_run, open_graph(file, runtime, **options), x.numpy())

    def in_int8() -> Callable[[], dict[str, Tensor]]:
        path = folder / "int8.xml"
        to_openvino(file, path)
        quantize_file(path, calibration)
        return partial(_run, open_graph(path, precision="int8"), x.numpy())

    def in_compiled() -> Callable[[], dict[str, Tensor]]:
        # Detectors compute their boxes in ways that break a graph in parts.
        return partial(compiled(NamedOutputs(fuse(model)), x, repeats=1, report=report), x)

    makers = {
        "PyTorch": partial(pytorch, lambda: model),
        "PyTorch fused": partial(pytorch, lambda: fuse(model)),
        "PyTorch fused, bf16": partial(pytorch, lambda: fuse(model, torch.bfloat16)),
        "PyTorch compiled": in_compiled,
        "onnxruntime": partial(in_runtime, "onnxruntime"),
        "OpenVINO": partial(in_runtime, "openvino"),
        "OpenVINO bf16": partial(in_runtime, "openvino", precision="bf16"),
    }
    return makers | ({"OpenVINO int8": in_int8} if len(calibration) else {})


def _run(graph: Callable[[np.ndarray], dict[str, np.ndarray]], x: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(y) for name, y in graph(x).items()}


def _difference(expected: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    # Boxes that score nearly the same may change places, and then labels and masks do too.
    names = ["scores"] if "scores" in expected else [key for key in expected if key != "labels"]
    pairs = [(expected[name].double(), got[name].double()) for name in names]
    if any(a.shape != b.shape for a, b in pairs):  # another number of boxes
        return float("inf")
    relative = ((a - b).abs().max() / a.abs().max().clamp(min=1) for a, b in pairs if a.numel())
    return max(map(float, relative), default=0.0)


def table_of_ways(rows: Sequence[dict[str, Any]], model: str, size: tuple[int, int]) -> str:
    """The table of :func:`measure_ways`, and the commands of the fastest ways.

    Args:
        rows: Of that function.
        model (str): Config and checkpoint, as the tools take them.
        size (tuple[int, int]): Height and width.
    """
    columns = {"ms": ("milliseconds", ".0f"), "times as fast": ("times", ".2f")}
    columns |= {"difference": ("difference", ".0e"), "ready in (s)": ("seconds_to_make", ".0f")}
    cells = [
        [
            row["way"],
            *(f"{row[key]:{form}}" if key in row else "-" for key, form in columns.values()),
        ]
        for row in rows
    ]
    lines = [markdown_table(["way", *columns], cells), ""]
    lines += [f"{row['way']}: {row['error']}" for row in rows if "error" in row]
    timed = sorted((row for row in rows if "times" in row), key=lambda row: -row["times"])
    exact = next(row for row in timed if row["difference"] <= EXACT)  # PyTorch itself, at least
    named = [("fastest", timed[0])] + ([("fastest in float32", exact)] if exact != timed[0] else [])
    for word, row in named:
        command = COMMANDS[row["way"]].format(model=model, size="x".join(map(str, size)))
        lines.append(f"{word}: {row['way']}, {row['times']:.2f} times as fast: {command}")
    return "\n".join(lines)
