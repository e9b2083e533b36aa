#!/usr/bin/env python
"""Write docs/weights.md: what the catalogue has.

Run it after a change of a class's published weights:

    python docs/write_weights.py
"""

import os
import sys
from itertools import groupby
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "weights.md"
HEAD = """# Pretrained weights

What models can start from. `mmhybrid://` and a name is an address wherever MMEngine takes one: in
`init_cfg`, `load_from`, on the command line of every tool, and in Python.

```python
init_cfg = dict(type="Pretrained", checkpoint="mmhybrid://transxnet_tiny.in1k")
```

```python
import mmhybrid

mmhybrid.list_weights("transxnet")  # all of this page, and what your own classes have
mmhybrid.load_checkpoint(model, "mmhybrid://transxnet_tiny.in1k")
```

A file is downloaded once, to `checkpoints` in the folder that `torch.hub.get_dir()` names, and kept
only if it is whole. Without a network the error says which file to fetch and where to put it; a
file in another place goes by its path. It holds weights alone: no run can be resumed from it.

Figures are those of whoever published the weights, in percent; none was measured here. A licence is
`unknown` where none is stated for the weights. Classes of OpenMMLab, at the end, are for families
that have no weights of their own. This page is written by `docs/write_weights.py`.
"""
COLUMNS = ("name", "weights of", "trained on", "published by others", "licence", "fits")


def page() -> str:
    """The text of docs/weights.md."""
    sys.path.insert(0, str(ROOT))
    import mmhybrid  # noqa: F401  (registers the backbones)
    from mmhybrid.analysis.tables import markdown_table
    from mmhybrid.weights.catalogue import catalogue

    parts = [HEAD]
    of_class = sorted(catalogue(), key=lambda one: ("." in one[1], one[1]))  # OpenMMLab's last
    for owner, entries in groupby(of_class, key=lambda one: one[1]):
        rows = []
        for entry, _ in entries:
            options = (f"{k}={v!r}" for k, v in entry.options.items() if k != "type")
            whole = f", and all of `configs/{entry.config}.py`" if entry.config else ""
            file = os.path.basename(urlparse(entry.url).path)
            row = [f"{entry.name}, [{file}]({entry.url})", entry.host or "its own"]
            row += [entry.trained_on, ", ".join(f"{k} {v}" for k, v in entry.metrics.items())]
            rows.append([*row, entry.license, f"`{owner}({', '.join(options)})`{whole}"])
        parts.append(f"## {owner}\n\n{markdown_table(COLUMNS, rows)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
