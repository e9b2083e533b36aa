"""Exporting to ONNX for any batch, height and width, and comparing what comes out."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.backbones import is_backbone
from mmhybrid.deploy.fuse import fuse
from mmhybrid.deploy.onnx_operations import ExportableOperations, make_exportable, translations
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.runtimes import open_graph
from mmhybrid.errors import UserError

# PyTorch takes a batch of one, and a last map of one window, for constants: neither may be traced.
TRACED_SHAPE = (2, 3, 256, 288)
OPSET = 18


class OnnxExportError(UserError, RuntimeError):
    """A model cannot be exported, or its graph computes something else; the message says which."""


@dataclass(frozen=True)
class Difference:
    """How far one output of the graph is from PyTorch's."""

    shape: tuple[int, ...]  # of the input, (B, C, H, W)
    output: str
    largest: float  # absolute difference; of labels, the share of pixels that differ
    scale: float  # largest absolute value of PyTorch's output; of labels, 1

    @property
    def relative(self) -> float:
        """The difference over the scale, which counts as 1 where it is smaller."""
        return self.largest / max(self.scale, 1.0)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    fused: bool = True,
    boxes: bool | None = None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    in_channels: int = 3,
    uint8: bool = False,
    safetensors: bool = False,
    report: Callable[[str], None] | None = None,
) -> None:
    """Writes a model as ONNX, for any batch, height and width, or for given ones.

    Args:
        model (nn.Module): A backbone of this package, or a classifier of mmpretrain, segmentor of
            mmseg or detector of mmdet that holds one; not changed. The graph takes ``image`` and
            returns what :class:`mmhybrid.deploy.onnx_outputs.NamedOutputs` does.
        path (str | os.PathLike): Of the .onnx file.
        fused (bool): Fuse first, see :func:`mmhybrid.deploy.fuse`.
        boxes (bool, optional): Export a detector whole, for one image at a time, and not what its
            head gives before boxes are decoded. Defaults to whether it can be.
        batch (int, optional): The number of images at a time. Defaults to any; the dynamic
            convolution of TransXNet is faster for a given one.
        size (tuple[int, int], optional): The height and width of the images. Defaults to any.
        in_channels (int): Of the images.
        uint8 (bool): The graph takes bytes, not float32.
        safetensors (bool): Write the weights beside the graph, into a .safetensors file of the same
            name, and not into it.
        report (Callable[[str], None], optional): Called at the start of each step with what it
            does.

    Raises:
        OnnxExportError: The exporter refuses, as it does Swin of mmdet, mmseg and mmpretrain inside
            of a :class:`mmhybrid.backbones.DepthwiseShortcutBackbone` without batch and size.

    Example:
        >>> from mmhybrid.backbones import TransXNet
        >>> export_onnx(TransXNet('tiny'), 'transxnet.onnx')  # doctest: +SKIP
    """
    path, report = Path(path), report or (lambda step: None)
    for module in model.modules():
        # PyTorch would refuse it minutes later, with other words. By name: mmdet, mmseg and
        # mmpretrain have one each, and none need be there.
        if type(module).__name__ == "ShiftWindowMSA" and not (batch and size):
            package = type(module).__module__.partition(".")[0]
            raise OnnxExportError(
                f"{type(model).__name__} cannot be exported: {package}'s ShiftWindowMSA in it "
                "works out the batch size in a way that torch.export takes for a constant. Give a "
                "batch and a size; a Swin for any is mmhybrid's DWSwinTransformer"
            )
    report("fusing the model" if fused else "copying the model")
    exportable = NamedOutputs(model, boxes)
    batch = 1 if exportable.boxes else batch
    exportable = fuse(exportable) if fused else copy.deepcopy(exportable).eval()
    make_exportable(exportable, any_batch=batch is None, any_size=size is None)
    shape = (batch or TRACED_SHAPE[0], in_channels, *(size or TRACED_SHAPE[2:]))
    if uint8:
        exportable, x = FromBytes(exportable), torch.randint(256, shape, dtype=torch.uint8)
    else:
        x = torch.randn(shape)
    names = ({} if batch else {0: "batch"}) | ({} if size else {2: "height", 3: "width"})
    try:
        program = trace(exportable, x, names, report)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise OnnxExportError(f"{type(model).__name__} cannot be exported: {reason}") from error
    report(f"writing {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if safetensors:
        import onnx_ir

        onnx_ir.save_safetensors(program.model, path)
    else:
        program.save(path)


@torch.no_grad()
def trace(
    model: nn.Module, x: Tensor, names: dict[int, str], report: Callable[[str], None]
) -> torch.onnx.ONNXProgram:
    """Translates a function of images, ``x`` among them, to ONNX.

    ``names`` are those of the dimensions of x that may change. The model returns a dict.
    """
    outputs = list(model(x))
    dynamic = dict.fromkeys(names, torch.export.Dim.DYNAMIC)
    report("tracing it with torch.export")
    with ExportableOperations():
        program = torch.export.export(model, (x,), dynamic_shapes=(dynamic,))
    report("translating it to ONNX")
    return torch.onnx.export(
        program,
        input_names=["image"],
        output_names=outputs,
        dynamic_shapes=(names,),
        opset_version=OPSET,
        custom_translation_table=translations(),
        verbose=False,
    )


class FromBytes(nn.Module):
    """A model that takes its images as bytes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.model(image.float())


def compare(
    model: nn.Module,
    path: str | os.PathLike,
    batches: Iterable[Tensor],
    boxes: bool | None = None,
    **options: Any,
) -> list[Difference]:
    """Runs a graph in its runtime and its model in PyTorch, unfused, on the same images.

    ``options`` are those of :func:`mmhybrid.deploy.runtimes.open_graph`. Boxes are compared by
    their scores alone, since those of nearly the same may change places.

    Returns:
        One row a batch (B, C, H, W) and output.
    """
    run = open_graph(path, **options)
    reference = copy.deepcopy(NamedOutputs(model, boxes)).eval()
    rows = []
    for x in batches:
        with torch.no_grad():
            expected = reference(x.float())
        got = run(x.numpy())
        for name in ["scores"] if reference.boxes else expected:
            y, found = expected[name], torch.from_numpy(got[name])
            if reference.boxes:  # one more or less is found where a score is near the threshold
                count, least = max(len(y), len(found)), model.test_cfg.get("score_thr") or 0.0
                y, found = (F.pad(one, (0, count - len(one)), value=least) for one in (y, found))
            rows.append(_difference(tuple(x.shape), name, y, found))
    return rows


def random_images(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Noise (B, C, H, W) as a model takes it: normalised for a backbone, or else 0 to 255."""
    return torch.randn(shape) if is_backbone(model) else torch.rand(shape) * 255


def _difference(shape: tuple[int, ...], name: str, expected: Tensor, got: Tensor) -> Difference:
    if expected.shape != got.shape:
        raise OnnxExportError(
            f"{name} of an image {shape} is {tuple(got.shape)} in the graph and "
            f"{tuple(expected.shape)} in PyTorch"
        )
    if not expected.numel():
        return Difference(shape, name, 0.0, 0.0)
    if not expected.is_floating_point():
        return Difference(shape, name, (expected != got).double().mean().item(), 1.0)
    error = (expected.double() - got).abs().max().item()
    return Difference(shape, name, error, expected.abs().max().item())
