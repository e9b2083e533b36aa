#!/usr/bin/env python
"""Write a folder that others load a model from, and upload it to the Hugging Face Hub."""

import argparse
import sys

from command_line import (
    add_cfg_options,
    config_file,
    exit_on_user_error,
    make_parser,
    prepare,
    split_config,
)

EXAMPLES = """examples:
  What train.py made, with the figures of an evaluation:
    python tools/test.py work_dirs/NAME/best.pth --result result.json
    python tools/publish.py work_dirs/NAME/best.pth --result result.json --out NAME \\
        --license apache-2.0 --images predictions/images/*.jpg
  And to the Hub, by the token of `hf auth login`:
    python tools/publish.py work_dirs/NAME/best.pth --out NAME --repo ME/NAME
  Whoever loads it:
    python -c "import mmhybrid; mmhybrid.from_pretrained('ME/NAME')"
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "config",
        type=config_file,
        metavar="CONFIG",
        help="config file, or the name of one; without it the checkpoint's own",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="file or address of the weights"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    parser.add_argument("--repo", metavar="NAME", help="repository of the Hub to upload it to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--result",
        help="what test.py --result wrote (default: result.json beside the checkpoint, where it is "
        "of this checkpoint)",
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="FILE", help="images to show in the card"
    )
    parser.add_argument("--deploy", metavar="FOLDER", help="exported models to go along")
    parser.add_argument("--license", help="of the weights, as SPDX writes it")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    if not args.license:
        print("the card will name no licence of the weights: say --license", file=sys.stderr)

    with exit_on_user_error():
        from mmhybrid.apis import publish, upload
        from mmhybrid.engine.runner.checkpoint_config import config_of
        from mmhybrid.engine.runner.run_config import load_config

        words = [args.config, args.checkpoint] if args.checkpoint else [args.config]
        config, (checkpoint, *_) = split_config(words)
        cfg, options = None, args.cfg_options
        if config or options:
            cfg = load_config(config, options) if config else config_of(checkpoint, options)
        folder = publish(
            checkpoint,
            args.out,
            cfg=cfg,
            result=args.result,
            images=args.images,
            deploy=args.deploy,
            license=args.license,
        )
        print(f"written: {folder}")
        if args.repo:
            print(f"uploaded: {upload(folder, args.repo, private=args.private)}")


if __name__ == "__main__":
    main()
