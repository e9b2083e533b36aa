#!/usr/bin/env python
"""Measure models side by side in one run, and write a table, a chart and all figures.

Parameters, multiply-accumulates (all of them, and as OpenMMLab's tables count them), activations,
latency, throughput, time of a training step and peak memory. Models are timed in turn, round by
round; compare them within a run, not between runs.
"""

import argparse
import os
import sys
from pathlib import Path

from command_line import check_device, prepare

EXAMPLES = """examples:
  Our four families and their peers as backbones of detectors, within ten minutes on two threads:
    python tools/benchmark.py --preset dense
  Two models of one's own choice, fused too, on a GPU in half precision, at two sizes:
    python tools/benchmark.py "TransXNet('small')" timm.convnext_small --mode eager fused \\
        --device cuda --precision float16 --batch-size 32 --size 224 800x1344 --name mine
  A whole detector against mmdet's own:
    python tools/benchmark.py configs/mask_rcnn_transxnet_t_coco.py \\
        mmdet_configs/mask-rcnn_r50_fpn_1x_coco.py --size 800x1344 --no-train
"""
MODES = ("eager", "fused", "compiled")


def size(text: str) -> tuple[int, int]:
    """Height and width from ``'224'`` or ``'800x1344'``."""
    numbers = tuple(int(part) for part in text.split("x"))
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(text)
    return (numbers * 2)[:2] if len(numbers) == 1 else numbers


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a class of a registry with its arguments, as TransXNet('small') or "
        "mmdet.SwinTransformer; a config file; or timm.NAME. The first is what others are "
        "compared with",
    )
    parser.add_argument(
        "--preset",
        choices=["dense"],
        help="backbones for dense prediction: 512x512, one image, two threads",
    )
    parser.add_argument(
        "--size", type=size, nargs="+", metavar="HxW", help="of the images (default: 224)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images (default: 1)")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="by autocast (default: %(default)s)",
    )
    parser.add_argument(
        "--mode",
        nargs="+",
        choices=MODES,
        help="as it is, fused for inference, compiled (default: eager; of a preset, fused too)",
    )
    parser.add_argument("--channels-last", action="store_true", help="memory format")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own; of a preset, 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument("--repeats", type=int, default=20, help="most rounds (default: 20)")
    parser.add_argument(
        "--minutes", type=float, help="begin no round after this time (default of a preset: 8)"
    )
    parser.add_argument("--no-train", action="store_true", help="leave out training steps")
    parser.add_argument("--out", default="results", help="folder to write to (default: results)")
    parser.add_argument(
        "--name", help="of the files written (default: benchmark, or benchmark_PRESET)"
    )
    args = parser.parse_args()
    if bool(args.models) == bool(args.preset):
        parser.error("name models, or a preset")
    if args.preset:
        args.size = args.size or [(512, 512)]
        args.mode = args.mode or ["eager", "fused"]
        args.threads = args.threads or 2
        args.minutes = args.minutes or 8
    args.size = args.size or [(224, 224)]
    args.mode = args.mode or ["eager"]
    args.name = args.name or "_".join(filter(None, ["benchmark", args.preset]))
    return args


def main() -> None:
    args = parse_args()
    # Nothing else should run beside a measurement, and threads may wait as fast as they can.
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    prepare()
    check_device(args.device)
    import torch

    from mmhybrid.analysis.benchmark import PRESETS, Settings, benchmark
    from mmhybrid.analysis.benchmark_report import chart, table
    from mmhybrid.engine.runner.provenance import made
    from mmhybrid.engine.runner.results import write_results
    from mmhybrid.engine.runner.run_config import UserError

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
    models = PRESETS[args.preset] if args.preset else {name: name for name in args.models}
    file = Path(args.out) / f"{args.name}.json"

    try:
        about = made(args.device)

        def save(rows: list[dict]) -> None:
            write_results(file, "benchmark", rows, made=about, settings=vars(settings))

        rows = benchmark(
            models,
            args.size,
            args.mode,
            settings,
            save=save,
            say=lambda line: print(line, flush=True),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; what was measured is in {file}")
    text = table(rows, about, settings)
    file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    chart(rows, file.with_suffix(".png"))
    print(f"\n{text}\n\nWritten: {file}, {file.stem}.md, {file.stem}.png")


if __name__ == "__main__":
    main()
