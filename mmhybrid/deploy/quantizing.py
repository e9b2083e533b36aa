"""Graphs with 8-bit weights and maps, by NNCF's post-training quantization."""

from collections.abc import Callable, Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mmhybrid.deploy.predictor import openvino_core
from mmhybrid.deploy.runtimes import Graph, graph_of_openvino

RANKED_IMAGES = 20  # whose outputs are kept, to find the layers that change them most


def quantize(
    graph: Any,
    images: Collection[np.ndarray],
    evaluate: Callable[[Graph], float] | None = None,
    max_drop: float = 0.01,
) -> Any:
    """A copy of a graph that computes with 8-bit integers where it can.

    Args:
        graph: An ``onnx.ModelProto`` or ``openvino.Model``.
        images (Collection[np.ndarray]): What the graph takes, to find the ranges of its maps: some
            hundred arrays.
        evaluate (Callable[[Graph], float], optional): Gives a metric of OpenVINO's graph, higher is
            better. The layers that cost most then stay as they are until no more than ``max_drop``
            is lost.
        max_drop (float): Of the metric.
    """
    import nncf

    data = nncf.Dataset(images, lambda image: {"image": image})
    options = dict(
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        # Knows that the products of an attention lose most.
        model_type=nncf.ModelType.TRANSFORMER,
    )
    if evaluate is None:
        return nncf.quantize(graph, data, **options)

    def validate(compiled: Any, items: Iterable[np.ndarray]) -> tuple[float, list[list]]:
        run = graph_of_openvino(compiled)
        # By these NNCF ranks the layers.
        return evaluate(run), [list(run(item).values()) for item in items]

    ranked = nncf.Dataset(list(islice(images, RANKED_IMAGES)), lambda image: {"image": image})
    return nncf.quantize_with_accuracy_control(
        graph, data, ranked, validate, max_drop=max_drop, **options
    )


def quantize_file(path: Path, *options: Any) -> None:
    """Quantizes an .onnx or .xml file in place; ``options`` are those of :func:`quantize`."""
    if path.suffix == ".onnx":
        import onnx

        onnx.save(quantize(onnx.load(path), *options), path)
    else:
        import openvino

        # Read whole, for its weights lie in the file that is written.
        core = openvino_core()
        model = core.read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
        # NNCF makes a core for each graph that it tries.
        with (
            mock.patch.object(openvino, "Core", openvino_core),
            mock.patch.object(openvino, "compile_model", core.compile_model),
        ):
            quantized = quantize(model, *options)
        openvino.save_model(quantized, path, compress_to_fp16=False)
