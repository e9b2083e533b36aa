#!/usr/bin/env python
"""Evaluate a checkpoint of a detector, a segmentor or a classifier."""

import argparse
import os
from pathlib import Path

from command_line import (
    add_common_arguments,
    config_file,
    exit_on_user_error,
    make_parser,
    prepare,
    split_config,
)

EXAMPLES = """examples:
  What train.py made, with --quick too, on its own data:
    python tools/test.py work_dirs/mask_rcnn_transxnet_t_coco/best.pth
  With images of the predictions:
    python tools/test.py CHECKPOINT --show-dir predictions
  With a page of figures of each class and of the worst images:
    python tools/test.py CHECKPOINT --report report
  Of weights that do not hold their config:
    python tools/test.py configs/mask_rcnn_transxnet_t_coco.py CHECKPOINT
  For the leaderboard:
    python tools/test.py CHECKPOINT --result results/NAME.json
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
    parser.add_argument(
        "--quick", action="store_true", help="use the data and the sizes of `train.py --quick`"
    )
    parser.add_argument(
        "--out",
        help="where to keep the predictions: a .pkl file; for segmentation, a folder of label maps",
    )
    parser.add_argument(
        "--out-item",
        choices=["pred", "metrics"],
        default="pred",
        help="what --out keeps; metrics go to a .json or .pkl file (default: %(default)s)",
    )
    parser.add_argument(
        "--result",
        help="write the metrics with their origin to this JSON file, for the leaderboard",
    )
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="write a page, report.html, and report.json: figures of each class, what is taken for "
        "what, the worst images",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="have --result call the checkpoint published weights, as it does those of an address",
    )
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="folder for images of the predictions")
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds that --show shows an image"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's tta_pipeline, or else mirror images",
    )
    parser.add_argument(
        "--fuse", action="store_true", help="fold what can be folded first: the same, but faster"
    )
    parser.add_argument("--amp", action="store_true", help="half precision (needs a GPU)")
    add_common_arguments(parser)
    return parser.parse_args()


def check_files(args: argparse.Namespace) -> None:
    """Find before the run what would keep its metrics from being written after it."""
    from mmhybrid.errors import UserError

    if args.out_item == "metrics" and not args.out:
        raise UserError("--out-item metrics needs a file to write them to: --out FILE.json")
    files = [("--result", args.result, [".json"])] if args.result else []
    if args.out_item == "metrics":
        files.append(("--out", args.out, [".json", ".pkl"]))
    for option, name, endings in files:
        if Path(name).suffix not in endings:
            raise UserError(f"{option} {name}: metrics go to a {' or '.join(endings)} file")
        try:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{option} {name} cannot be written: {error}") from error


def main() -> None:
    prepare()
    args = parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))

    with exit_on_user_error():
        from mmhybrid.engine.console import readable_console

        check_files(args)
        with readable_console(args.verbose, tables=True):
            test(args)


def test(args: argparse.Namespace) -> None:
    """Tests, and writes what was asked for."""
    from mmengine.fileio import dump

    from mmhybrid.deploy import FuseHook
    from mmhybrid.engine import ProgressHook
    from mmhybrid.engine.hooks.report_hook import ReportHook
    from mmhybrid.engine.runner.prepare_config import prepare_test_config
    from mmhybrid.engine.runner.results import write_test_result
    from mmhybrid.engine.runner.run_config import build_loops, build_runner
    from mmhybrid.visualization.report_page import write_page
    from mmhybrid.weights.loading import whole_models

    words = [args.config, args.checkpoint] if args.checkpoint else [args.config]
    args.config, (args.checkpoint, *_) = split_config(words)
    cfg = prepare_test_config(args)
    runner = build_runner(cfg)
    if args.fuse:
        runner.register_hook(FuseHook())
    if not args.verbose:
        runner.register_hook(ProgressHook())
    report = ReportHook()
    if args.report:
        runner.register_hook(report)
    build_loops(runner, ("test",))
    with whole_models():
        metrics = runner.test()
    if args.out_item == "metrics" and runner.rank == 0:
        dump(metrics, args.out)
    if args.result:
        about = dict(tta=args.tta, published=args.published)
        quick = cfg.get("is_quick", False)
        write_test_result(args.result, metrics, runner, cfg.filename, quick, **about)
    if args.report:
        write_page(runner, report, cfg.filename, args.report)


if __name__ == "__main__":
    main()
