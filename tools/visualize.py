#!/usr/bin/env python
"""Draw a page of what a network sees in an image.

Of every model: Grad-CAM, feature maps, effective receptive fields. Of layers that have them: the
kernels mixed for this image, the attention of one place or between channels, gates, and what
depth-wise shortcuts add.
"""

import argparse
import sys
from pathlib import Path

from command_line import (
    Renamed,
    add_cfg_options,
    config_file,
    exit_on_user_error,
    make_parser,
    prepare,
)

EXAMPLES = """examples:
  What train.py made, and an image:
    python tools/visualize.py work_dirs/upernet_transxnet_t_ade20k/best.pth --image street.jpg
  Weights that do not hold their config:
    python tools/visualize.py configs/upernet_transxnet_t_ade20k.py CHECKPOINT --image street.jpg
  Where the place 200 pixels from the left and 80 from the top looks:
    python tools/visualize.py CHECKPOINT --image street.jpg --place 200 80
  A backbone with random weights, and a drawn image:
    python tools/visualize.py "TransXNet('tiny')" --out transxnet.jpg
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    model = "checkpoint that holds its config, config file, or a backbone as in "
    add("model", type=config_file, help=model + "\"TransXNet('tiny')\"")
    weights = "file or address of the weights (default: the model's own, or else random weights)"
    add("checkpoint", nargs="?", help=weights)
    add("--image", help="image file (default: a drawn image)")
    add("--picture", dest="image", action=Renamed, help=argparse.SUPPRESS)
    add("--out", default="page.png", help=".png, .jpg or .pdf file to write (default: %(default)s)")
    place = "pixel of the image whose attention is shown (default: the middle)"
    add("--place", nargs=2, type=int, metavar=("X", "Y"), help=place)
    add("--short-side", type=int, default=320, help="pixels, after resizing (default: %(default)s)")
    add("--title", help="of the page (default: the model and the checkpoint)")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    import numpy as np

    from mmhybrid.apis.inputs import read_rgb
    from mmhybrid.apis.models import first_backbone, init_model
    from mmhybrid.datasets.synthetic.shapes import scene
    from mmhybrid.engine.runner.checkpoint_config import is_checkpoint
    from mmhybrid.errors import UserError
    from mmhybrid.visualization.page import draw_page

    try:
        with exit_on_user_error():
            if Path(args.out).suffix.lower() not in (".png", ".jpg", ".pdf"):
                raise UserError(f"--out writes a .png, .jpg or .pdf file, and not {args.out}")
            if args.short_side < 32:
                raise UserError(f"--short-side {args.short_side}: give 32 or more")
            if args.image:
                image = read_rgb(args.image)
            else:
                image = scene(np.random.default_rng(4), 320, 240, range(5), 4)[0]
            height, width = image.shape[:2]
            x, y = args.place or (width // 2, height // 2)
            if not (0 <= x < width and 0 <= y < height):
                raise UserError(f"--place {x} {y} is outside of the image, {width}x{height} pixels")
            model = init_model(args.model, args.checkpoint, args.cfg_options)
            of_its_own = is_checkpoint(args.model)
            weights = "its weights" if of_its_own else "random weights"
            weights = Path(args.checkpoint).name if args.checkpoint else weights
            title = args.title or f"{Path(args.model).stem}, {weights}"
            place = ((y + 0.5) / height, (x + 0.5) / width)
            options = dict(title=title, place=place, short_side=args.short_side)
            draw_page(model, first_backbone(model, args.model), image, args.out, **options)
    except ModuleNotFoundError as error:
        from mmhybrid.engine.runner.run_config import IS_CHECKOUT

        missing = "-r requirements/export.txt" if IS_CHECKOUT else '"mmhybrid[export]"'
        sys.exit(
            f"error: {error}. pip install {missing}, and then pip install --no-deps grad-cam ttach"
        )
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
