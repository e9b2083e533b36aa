#!/usr/bin/env python
"""The old name of tools/export.py, which goes in version 0.3.

Export a trained model to ONNX, for any batch, height and width, and compare it with PyTorch.

A backbone gives its feature maps, a classifier logits, a segmentor labels and logits, a detector
what its head gives before boxes are decoded, or with --boxes these. Whole models take RGB images,
values 0 to 255. The comparison runs on noise at sizes that the export has not seen, and on images
given, in float32.
"""

from __future__ import annotations

import argparse
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import Renamed, add_cfg_options, add_verbose, exit_on_user_error, prepare

if TYPE_CHECKING:
    import torch

EXAMPLES = """examples:
  A whole model that train.py made, fused:
    python tools/export_onnx.py work_dirs/upernet_transxnet_t_ade20k/best.pth --out upernet.onnx
  Of weights that do not hold their config:
    python tools/export_onnx.py configs/upernet_transxnet_t_ade20k.py CHECKPOINT --out upernet.onnx
  The same, compared on images of one's own as well:
    python tools/export_onnx.py CHECKPOINT --out model.onnx --images FOLDER
  The backbone of a detector alone, its weights beside the graph:
    python tools/export_onnx.py configs/mask_rcnn_transxnet_t_coco.py CHECKPOINT \\
        --backbone --safetensors --out backbone.onnx
  A detector with its boxes, from an image to what is in it:
    python tools/export_onnx.py configs/retinanet_transxnet_t_coco.py CHECKPOINT --boxes \\
        --out retinanet.onnx
  To see whether it works, with random weights:
    python tools/export_onnx.py "TransXNet('tiny')" --out transxnet.onnx
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        help="checkpoint that holds its config, config file, or a backbone as in "
        "\"TransXNet('tiny')\"",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="file or address of the weights (default: the model's own, or else random weights)",
    )
    parser.add_argument("--out", required=True, help=".onnx file to write")
    parser.add_argument("--backbone", action="store_true", help="export the backbone alone")
    parser.add_argument(
        "--boxes",
        action="store_true",
        help="have a detector give boxes, scores, labels and masks, for one image at a time",
    )
    parser.add_argument("--no-fuse", action="store_true", help="export the model as it was trained")
    parser.add_argument(
        "--safetensors",
        action="store_true",
        help="write the weights beside the graph, into a .safetensors file",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="HxW",
        default=["256x320", "480x640"],
        help="sizes to compare at, on noise (default: 256x320 480x640)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        default=[],
        help="images, or folders of them, to compare a whole model on as well",
    )
    parser.add_argument(
        "--pictures", nargs="+", dest="images", action=Renamed, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest difference that is accepted, in terms of the largest value, or of 1 where "
        "that is larger; for labels, share of the pixels (default: %(default)s)",
    )
    add_cfg_options(parser)
    add_verbose(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()

    with exit_on_user_error():
        from mmhybrid.deprecation import warn_renamed
        from mmhybrid.engine.console import readable_console

        warn_renamed("tools/export_onnx.py", "tools/export.py")
        with readable_console(args.verbose):
            export(args)


def export(args: argparse.Namespace) -> None:
    """Exports, compares, and fails where the difference is larger than is accepted."""
    from mmhybrid.apis.inputs import find_inputs
    from mmhybrid.apis.models import first_backbone, init_model
    from mmhybrid.deploy.exporting import refuse_difference
    from mmhybrid.deploy.onnx_export import compare, export_onnx, random_images
    from mmhybrid.engine.console import ProgressLine
    from mmhybrid.errors import UserError

    sizes = [_size(text) for text in args.check]
    if Path(args.out).suffix != ".onnx":
        raise UserError(f"--out writes an .onnx file, and {args.out} has another name")
    files = [path for path, _ in find_inputs(args.images)]
    model = init_model(args.model, args.checkpoint, args.cfg_options)
    if files and (args.backbone or not hasattr(model, "data_preprocessor")):
        raise UserError("--images need a whole model, which normalises them")
    if args.backbone:
        model = first_backbone(model, args.model)
    print(f"exporting {type(model).__name__} (takes about a minute) ...", flush=True)
    options = dict(fused=not args.no_fuse, boxes=args.boxes, safetensors=args.safetensors)
    start = time.monotonic()

    def report(step: str) -> None:
        print(f"  {time.monotonic() - start:4.0f} s  {step}", flush=True)

    export_onnx(model, args.out, report=report, **options)
    print(f"written: {args.out}", flush=True)
    shapes = [(1, 3, *sizes[0]), *((1 if args.boxes else 3, 3, *size) for size in sizes[1:])]
    noise = [random_images(model, shape) for shape in shapes]
    batches = chain(noise, map(_image, files))
    line = ProgressLine(batches, "compare", total=len(noise) + len(files), unit="batch")
    rows = compare(model, args.out, line, boxes=args.boxes)
    print("largest difference from PyTorch, and PyTorch's largest value:")
    for row in rows:
        shape = "x".join(map(str, row.shape))
        what = "of pixels differ" if row.output == "labels" else f"of {row.scale:.3g}"
        print(f"  {shape:>14}  {row.output:<14} {row.largest:.2e} {what}")
    refuse_difference(rows, args.tolerance)


def _image(path: Path) -> torch.Tensor:
    import torch

    from mmhybrid.apis.inputs import read_rgb

    return torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].float()


def _size(text: str) -> tuple[int, int]:
    from mmhybrid.errors import UserError

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UserError(f"--check takes sizes such as 480x640, not {text!r}")
    return int(parts[0]), int(parts[1])


if __name__ == "__main__":
    main()
