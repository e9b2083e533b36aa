#!/usr/bin/env python
"""Gather results into a leaderboard: docs/leaderboard.md, .csv and .html, and the model index.

Reads every results/*.json: benchmarks of tools/benchmark.py, metrics of `tools/test.py --result`,
results of training, and the papers' figures. A figure without an origin is an error.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from command_line import ROOT, prepare

EXAMPLES = """examples:
  From results/ into docs/:
    python benchmarks/make_leaderboard.py
  The model index too, every config counted anew (a minute or two):
    python benchmarks/make_leaderboard.py --index
  With results that lie elsewhere:
    python benchmarks/make_leaderboard.py --results results OTHER/result.json
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[str(ROOT / "results")],
        help="folders with results, or single files (default: results)",
    )
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder (default: docs)")
    parser.add_argument(
        "--index", action="store_true", help="count all configs and write model-index.yml too"
    )
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()

    from benchmarks import leaderboard, model_index
    from benchmarks.leaderboard_page import to_html
    from mmhybrid.engine.runner.results import read_results
    from mmhybrid.engine.runner.run_config import UserError

    try:
        results = read_results(args.results)
        if args.index:
            configs = sorted((ROOT / "configs").glob("*.py"))
            costs = model_index.costs_of(configs, lambda line: print(line, flush=True))
            weights = {one.stem: model_index.published_weights(one) for one in configs}
            files = model_index.make_index(costs, results["accuracy"], weights)
            model_index.write_index(ROOT, files)
        costs = model_index.read_costs(ROOT)
    except UserError as error:
        sys.exit(f"error: {error}")

    board = leaderboard.leaderboard(results, costs)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "leaderboard.md": leaderboard.to_markdown(board),
        "leaderboard.csv": leaderboard.to_csv(results, costs),
        "leaderboard.html": to_html(board),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    accuracies, measured = len(results["accuracy"]), len(results["benchmark"])
    print(f"{accuracies} accuracies, {measured} measured models: {', '.join(files)} in {out}")


if __name__ == "__main__":
    main()
