#!/usr/bin/env python
"""Print what the optimizer does with each parameter: group, depth, learning rate, weight decay.

Needs neither data nor a GPU, and works with any optimizer wrapper constructor. With layer-wise
decay (mmhybrid.LayerwiseDecayOptimWrapperConstructor) it shows the depth of each parameter too.
"""

import argparse

from command_line import add_cfg_options, config_file, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  The weight decay of each parameter, as the config has it:
    python tools/print_groups.py configs/mask_rcnn_transxnet_t_coco.py
  What layer-wise decay would do to it:
    python tools/print_groups.py configs/mask_rcnn_transxnet_t_coco.py --cfg-options \\
        optim_wrapper.constructor=mmhybrid.LayerwiseDecayOptimWrapperConstructor \\
        optim_wrapper.paramwise_cfg.layer_decay_rate=0.75
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("config", type=config_file, help="config file, or the name of one")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()

    from mmengine.logging import MMLogger
    from mmengine.optim import build_optim_wrapper

    with exit_on_user_error():
        from mmhybrid.apis.models import model_of
        from mmhybrid.engine.optimizers.layer_decay import parameter_groups
        from mmhybrid.engine.runner.check_config import check_config
        from mmhybrid.engine.runner.run_config import load_config
        from mmhybrid.errors import UserError

        cfg = load_config(args.config, args.cfg_options)
        if "optimizer" not in cfg.get("optim_wrapper", {}):
            raise UserError(f"{args.config} has no optim_wrapper with an optimizer")
        # Mixed precision and the accumulation of gradients change no group.
        keys = ("optimizer", "constructor", "paramwise_cfg")
        wrapper = {key: cfg.optim_wrapper[key] for key in keys if key in cfg.optim_wrapper}
        MMLogger.get_current_instance().setLevel("WARNING")
        check_config(cfg)
        model = model_of(cfg)
        try:
            optimizer = build_optim_wrapper(model, wrapper).optimizer
        except (KeyError, NotImplementedError) as error:  # MMEngine's, and mmdet's constructor's
            raise UserError(f"the optim_wrapper of {args.config}: {error}") from error
        print("\n".join(parameter_groups(model, optimizer)))


if __name__ == "__main__":
    main()
