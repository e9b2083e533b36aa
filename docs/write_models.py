#!/usr/bin/env python
"""Write the tables of docs/models/*.md, from configs/metafiles and the catalogue of weights.

Run it after `python -m benchmarks leaderboard --index`:

    python docs/write_models.py
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "models"
BEGIN, END = "<!-- written by docs/write_models.py -->\n", "<!-- to here -->\n"
COLUMNS = ("config", "parameters, M", "FLOPs, G", "result, %", "whose result", "weights")


def table(metafile: Path) -> str:
    """The configs of a family, a line each, with the origin of every figure."""
    sys.path.insert(0, str(ROOT))
    import mmhybrid
    from mmhybrid.analysis.tables import markdown_table

    weights = {entry.config: entry.name for entry in mmhybrid.list_weights() if entry.config}
    rows = []
    for model in yaml.safe_load(metafile.read_text(encoding="utf-8"))["Models"]:
        about = model["Metadata"]
        name = model["Name"]
        row = [f"`{name}`", f"{about['Parameters'] / 1e6:.1f}", f"{about['FLOPs'] / 1e9:.1f}"]
        row += [_results(model), _linked(about.get("Results From", "not trained yet"))]
        rows.append([*row, f"`{weights[name]}`" if name in weights else "none"])
    return markdown_table(COLUMNS, rows)


def _results(model: dict[str, Any]) -> str:
    metrics = [pair for one in model.get("Results", []) for pair in one["Metrics"].items()]
    return ", ".join(f"{name.replace(' Accuracy', '')} {value:g}" for name, value in metrics)


def _linked(origin: str) -> str:
    return re.sub(r": (https?://\S+)$", r"; [source](\1)", origin)


def page(path: Path) -> str:
    """The text of a page with its table written anew."""
    head, rest = path.read_text(encoding="utf-8").split(BEGIN)
    metafile = ROOT / "configs" / "metafiles" / f"{path.stem}.yml"
    return f"{head}{BEGIN}\n{table(metafile)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for one in sorted(FOLDER.glob("*.md")):
        one.write_text(page(one), encoding="utf-8")
