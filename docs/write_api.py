#!/usr/bin/env python
"""Write docs/api.md: every public name, its signature and the first words of its docstring.

Run it after a change of a public name, signature or docstring:

    python docs/write_api.py
"""

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
# Where public names are, and nowhere else. A name is public here if __all__ has it.
MODULES = (
    "mmhybrid",
    "mmhybrid.apis",
    "mmhybrid.backbones",
    "mmhybrid.weights",
    "mmhybrid.deploy",
    "mmhybrid.engine",
    "mmhybrid.analysis",
    "mmhybrid.timm",
)
HEAD = """# Public API

What is listed here stays as it is between minor versions; all else may change. `help(NAME)` in
Python shows arguments, shapes, defaults and errors. This page is written by `docs/write_api.py`.
"""


def public(module: str) -> Iterator[tuple[str, Any]]:
    """Name and object of what a module makes public, without modules and plain values."""
    imported = importlib.import_module(module)
    for name in imported.__all__:
        thing = getattr(imported, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing


def signature(thing: Any) -> str:
    """The arguments of a function or of a class's constructor, without types and long defaults."""
    try:
        arguments = inspect.signature(thing).parameters.values()
    except ValueError:  # an exception written in C
        return "(...)"
    words, keyword_only = [], False
    for one in arguments:
        if one.kind is one.KEYWORD_ONLY and not keyword_only:
            words.append("*")
            keyword_only = True
        star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        default = "" if one.default is one.empty else f"={_written(one.default)}"
        words.append(f"{star}{one.name}{default}")
    return f"({', '.join(words)})"


def _written(value: Any) -> str:
    """A default as Ruff writes it; a class by its name, a read-only mapping as its dict."""
    if inspect.isclass(value):
        return value.__name__
    if isinstance(value, str):
        return json.dumps(value)
    return repr(dict(value) if type(value).__name__ == "mappingproxy" else value)


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, as Markdown."""
    text = " ".join(inspect.getdoc(thing).split("\n\n")[0].split())
    return text.replace("``", "`").replace(":class:", "").replace(":func:", "")


def page() -> str:
    """The text of docs/api.md."""
    lines = [HEAD]
    for module in MODULES:
        imported = importlib.import_module(module)
        lines.append(f"## {module}\n\n{summary(imported)}\n")
        for name, thing in public(module):
            kind = "class " if inspect.isclass(thing) else ""
            lines.append(f"### {name}\n")
            lines.append(f"```python\n{kind}{module}.{name}{signature(thing)}\n```\n")
            lines.append(f"{summary(thing)}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page())
