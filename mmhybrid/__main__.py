"""The command ``mmhybrid``, also ``python -m mmhybrid``: the tools, wherever they are installed."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
NO_COMMANDS = ("bootstrap", "command_line")


def tools() -> dict[str, Path]:
    """The tools by their names, in the wheel or in the checkout."""
    folders = (PACKAGE / ".mim" / "tools", PACKAGE.parent / "tools")
    files = next(found for one in folders if (found := sorted(one.glob("*.py"))))
    return {file.stem: file for file in files if file.stem not in NO_COMMANDS}


def run_openmmlab(package: str = "", tool: str = "", *words: str) -> None:
    """Runs a tool that mmdet, mmseg or mmpretrain installs, as ``mim run`` does.

    In this process, where `import mmhybrid` has removed what keeps it from running.
    """
    spec = find_spec(package) if package.isidentifier() else None
    files = {}
    if spec and spec.origin:
        found = (Path(spec.origin).parent / ".mim" / "tools").rglob("*.py")
        # Of two tools of a name (mmdet's browse_dataset of images and of videos), the upper one.
        files = {file.stem: file for file in sorted(found, key=lambda one: -len(one.parts))}
    if tool not in files:
        there = f"; {package} has {', '.join(files)}" if files else ""
        sys.exit(f"usage: mmhybrid run {{mmdet,mmseg,mmpretrain}} TOOL ...{there}")
    sys.argv = [str(files[tool]), *words]
    sys.path.insert(0, str(files[tool].parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Runs ``mmhybrid TOOL ARGUMENTS...`` as ``python tools/TOOL.py ARGUMENTS...``.

    A tool's name may be shortened to its first word, ``check`` for ``check_data``.
    ``mmhybrid run mmdet TOOL ARGUMENTS...`` runs a tool of mmdet's.
    """
    name, *words = sys.argv[1:] or ["--help"]
    if name == "run":
        return run_openmmlab(*words)
    name = name.replace("-", "_")
    files = tools()
    file = files.get(name) or next(
        (files[one] for one in files if one.startswith(f"{name}_")), None
    )
    if file is None:
        usage = (
            f"usage: mmhybrid {{{','.join(files)},run}} ...\n\n`mmhybrid TOOL --help` says more."
        )
        if name in ("__help", "_h"):
            print(usage)
            return
        sys.exit(f"{usage}\n\nerror: there is no tool {name}")
    command = [sys.executable, str(file), *words]
    # A process of its own: the tool sets what must be set before PyTorch is imported.
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
