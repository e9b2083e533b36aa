"""Imports run one way: from tools and benchmarks down to backbones and layers.

What a module imports is read from its source, imports inside functions included.
"""

import ast
import functools
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmhybrid"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of the others. A part is a folder or a file here.
BASIC = {"deprecation", "errors", "import_hooks", "registry", "version"}
DATA = {"backbones", "layers", "analysis", "datasets", "weights"}
MAY_IMPORT = {
    **dict.fromkeys(BASIC, frozenset()),
    "layers": BASIC,
    "backbones": BASIC | {"layers"},
    **dict.fromkeys(("weights", "datasets", "analysis"), BASIC | {"backbones", "layers"}),
    "checkpoints": BASIC | {"weights"},  # an old name
    "compat": BASIC | {"weights"},
    "__main__": BASIC | {"engine"},
    "timm": BASIC | {"weights", "backbones"},
    "deploy": BASIC | DATA,
    "engine": BASIC | DATA | {"deploy"},
    **dict.fromkeys(("apis", "visualization"), BASIC | DATA | {"deploy", "engine"}),
}


def part_of(path: Path) -> str:
    """``layers`` for ``mmhybrid/layers/norm.py``, ``version`` for ``mmhybrid/version.py``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


PARTS = {part_of(path) for path in MODULES} - {"__init__"}


@functools.cache
def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read by this test"
            # `from mmhybrid import backbones` imports mmhybrid.backbones.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(path: Path) -> set[str]:
    """``torch`` for ``torch.nn``."""
    return {name.split(".")[0] for name in imports(path)}


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "mmhybrid" and len(name) > 1} & PARTS


@pytest.mark.parametrize("part", sorted(PARTS))
def test_parts_import_in_one_direction(part: str) -> None:
    assert part in MAY_IMPORT, f"say in this test what mmhybrid/{part} may import"
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in MODULES
        if part_of(path) == part and (names := parts_imported(path) - MAY_IMPORT[part] - {part})
    }
    assert wrong == {}


def test_no_part_imports_itself_by_way_of_others() -> None:
    """Neither in what is allowed nor, therefore, in what there is."""
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


@pytest.mark.parametrize("part", ["layers", "backbones"])
def test_a_backbone_needs_torch_and_mmengine_alone(part: str) -> None:
    allowed = {"torch", "mmengine", "mmhybrid"} | sys.stdlib_module_names
    for path in MODULES:
        if part_of(path) == part:
            # Imported only where it is there: it comes with PyTorch on some systems alone.
            own = {"triton"} if path.name == "triton_depthwise.py" else set()
            assert packages(path) <= allowed | own, path


def test_nothing_that_is_installed_imports_tools_tests_or_benchmarks() -> None:
    folders = {"benchmarks", "tests", "tools"}
    own = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")}
    own = (own | folders) - sys.stdlib_module_names
    for path in MODULES:
        assert not packages(path) & own, path
    for path in (ROOT / "tools").rglob("*.py"):
        assert "benchmarks" not in packages(path), path


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """The reading itself: all forms of imports, inside functions too."""
    path = tmp_path / "module.py"
    path.write_text(
        "import os, mmhybrid.deploy.fuse\n"
        "from mmhybrid import engine as e\n"
        "def f():\n    from mmhybrid.analysis.timing import time_of\n"
    )
    assert parts_imported(path) == {"deploy", "engine", "analysis"}
