#!/usr/bin/env python
"""Detect, segment or classify images and videos with a trained model.

Writes into the output folder: images/ and videos/ with the predictions drawn; for boxes and masks
predictions.json in COCO's format, for segmentation labels/ with one PNG an image, for
classification predictions.json with the five best classes. Of a folder all images and videos are
taken, those of its subfolders too. What cannot be read is named and left out.

exit code: 0 all inputs were predicted on; 1 nothing could be done; 3 some could not be read or
drawn
"""

import argparse
import sys
from pathlib import Path

from command_line import (
    add_cfg_options,
    add_verbose,
    check_device,
    config_file,
    exit_on_user_error,
    make_parser,
    prepare,
    split_config,
)

EXAMPLES = """examples:
  A folder of images, with what train.py made:
    python tools/predict.py work_dirs/mask_rcnn_transxnet_t_coco/best.pth images/
  With weights that do not hold their config:
    python tools/predict.py configs/mask_rcnn_transxnet_t_coco.py CHECKPOINT images/
  Some files, eight at a time, fused for speed:
    python tools/predict.py CHECKPOINT "street/*.jpg" --batch-size 8 --fuse --out-dir street_labels
  With what export.py made, in onnxruntime or OpenVINO:
    python tools/predict.py exported/mask_rcnn images/
  Very large images, in tiles:
    python tools/predict.py CHECKPOINT aerial/ --tile auto --tile-check
  Frame after frame of a video, results alone:
    python tools/predict.py CHECKPOINT ride.mp4 --no-save-vis
"""


def parse_args() -> argparse.Namespace:
    usage = "%(prog)s [CONFIG] CHECKPOINT INPUT ... [options]"
    parser = make_parser(__doc__, EXAMPLES, usage=usage)
    parser.add_argument(
        "model",
        type=config_file,
        metavar="CHECKPOINT",
        help="file or address of the weights; before it a config file, where it holds none; or the "
        "folder of an exported model",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help='image, video, folder, or a pattern in quotes: "street/**/*.jpg"',
    )
    parser.add_argument(
        "--out-dir", default="predictions", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images at a time (default: 1)")
    parser.add_argument(
        "--device", help="such as cuda:0 or cpu (default: the GPU, if there is one)"
    )
    parser.add_argument(
        "--pred-score-thr",
        type=float,
        default=0.3,
        help="least score of boxes that are drawn; all are written (default: %(default)s)",
    )
    parser.add_argument(
        "--fuse", action="store_true", help="fold what can be folded first: the same, but faster"
    )
    parser.add_argument(
        "--tile",
        default="off",
        metavar="auto|HxW|off",
        help="predict very large images in tiles; auto says when (default: %(default)s)",
    )
    parser.add_argument(
        "--tile-check",
        action="store_true",
        help="compare what tiles give with what the whole image gives",
    )
    parser.add_argument("--no-save-vis", action="store_true", help="draw no images")
    parser.add_argument("--no-save-pred", action="store_true", help="write no results")
    add_verbose(parser)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    check_device(args.device)
    import mmhybrid  # noqa: F401  (before OpenMMLab's packages)
    from mmhybrid.apis import make_inferencer, predict
    from mmhybrid.apis.deployed import is_exported
    from mmhybrid.apis.inputs import find_inputs
    from mmhybrid.apis.outputs import check_folder
    from mmhybrid.apis.tiling import parse_tile
    from mmhybrid.engine.console import readable_console
    from mmhybrid.engine.runner.checkpoint_config import config_of
    from mmhybrid.engine.runner.run_config import existing_file, load_config
    from mmhybrid.errors import UserError

    with exit_on_user_error(), readable_console(args.verbose):
        if args.batch_size < 1:
            raise UserError(f"--batch-size {args.batch_size}: give 1 or more")
        tile = parse_tile(args.tile)
        if args.tile_check and tile is None:
            raise UserError("--tile-check compares what --tile gives: give --tile too")
        if is_exported(args.model):
            if args.device or args.fuse or args.cfg_options:
                raise UserError("--device, --fuse and --cfg-options are for checkpoints")
            cfg, checkpoint, inputs = args.model, None, args.inputs
        else:
            config, (checkpoint, *inputs) = split_config([args.model, *args.inputs])
            if not inputs:
                raise UserError("name the images, after the checkpoint")
            if config is None:
                cfg = config_of(checkpoint, args.cfg_options)
            else:
                cfg = load_config(config, args.cfg_options)
                existing_file(checkpoint, "checkpoint")
        # Wrong names are reported before the model is built.
        find_inputs(inputs, args.out_dir)
        check_folder(Path(args.out_dir))
        inferencer = make_inferencer(cfg, checkpoint, device=args.device, fused=args.fuse)
        outcome = predict(
            inferencer,
            inputs,
            args.out_dir,
            batch_size=args.batch_size,
            score_threshold=args.pred_score_thr,
            images=not args.no_save_vis,
            results=not args.no_save_pred,
            tile=tile,
            tile_check=args.tile_check,
            report=lambda text: print(text, file=sys.stderr),
        )
    print(f"{outcome.done} images done, {len(outcome.unreadable)} inputs not readable")
    if changes := outcome.changes:
        same = 100 * sum(change.same for change in changes) / len(changes)
        more = sum(change.more for change in changes)
        told = (
            f"{len(changes)} images in tiles: {same:.1f} % of the whole image's result is the same"
        )
        print(told + (f", and {more} objects are in tiles alone" if more else ""))
    if not_drawn := len(outcome.not_drawn):
        print(f"{not_drawn} images could not be drawn")
    print(f"written to {args.out_dir}" if outcome.done else "nothing was written")
    if outcome.unreadable or outcome.not_drawn:
        sys.exit(3 if outcome.done else 1)


if __name__ == "__main__":
    main()
