#!/usr/bin/env python
"""Train a detector, a segmentor or a classifier: whatever the config describes."""

import argparse
import os
from pathlib import Path

from command_line import add_common_arguments, config_file, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  See it learn, without any data:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --quick
  The same, with more steps (all settings: mmhybrid/engine/runner/quick.py):
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --quick \\
        --cfg-options quick.iterations=300
  On images of one's own, in any format that docs/formats.md names:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --data FOLDER
  On COCO in data/coco, or elsewhere:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --data-root /datasets/coco
  A short run on small copies of one's own images:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --quick --data-root FOLDER
  From random weights, one image at a time:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --weights none \\
        --cfg-options train_dataloader.batch_size=1
  Go on after Ctrl-C, SIGTERM, a crash or a full disk (see docs/recovery.md):
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py --resume
  Leave out updates whose loss or gradient is not finite, instead of stopping:
    python tools/train.py configs/mask_rcnn_transxnet_t_coco.py \\
        --cfg-options default_hooks.non_finite.policy=skip
  On 8 GPUs of this machine:
    tools/dist_train.sh configs/mask_rcnn_transxnet_t_coco.py 8
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("config", type=config_file, help="config file, or the name of one")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="draw a small data set, shrink images and schedule for a CPU, train, evaluate, "
        "and leave checkpoints, metrics, curves and images of predictions",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE|none|auto",
        help="what to start from: a name of mmhybrid.list_weights(), a file, nothing, or the best "
        "that is known for the config (default: with --data auto, with --quick nothing, else what "
        "the config says)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint, or without one from the newest in the work folder",
    )
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision (on a CPU with --amp-dtype bfloat16)"
    )
    parser.add_argument(
        "--amp-dtype",
        choices=["float16", "bfloat16"],
        default="float16",
        help="of --amp (default: %(default)s)",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the batch of all GPUs over auto_scale_lr.base_batch_size",
    )
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate while training")
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))

    with exit_on_user_error():
        from mmhybrid.engine.console import readable_console

        with readable_console(args.verbose):
            train(args)


def train(args: argparse.Namespace) -> None:
    """Trains, and writes what is said about the run."""
    from mmhybrid.engine import ProgressHook
    from mmhybrid.engine.hooks.report_hook import ReportHook
    from mmhybrid.engine.runner.prepare_config import prepare_config
    from mmhybrid.engine.runner.report import write_report
    from mmhybrid.engine.runner.report_content import training_log
    from mmhybrid.engine.runner.results import write_training_result
    from mmhybrid.engine.runner.run_config import build_loops, build_runner
    from mmhybrid.engine.runner.verdict import verdict
    from mmhybrid.errors import UserError
    from mmhybrid.visualization.report_page import write_page

    runner = build_runner(prepare_config(args))
    report = ReportHook()
    runner.register_hook(report)
    if not args.verbose:
        runner.register_hook(ProgressHook())
    build_loops(runner, ("train", "val"))
    runner.train()  # from here on, mmhybrid.SignalHook saves and leaves at Ctrl-C
    try:
        write_training_result(runner, args.config, args.quick)
        idle = report.evaluation is None and runner.iter == report.start  # had ended when resumed
        if not idle or not Path(runner.work_dir, "report.html").is_file():
            write_page(runner, report, args.config)
        if args.quick and runner.rank == 0:
            write_report(runner, training_log(runner))
    except OSError as error:
        told = f"the training is done, but its report cannot be written: {error}"
        raise UserError(told) from error
    if runner.rank == 0:
        runner.logger.info(verdict(runner))


if __name__ == "__main__":
    main()
