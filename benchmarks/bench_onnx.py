#!/usr/bin/env python
"""Export every backbone to ONNX and measure it against PyTorch: largest difference, and speed.

Writes onnx.json and a table, onnx.md. Weights are random, of a size as in trained models. Times
are ratios within this run: absolute ones are those of this machine at this hour.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from command_line import prepare

EXAMPLES = """examples:
  All backbones, about a quarter of an hour:
    python benchmarks/bench_onnx.py
  One, with four threads:
    python benchmarks/bench_onnx.py TransXNet-T --threads 4
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", help="such as TransXNet-T or DW-Swin-T (default: all six)"
    )
    parser.add_argument("--out", default="results", help="folder to write to (default: results)")
    parser.add_argument(
        "--graphs",
        default="work_dirs/onnx",
        help="folder for the exported graphs; those that are there are measured as they are "
        "(default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, help="of each (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (default: 5)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    prepare()
    import onnxruntime
    import torch

    from benchmarks.onnx_speed import BACKBONES, onnx_rows

    unknown = set(args.models) - set(BACKBONES)
    if unknown:
        raise SystemExit(f"error: no {', '.join(unknown)}; there are {', '.join(BACKBONES)}")
    torch.set_num_threads(args.threads)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "onnx.json"
    results = json.loads(file.read_text()) if file.exists() else {"machine": {}, "rows": {}}
    for name in args.models or BACKBONES:
        print(f"exporting and measuring {name} ...", flush=True)
        results["rows"][name] = onnx_rows(
            name,
            BACKBONES[name](),
            Path(args.graphs) / f"{name}.onnx",
            repeats=args.repeats,
        )
        results["machine"][name] = {
            "processor": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        }
        # After every model, so that a stopped run keeps what it has.
        file.write_text(json.dumps(results, indent=1) + "\n")
        text = page(results, [name for name in BACKBONES if name in results["rows"]])
        (folder / "onnx.md").write_text(text)
    print(text)


def page(results: dict, names: list[str]) -> str:
    """The rows of these models as Markdown."""
    from mmhybrid.analysis.tables import markdown_table

    head = ("model", "shape", "difference", "of", "times eager", "times fused eager")
    rows = [
        (
            row["model"],
            row["shape"],
            f"{row['largest_difference']:.1e}",
            f"{row['largest_value']:.2g}",
            f"{row['times_as_fast_as_eager']:.2f}",
            f"{row['times_as_fast_as_fused_eager']:.2f}",
        )
        for name in names
        for row in results["rows"][name]
    ]
    machines: dict[str, list[str]] = {}
    for name in names:
        about = ", ".join(f"{key}: {value}" for key, value in results["machine"][name].items())
        machines.setdefault(about, []).append(name)
    measured = list(machines)
    if len(machines) > 1:
        measured = [f"- {', '.join(models)}: {about}" for about, models in machines.items()]
    lines = [
        "# ONNX",
        "",
        "A backbone exported once, fused, for any batch and size, and run in onnxruntime: the",
        "largest difference from PyTorch, float32, random weights, the largest value, and how many",
        "times as fast onnxruntime is as eager PyTorch, unfused and fused, on the same threads.",
        "",
        *measured,
        "",
        *markdown_table(head, rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
