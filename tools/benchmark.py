#!/usr/bin/env python
"""Measure models side by side in one run, and write a table, a chart and all figures.

Parameters, multiply-accumulates (all of them, and as OpenMMLab's tables count them), activations,
latency, throughput, time of a training step and peak memory. Models are timed in turn, round by
round; compare them within a run, not between runs.

With --deploy: every installed way to run one model on this machine's CPU, and how to get the
fastest.
"""

import argparse
import os
import sys
from pathlib import Path

from command_line import check_device, config_file, exit_on_user_error, make_parser, prepare

EXAMPLES = """examples:
  Our backbones and their peers as backbones of detectors, within ten minutes on two threads:
    python tools/benchmark.py --preset dense
  Two models of one's own choice, fused too, on a GPU in half precision, at two sizes:
    python tools/benchmark.py "TransXNet('small')" timm.convnext_small --mode eager fused \\
        --device cuda --precision float16 --batch-size 32 --size 224 800x1344 --name mine
  A whole detector against mmdet's own:
    python tools/benchmark.py configs/mask_rcnn_transxnet_t_coco.py \\
        mmdet_configs/mask-rcnn_r50_fpn_1x_coco.py --size 800x1344 --no-train
  One model in PyTorch, compiled, onnxruntime and OpenVINO, at the size of its config:
    python tools/benchmark.py work_dirs/mask_rcnn_transxnet_t_coco/best.pth --deploy
"""


def size(text: str) -> tuple[int, int]:
    """Height and width from ``'224'`` or ``'800x1344'``."""
    numbers = tuple(int(part) for part in text.split("x"))
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(text)
    return (numbers * 2)[:2]


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        type=config_file,
        metavar="MODEL",
        help="a class of a registry with its arguments, as TransXNet('small') or "
        "mmdet.SwinTransformer; a config file; or timm.NAME. The first is what others are "
        "compared with; with --deploy one of these or a checkpoint, or a config and its checkpoint",
    )
    deploy = "run one model in every way, and name the fastest (CPU; takes some minutes)"
    add("--deploy", action="store_true", help=deploy)
    add("--calibration", metavar="FOLDER", help="images for int8, with --deploy")
    preset = "backbones for dense prediction: 512x512, one image, two threads"
    add("--preset", choices=["dense"], help=preset)
    add("--size", type=size, nargs="+", metavar="HxW", help="of the images (default: 224)")
    add("--batch-size", type=int, default=1, help="images (default: 1)")
    precisions = ["float32", "bfloat16", "float16"]
    precision = "by autocast (default: %(default)s)"
    add("--precision", choices=precisions, default="float32", help=precision)
    mode = "as it is, fused for inference, compiled (default: eager; of a preset, fused too)"
    add("--mode", nargs="+", choices=["eager", "fused", "compiled"], help=mode)
    add("--channels-last", action="store_true", help="memory format")
    add("--threads", type=int, help="of PyTorch (default: its own; of a preset, 2)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    add("--repeats", type=int, default=20, help="most rounds (default: 20)")
    add("--minutes", type=float, help="begin no round after this time (default of a preset: 8)")
    add("--no-train", action="store_true", help="leave out training steps")
    add("--out", default="results", help="folder to write to (default: results)")
    add("--name", help="of the files written (default: benchmark, or benchmark_PRESET)")
    args = parser.parse_args()
    if bool(args.models) == bool(args.preset):
        parser.error("name models, or a preset")
    if args.deploy and len(args.models) not in (1, 2):
        parser.error("--deploy takes one model, and its checkpoint")
    if args.preset:
        args.size = args.size or [(512, 512)]
        args.mode = args.mode or ["eager", "fused"]
        args.threads = args.threads or 2
        args.minutes = args.minutes or 8
    args.name = args.name or "_".join(filter(None, ["benchmark", args.preset]))
    return args


def main() -> None:
    # Nothing else should run beside a measurement, and threads may wait as fast as they can.
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    prepare()
    args = parse_args()
    check_device(args.device)
    if args.deploy:
        with exit_on_user_error():
            return print(compare_ways(args))
    import torch

    from mmhybrid.analysis.benchmark import PEERS, Settings, benchmark, smallest_models
    from mmhybrid.analysis.benchmark_report import chart, table
    from mmhybrid.apis.models import make_model
    from mmhybrid.deploy import fuse
    from mmhybrid.engine.runner.results import made, write_json
    from mmhybrid.errors import UserError

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(
        batch_size=args.batch_size,
        precision=args.precision,
        channels_last=args.channels_last,
        device=args.device,
        repeats=args.repeats,
        train=not args.no_train,
        seconds=args.minutes and args.minutes * 60,
    )
    file = Path(args.out) / f"{args.name}.json"
    about = made(args.device)
    models = {name: name for name in args.models}
    if args.preset:  # TransXNet first, which others are compared with
        ours = sorted(smallest_models().items(), key=lambda one: one[0] != "TransXNet-T")
        models = dict(ours) | PEERS

    def save(rows: list[dict]) -> None:
        content = dict(type="benchmark", made=about, settings=vars(settings), rows=rows)
        write_json(file, content)

    try:
        for other in args.models[1:]:  # the first is made at once
            make_model(other)
        rows = benchmark(
            models,
            args.size or [(224, 224)],
            args.mode or ["eager"],
            settings,
            make=make_model,
            fuse=fuse,
            save=save,
            log=lambda line: print(line, flush=True),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; what was measured is in {file}")
    text = table(rows, about, settings)
    file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    chart(rows, file.with_suffix(".png"))
    print(f"\n{text}\n\nWritten: {file}, {file.stem}.md, {file.stem}.png")


def compare_ways(args: argparse.Namespace) -> str:
    """Measures one model in every way; the table of it."""
    import torch

    from mmhybrid.apis.deploy_ways import measure_ways, table_of_ways
    from mmhybrid.apis.graph_inputs import GraphInputs
    from mmhybrid.apis.inputs import find_inputs
    from mmhybrid.apis.models import init_model, size_of
    from mmhybrid.engine.runner.checkpoint_config import config_of, is_checkpoint
    from mmhybrid.engine.runner.run_config import load_config

    if args.threads:
        torch.set_num_threads(args.threads)
    name, cfg = args.models[0], None
    if is_checkpoint(name) or name.endswith(".py"):
        cfg = config_of(name) if is_checkpoint(name) else load_config(name)
    size = args.size[0] if args.size else size_of(cfg) if cfg else (224, 224)
    model = init_model(*args.models)
    files = [path for path, _ in find_inputs([args.calibration] if args.calibration else [])]
    images = list(GraphInputs(files, model, cfg, size))
    options = dict(calibration=images, repeats=args.repeats, report=print)
    return table_of_ways(measure_ways(model, size, **options), " ".join(args.models), size)


if __name__ == "__main__":
    main()
