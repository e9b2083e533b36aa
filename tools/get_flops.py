#!/usr/bin/env python
"""Count parameters, multiply-accumulates and activations of a model, without running it.

Two counts stand side by side: what PyTorch's operators do, attention and dynamic convolutions
included, and what OpenMMLab's own get_flops.py printed for the published tables, which leaves those
out. Papers call either FLOPs.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from command_line import add_cfg_options, config_file, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  A detector, at the 800x1280 of the published tables:
    python tools/get_flops.py configs/mask_rcnn_transxnet_t_coco.py
  A segmentor at another size, its parts down to the second level:
    python tools/get_flops.py configs/semantic_fpn_transxnet_t_ade20k.py --shape 512 512 --depth 2
  A backbone, ours or a peer:
    python tools/get_flops.py "TransXNet('small')" --shape 224
    python tools/get_flops.py timm.convnext_tiny --shape 800 1280
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    model = "config file; or a class of a registry, with arguments; or timm.NAME"
    add("model", type=config_file, metavar="CONFIG", help=model)
    add(
        "--shape",
        type=int,
        nargs="+",
        metavar="N",
        help="height and width of the image, or one number for both (default: of a config, what "
        "the published tables use: 800 1280 for detection, else the test size; of a class 224)",
    )
    add("--depth", type=int, default=0, help="also show the parts, this many levels (default: 0)")
    add("--json", metavar="FILE", help="write the counts of all parts to a file")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()

    from mmhybrid.analysis import count
    from mmhybrid.analysis.tables import markdown_table
    from mmhybrid.apis import models
    from mmhybrid.apis.outputs import make_folder
    from mmhybrid.engine.runner.run_config import load_config
    from mmhybrid.errors import UserError

    with exit_on_user_error():
        if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
            raise UserError(f"--shape takes height and width, not {args.shape}")
        if args.json:
            make_folder(Path(args.json).parent)
        shape = tuple(args.shape * 2)[:2] if args.shape else (224, 224)
        if models.is_config(args.model):
            cfg = load_config(args.model, args.cfg_options)
            shape = shape if args.shape else models.size_of(cfg)
            model = models.model_of(cfg)
        else:
            model = models.make_model(args.model, args.cfg_options)
        result = count(model, shape)

    if args.depth > 0:
        names = {row.name for row in result.modules}
        rows = [
            [row.name, row.type, *_figures(row)]
            for row in result.modules
            if sum(row.name.startswith(f"{other}.") for other in names) < args.depth
        ]
        head = ["part", "class", "parameters", "MACs", "mm-style MACs", "activations"]
        print(markdown_table(head, rows) + "\n")
    line = "=" * 30
    parameters, macs, mm_macs, activations = _figures(result)
    print(
        f"{line}\nModel: {args.model}\nInput shape: {shape[0]} x {shape[1]}\n"
        f"Params: {parameters} ({result.parameters:,})\n"
        f"MACs: {macs}, of all operators\n"
        f"FLOPs as OpenMMLab's tables count them: {mm_macs}\n"
        f"Activations: {activations}\n{line}"
    )
    if args.json:
        content = dict(model=args.model, **asdict(result))
        Path(args.json).write_text(json.dumps(content, indent=1))


def _figures(row) -> list[str]:
    """Parameters in millions, multiply-accumulates in billions, activations in millions."""
    units = [(row.parameters, 1e6), (row.macs, 1e9), (row.mm_macs, 1e9), (row.activations, 1e6)]
    return [f"{value / unit:.4g} {'M' if unit == 1e6 else 'G'}" for value, unit in units]


if __name__ == "__main__":
    main()
