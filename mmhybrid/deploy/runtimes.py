"""Exported graphs opened in onnxruntime or OpenVINO, on the CPU."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmhybrid.deploy.predictor import openvino_core
from mmhybrid.errors import ArgumentError, UserError

RUNTIMES = ("onnxruntime", "openvino")
Graph = Callable[[np.ndarray], dict[str, np.ndarray]]


def require(*packages: str) -> None:
    """Raises a UserError with the command that installs them, where packages are missing."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        named = " and ".join(missing)
        raise UserError(f"{named} {verb} missing: pip install {' '.join(missing)}")


def open_graph(
    path: str | os.PathLike,
    runtime: str | None = None,
    *,
    precision: str = "fp32",
    threads: int | None = None,
) -> Graph:
    """Opens a graph as a function from images (B, C, H, W) to arrays by name.

    Args:
        path (str | os.PathLike): Of an .onnx file, or OpenVINO's .xml.
        runtime (str, optional): ``'onnxruntime'`` or ``'openvino'``. Defaults to OpenVINO for an
            .xml file, and onnxruntime for others.
        precision (str): With ``'bf16'`` OpenVINO computes in bfloat16, with ``'int8'`` what the
            graph does not have in 8 bits. Others compute as the graph says.
        threads (int, optional): Defaults to PyTorch's number.

    Raises:
        ArgumentError: There is no such runtime.
        UserError: It is not installed.
    """
    path, threads = os.fspath(path), threads or torch.get_num_threads()
    runtime = runtime or ("openvino" if path.endswith(".xml") else "onnxruntime")
    if runtime not in RUNTIMES:
        raise ArgumentError(f"no runtime {runtime!r}: there are {', '.join(RUNTIMES)}")
    require(runtime)
    return (_openvino if runtime == "openvino" else _onnxruntime)(path, precision, threads)


def to_openvino(onnx: Path, path: Path) -> None:
    """Translates an .onnx file into OpenVINO's .xml and .bin, in float32."""
    import openvino

    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)


def _onnxruntime(path: str, precision: str, threads: int) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {"image": x}), strict=True))


def _openvino(path: str, precision: str, threads: int) -> Graph:
    # Without the hint, OpenVINO takes bfloat16 wherever the processor has it.
    hint = "bf16" if precision in ("bf16", "int8") else "f32"
    options = dict(INFERENCE_PRECISION_HINT=hint, INFERENCE_NUM_THREADS=threads)
    options["PERFORMANCE_HINT"] = "LATENCY"
    return graph_of_openvino(openvino_core().compile_model(path, "CPU", options))


def graph_of_openvino(model: Any) -> Graph:
    """A compiled model of OpenVINO as a function, see :func:`open_graph`."""
    names = [_name_of(output) for output in model.outputs]
    request = model.create_infer_request()

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        request.infer({"image": x})
        # Copied: the next call writes into the same memory.
        return {name: request.get_tensor(name).data.copy() for name in names}

    return run


def _name_of(output: Any) -> str:
    """The graph's own; what is read from ONNX has those of the operations that made it too."""
    result = output.node.get_friendly_name()
    return next((name for name in output.names if result.startswith(f"{name}/")), output.any_name)
