#!/usr/bin/env python
"""Measure TransXNet-T against the published formula and its peers, and the parts of the others.

Writes speed.json, a table (speed.md) and plots (transxnet_growth.png, attention_cost.png). What
counts is the ratios within this run: absolute times are those of this machine at this hour.
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
  All of it, about half an hour:
    python benchmarks/bench.py
  The forward pass alone, with four threads:
    python benchmarks/bench.py forward --threads 4
"""
SECTIONS = (
    "forward",
    "attention",
    "errors",
    "growth",
    "compiled",
    "fused",
    "training",
    "attention_cost",
    "shortcut",
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections",
        nargs="*",
        choices=[[], *SECTIONS],
        default=[],
        metavar="SECTION",
        help=f"what to measure, of {', '.join(SECTIONS)} (default: all)",
    )
    parser.add_argument("--out", default="results", help="folder to write to (default: results)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="timed calls of each (default: 5); at least 15 where a call is short: forward at 224 "
        "pixels, fused, attention_cost, shortcut",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Nothing else should run beside a measurement, and threads may wait as fast as they can.
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    prepare()
    import torch

    torch.set_num_threads(args.threads)
    from benchmarks import transxnet_speed as speed
    from benchmarks.attention_cost import attention_cost
    from benchmarks.fused_speed import fused_speed
    from benchmarks.shortcut_cost import shortcut_cost

    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speed.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    n = args.repeats

    def forward() -> list[dict]:
        rows = speed.forward((224, 224), repeats=max(n, 15))
        rows += speed.forward((512, 512), repeats=n)
        return rows + speed.forward((800, 1344), repeats=n, with_peers=True)

    measures = {
        "forward": forward,
        "attention": speed.attention_memory,
        "errors": lambda: speed.errors((224, 224)) + speed.errors((800, 1344)),
        "growth": lambda: speed.growth(repeats=n),
        "compiled": lambda: speed.compiled(repeats=n),
        "fused": lambda: fused_speed(repeats=max(n, 15)),
        "training": lambda: speed.training_step(repeats=n),
        "attention_cost": lambda: attention_cost(repeats=max(n, 15)),
        "shortcut": lambda: shortcut_cost(repeats=max(n, 15)),
    }
    for section in args.sections or SECTIONS:
        print(f"measuring: {section} ...", flush=True)
        results[section] = measures[section]()
        machines = results.setdefault("machines", {})
        machines[section] = {
            "processor": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        # After every section, so that a stopped run keeps what it has.
        file.write_text(json.dumps(results, indent=1) + "\n")
        print("\n".join(table(results[section])) + "\n", flush=True)
    if "growth" in results:
        draw_growth(results["growth"], speed.fitted_exponent, folder / "transxnet_growth.png")
    if "attention_cost" in results:
        draw_attention_cost(results["attention_cost"], folder / "attention_cost.png")
    text = ["# Speed", "", "Where no other model is named: of TransXNet-T.", ""]
    for section in SECTIONS:
        if section in results:
            machine = ", ".join(f"{k}: {v}" for k, v in results["machines"][section].items())
            text += [f"## {section}", "", machine, "", *table(results[section]), ""]
    (folder / "speed.md").write_text("\n".join(text))
    print(f"Written to {folder}: speed.json, speed.md and plots")


def table(rows: list[dict]) -> list[str]:
    """Rows as a Markdown table."""
    keys = [key for key in rows[0] if not key.startswith("all_")]
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    return lines + ["| " + " | ".join(_shown(row[key]) for key in keys) + " |" for row in rows]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_growth(rows: list[dict], fitted_exponent, file: Path) -> None:
    """Time and memory against the number of pixels, with the fitted exponents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, key, label in zip(
        axes, ("seconds", "peak_mib"), ("time (s)", "peak memory (MiB)"), strict=True
    ):
        x = [row["pixels"] / 1e6 for row in rows]
        ax.loglog(x, [row[key] for row in rows], "o-")
        ax.set_xticks(x, [f"{row['side']}²" for row in rows], minor=False)
        ax.minorticks_off()
        ax.set_xlabel("image (pixels)")
        ax.set_title(f"{label}: pixels to the power of {fitted_exponent(rows, key):.2f}")
        ax.grid(alpha=0.3)
    figure.suptitle("TransXNet-T, fused, forward, one image")
    figure.savefig(file, dpi=120)


def draw_attention_cost(rows: list[dict], file: Path) -> None:
    """Time against tokens on logarithmic scales, with the exponent of each layer."""
    from matplotlib.figure import Figure

    from benchmarks.transxnet_speed import fitted_exponent

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for name in dict.fromkeys(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == name]
        exponent = fitted_exponent(own, "seconds", "tokens")
        label = f"{name.replace('_', ' ')}: tokens to the power of {exponent:.2f}"
        ax.loglog([r["tokens"] for r in own], [r["seconds"] for r in own], "o-", label=label)
    counts = sorted({row["tokens"] for row in rows})
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.minorticks_off()
    ax.set(xlabel="tokens", ylabel="time (s)", title="One attention layer, 128 channels")
    ax.legend()
    ax.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
