#!/usr/bin/env python
"""Draw a page of what a network looks at in a picture.

Of every model: its feature maps, its effective receptive field, Grad-CAM. Of TransXNet also the
kernels that it mixes for this picture and the attention of one place; of DMFormer the gate; of
XFormer how channels attend to each other; of models with depth-wise shortcuts what these add.
"""

import argparse
import sys
from pathlib import Path

from command_line import add_cfg_options, prepare

EXAMPLES = """examples:
  A trained segmentor and a picture:
    python tools/visualize.py configs/upernet_transxnet_t_ade20k.py CHECKPOINT --picture street.jpg
  Where the place 200 pixels from the left and 80 from the top looks:
    python tools/visualize.py CONFIG CHECKPOINT --picture street.jpg --place 200 80
  A backbone with random weights, and a drawn picture:
    python tools/visualize.py "TransXNet('tiny')" --out transxnet.jpg
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="config file, or a backbone as in \"TransXNet('tiny')\"")
    parser.add_argument(
        "checkpoint", nargs="?", help="file or address of the weights (default: random weights)"
    )
    parser.add_argument("--picture", help="file to look at (default: a drawn picture)")
    parser.add_argument(
        "--out", default="page.png", help=".png, .jpg or .pdf file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--place",
        nargs=2,
        type=int,
        metavar=("X", "Y"),
        help="pixel of the picture whose attention is shown (default: the middle)",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        default=320,
        help="that the picture is resized to, in pixels (default: %(default)s)",
    )
    parser.add_argument("--title", help="of the page (default: the model and the checkpoint)")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    import numpy as np

    from mmhybrid.analysis.looking_page import draw_page
    from mmhybrid.analysis.trained_model import first_backbone, trained_model
    from mmhybrid.deploy.predict import read_rgb
    from mmhybrid.engine.run_config import RunError
    from mmhybrid.engine.sample_data.shapes import scene

    try:
        if Path(args.out).suffix not in (".png", ".jpg", ".pdf"):
            raise RunError(f"--out writes a .png, .jpg or .pdf file, and not {args.out}")
        if args.short_side < 32:
            raise RunError(f"--short-side {args.short_side}: give 32 or more")
        if args.picture:
            picture = read_rgb(args.picture)
        else:
            picture = scene(np.random.default_rng(4), 320, 240, range(5), 4)[0]
        height, width = picture.shape[:2]
        x, y = args.place or (width // 2, height // 2)
        if not (0 <= x < width and 0 <= y < height):
            raise RunError(f"--place {x} {y} is outside of the picture, {width}x{height} pixels")
        model = trained_model(args.model, args.checkpoint, args.cfg_options)
        weights = Path(args.checkpoint).name if args.checkpoint else "random weights"
        draw_page(
            model,
            first_backbone(model, args.model),
            picture,
            args.out,
            title=args.title or f"{Path(args.model).stem}, {weights}",
            place=((y + 0.5) / height, (x + 0.5) / width),
            short_side=args.short_side,
        )
    except RunError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {error}. pip install -r requirements/export.txt, and then "
            "pip install --no-deps -r requirements/visualize.txt"
        )
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
