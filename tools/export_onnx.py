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
from itertools import chain
from pathlib import Path

import export as tool
from command_line import Renamed, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  A whole model that train.py made, fused:
    python tools/export_onnx.py work_dirs/upernet_transxnet_t_ade20k/best.pth --out upernet.onnx
  A detector with its boxes, from an image to what is in it:
    python tools/export_onnx.py configs/retinanet_transxnet_t_coco.py CHECKPOINT --boxes \\
        --out retinanet.onnx
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    tool.add_model(parser)
    add = parser.add_argument
    add("--out", required=True, help=".onnx file to write")
    boxes = "have a detector give boxes, scores, labels and masks, for one image at a time"
    add("--boxes", action="store_true", help=boxes)
    add("--pictures", nargs="+", dest="images", action=Renamed, help=argparse.SUPPRESS)
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
    import torch

    from mmhybrid.apis.inputs import read_rgb
    from mmhybrid.deploy.exporting import refuse_difference
    from mmhybrid.deploy.onnx_export import compare, export_onnx, random_images
    from mmhybrid.errors import UserError

    sizes = [tool.size_of("--check", text) for text in args.check]
    if Path(args.out).suffix != ".onnx":
        raise UserError(f"--out writes an .onnx file, and {args.out} has another name")
    model, files, report = tool.load(args)
    options = dict(fused=not args.no_fuse, boxes=args.boxes, safetensors=args.safetensors)
    export_onnx(model, args.out, report=report, **options)
    report("comparing it with PyTorch")
    shapes = [(1, 3, *sizes[0]), *((1 if args.boxes else 3, 3, *size) for size in sizes[1:])]
    images = (torch.from_numpy(read_rgb(file)).permute(2, 0, 1)[None].float() for file in files)
    noise = (random_images(model, shape) for shape in shapes)
    rows = compare(model, args.out, chain(noise, images), boxes=args.boxes)
    print(tool.differences(dict(vars(row), size=row.shape) for row in rows))
    refuse_difference(rows, args.tolerance)


if __name__ == "__main__":
    main()
