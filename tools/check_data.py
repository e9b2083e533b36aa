#!/usr/bin/env python
"""List all that is wrong with the data of a config, with counts and examples, before training."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

from command_line import add_cfg_options, config_file, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  Everything that a config trains and evaluates on:
    python tools/check_data.py configs/mask_rcnn_transxnet_t_coco.py
  Data that lies elsewhere:
    python tools/check_data.py configs/semantic_fpn_transxnet_t_ade20k.py --data-root /datasets/ade
  Annotations whole, but only a thousand images of each data set:
    python tools/check_data.py configs/mask_rcnn_transxnet_t_coco.py --most 1000
  In seconds: annotations, headers of images, a sample of the masks; and all that is found as JSON:
    python tools/check_data.py configs/mask_rcnn_transxnet_t_coco.py --quick --json found.json

The exit code is 0 where nothing is wrong, and 1 where there are errors. Warnings are no errors.
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("config", type=config_file, help="config file, or the name of one")
    parser.add_argument(
        "--data-root", help="folder that takes the place of every data_root in the config"
    )
    parser.add_argument(
        "--most", type=int, metavar="N", help="open N images of each data set, evenly distributed"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="read annotations, but only headers of images and a sample of the masks",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write what is found (code, severity, message, images), with the names of all images",
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="threads that open images (default: %(default)s)"
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()

    from mmhybrid.datasets.check_data import check
    from mmhybrid.datasets.data_paths import (
        LOADERS,
        check_data,
        check_metrics,
        with_data_root,
    )
    from mmhybrid.datasets.findings import Finding, errors_first
    from mmhybrid.engine.runner.check_classes import check_classes
    from mmhybrid.engine.runner.run_config import load_config
    from mmhybrid.errors import UserError

    with exit_on_user_error():
        cfg = load_config(args.config, args.cfg_options)
        if args.data_root:
            cfg = with_data_root(cfg, args.data_root)
        check_data(cfg, LOADERS)
        findings = check(cfg, args.quick, LOADERS, args.most, args.workers)
        # What a run would be refused for, beside the data themselves.
        for code, severity, look in (
            ("metric-of-other-data", "warning", partial(check_metrics, cfg, LOADERS)),
            ("classes-differ", "error", partial(check_classes, cfg)),
        ):
            try:
                look()
            except UserError as error:
                findings.append(Finding(code, severity, str(error)))
        findings = errors_first(findings)
    for finding in findings:
        print(finding)
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(one) for one in findings], indent=1) + "\n")
    counts = Counter(finding.severity for finding in findings)
    if not counts["error"] + counts["warning"]:
        print("nothing is wrong")
    print(f"{counts['error']} errors, {counts['warning']} warnings")
    sys.exit(1 if counts["error"] else 0)


if __name__ == "__main__":
    main()
