#!/usr/bin/env python
"""Export a trained model into a folder that a service runs without PyTorch.

The folder holds the graph (model.onnx for onnxruntime, or model.xml and model.bin for OpenVINO),
model.json, which says what goes in and what comes out, and predictor.py, which runs them. The graph
of a whole model takes RGB images, values 0 to 255, and normalises them; a backbone alone takes what
it was trained on. It is compared with PyTorch, and timed beside it.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import (
    add_cfg_options,
    add_verbose,
    config_file,
    exit_on_user_error,
    make_parser,
    prepare,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmengine.config import Config
    from torch import nn

EXAMPLES = """examples:
  What train.py made, for onnxruntime, and for OpenVINO:
    python tools/export.py work_dirs/upernet_transxnet_t_ade20k/best.pth --out upernet
    python tools/export.py work_dirs/upernet_transxnet_t_ade20k/best.pth --format openvino \\
        --out upernet
  For images of one size, in bfloat16:
    python tools/export.py CHECKPOINT --format openvino --size 512x512 --precision bf16 --out model
  In 8-bit integers, by a hundred images of one's own:
    python tools/export.py CHECKPOINT --format openvino --precision int8 --calibration FOLDER \\
        --out model
  Of weights that do not hold their config:
    python tools/export.py configs/upernet_transxnet_t_ade20k.py CHECKPOINT --out upernet
  To see whether it works, with random weights:
    python tools/export.py "TransXNet('tiny')" --out transxnet
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add_model(parser)
    add("--out", required=True, metavar="FOLDER", help="folder to write")
    add("--format", choices=["onnx", "openvino"], default="onnx", help="(default: %(default)s)")
    add("--size", metavar="HxW", help="height and width of all images (default: any)")
    batch = "images at a time, or 'free' for any number, which is slower (default: 1)"
    add("--batch", default="1", metavar="N", help=batch)
    precision = "bf16 is OpenVINO's; int8 needs --calibration (default: %(default)s)"
    add("--precision", choices=["fp32", "bf16", "int8"], default="fp32", help=precision)
    add("--calibration", metavar="FOLDER", help="images for int8, 100 are enough to try")
    add("--calibration-images", type=int, default=300, help="at most (default: %(default)s)")
    drop = (
        "loss of the metric that int8 may cost, where the data of the config is there: layers that "
        "cost more are left out of it (OpenVINO; default: %(default)s)"
    )
    add("--max-drop", type=float, default=0.01, help=drop)
    add("--data-root", help="folder that takes the place of every data_root in the config")
    add("--uint8", action="store_true", help="the graph takes bytes, not float32")
    add("--threads", type=int, help="to time with (default: PyTorch's)")
    return parser.parse_args()


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the model to export, and how it is compared with PyTorch."""
    add = parser.add_argument
    model = (
        "checkpoint that holds its config, config file, or a backbone as in \"TransXNet('tiny')\""
    )
    add("model", type=config_file, help=model)
    weights = "file or address of the weights (default: the model's own, or else random weights)"
    add("checkpoint", nargs="?", help=weights)
    add("--backbone", action="store_true", help="export the backbone alone")
    add("--no-fuse", action="store_true", help="export the model as it was trained")
    beside = "write the weights beside an .onnx graph, into a .safetensors file"
    add("--safetensors", action="store_true", help=beside)
    check = "sizes to compare at, on noise, where any is taken (default: 256x320 480x640)"
    add("--check", nargs="+", metavar="HxW", default=["256x320", "480x640"], help=check)
    images = "images, or folders of them, to compare a whole model on as well"
    add("--images", nargs="+", metavar="PATH", default=[], help=images)
    tolerance = (
        "largest difference that is accepted of float32, in terms of the largest value, or of 1 "
        "where that is larger; for labels, share of the pixels (default: %(default)s)"
    )
    add("--tolerance", type=float, default=1e-3, help=tolerance)
    add_cfg_options(parser)
    add_verbose(parser)


def main() -> None:
    prepare()
    args = parse_args()

    with exit_on_user_error():
        from mmhybrid.engine.console import readable_console

        with readable_console(args.verbose):
            run(args)


def load(args: argparse.Namespace) -> tuple[nn.Module, list[Path], Callable[[str], None]]:
    """The model of a command line, the images to compare it on, and what reports a step."""
    from mmhybrid.apis.inputs import find_inputs
    from mmhybrid.apis.models import first_backbone, init_model
    from mmhybrid.errors import UserError

    files = [path for path, _ in find_inputs(args.images)]
    model = init_model(args.model, args.checkpoint, args.cfg_options)
    if args.backbone:
        model = first_backbone(model, args.model)
    if files and not hasattr(model, "data_preprocessor"):
        raise UserError("--images need a whole model, which normalises them")
    print(f"exporting {type(model).__name__} (takes some minutes) ...", flush=True)
    start = time.monotonic()

    def report(step: str) -> None:
        print(f"  {time.monotonic() - start:4.0f} s  {step}", flush=True)

    return model, files, report


def differences(rows: Iterable[dict[str, Any]]) -> str:
    """Lines of those from PyTorch, as ``model.json`` holds them."""
    lines = ["largest difference from PyTorch, and PyTorch's largest value:"]
    for row in rows:
        size, labels = "x".join(map(str, row["size"])), row["output"] == "labels"
        what = "of pixels differ" if labels else f"of {row['scale']:.3g}"
        lines.append(f"  {size:>9}  {row['output']:<14} {row['largest']:.2e} {what}")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Makes the model, exports it, and prints what came of it."""
    import torch

    from mmhybrid.apis.graph_inputs import GraphInputs
    from mmhybrid.apis.inferencer import dataset_meta
    from mmhybrid.apis.inputs import find_inputs
    from mmhybrid.deploy import export
    from mmhybrid.deploy.exporting import check_export
    from mmhybrid.errors import UserError

    size = size_of("--size", args.size) if args.size else None
    check = [size_of("--check", text) for text in args.check]
    if args.batch != "free" and not (args.batch.isdigit() and int(args.batch)):
        raise UserError(f"--batch takes a number, or free, not {args.batch!r}")
    if args.threads:
        torch.set_num_threads(args.threads)
    calibration = [path for path, _ in find_inputs([args.calibration] if args.calibration else [])]
    calibration = calibration[: args.calibration_images]
    check_export(args.format, args.precision, calibration, args.safetensors)
    cfg = _config(args)
    model, files, report = load(args)
    if cfg and not args.backbone:
        with suppress(UserError):  # a data set whose classes nobody names
            model.dataset_meta = dataset_meta(cfg, _checkpoint(args))
    batch = None if args.batch == "free" else int(args.batch)
    inputs = dict(model=model, cfg=cfg, size=size, batch=batch or 1, uint8=args.uint8)
    meta = export(
        model,
        args.out,
        format=args.format,
        size=size,
        batch=batch,
        precision=args.precision,
        calibration=GraphInputs(calibration, **inputs),
        evaluate=_metric(args, cfg, report),
        max_drop=args.max_drop,
        fused=not args.no_fuse,
        uint8=args.uint8,
        safetensors=args.safetensors,
        cfg=cfg,
        origin=_origin(args),
        check=check,
        images=(torch.from_numpy(x) for x in GraphInputs(files, **inputs)),
        tolerance=args.tolerance,
        report=report,
    )
    print(_summary(meta, args.out))


def _config(args: argparse.Namespace) -> Config | None:
    from mmhybrid.apis.models import is_config
    from mmhybrid.datasets.data_paths import with_data_root
    from mmhybrid.engine.runner.checkpoint_config import config_of, is_checkpoint
    from mmhybrid.engine.runner.run_config import load_config

    if is_checkpoint(args.model):
        cfg = config_of(args.model, args.cfg_options)
    elif is_config(args.model):
        cfg = load_config(args.model, args.cfg_options)
    else:
        return None
    return with_data_root(cfg, args.data_root) if args.data_root else cfg


def _checkpoint(args: argparse.Namespace) -> str | None:
    from mmhybrid.engine.runner.checkpoint_config import is_checkpoint

    return args.checkpoint or (args.model if is_checkpoint(args.model) else None)


def _origin(args: argparse.Namespace) -> dict[str, Any]:
    from mmhybrid.apis.redaction import redacted
    from mmhybrid.weights.writing import sha256_of_file

    checkpoint = _checkpoint(args)
    file = Path(checkpoint or "")
    sha256 = sha256_of_file(file) if file.is_file() else None
    config = args.model if args.model != checkpoint else None
    return redacted(dict(config=config, checkpoint=checkpoint, sha256=sha256))


def _metric(args: argparse.Namespace, cfg: Config | None, report: Any) -> Any:
    """What evaluates a graph for int8, where the data is there and the graph takes its sizes."""
    from mmhybrid.apis.graph_metric import metric_of_graphs
    from mmhybrid.errors import UserError

    if args.precision != "int8" or args.backbone or not cfg:
        return None
    if args.size or args.uint8 or args.batch != "1":
        report("not evaluated: this needs any size, batch 1, and float32 images")
        return None
    try:
        return metric_of_graphs(cfg)
    except UserError as error:
        report(f"not evaluated: {str(error).splitlines()[0]}")
        return None


def _summary(meta: dict[str, Any], folder: str) -> str:
    lines = [differences(meta["difference"])]
    if metric := meta.get("metric"):
        lines.append(f"metric: {metric['fp32']:.4g} in float32, {metric['int8']:.4g} in int8")
    speed = meta["speed"]
    size = "x".join(map(str, speed["size"]))
    lines.append(
        f"{size}, {speed['threads']} threads: PyTorch {speed['pytorch_ms']:.0f} ms, "
        f"{meta['runtime']} {speed['runtime_ms']:.0f} ms"
    )
    return "\n".join([*lines, f"written: {folder}"])


def size_of(option: str, text: str) -> tuple[int, int]:
    from mmhybrid.errors import UserError

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UserError(f"{option} takes sizes such as 480x640, not {text!r}")
    return int(parts[0]), int(parts[1])


if __name__ == "__main__":
    main()
