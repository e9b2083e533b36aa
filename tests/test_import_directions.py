"""Imports run one way: from tools and benchmarks down to backbones and layers.

What a module imports is read from its source, imports inside functions included.
"""

import ast
import functools
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmhybrid"

# What each part of the package may import of the others. A part is a folder or a file here.
BASIC = {"deprecation", "errors", "import_hooks", "registry", "version"}
MODELS = {"backbones", "layers"}
DATA = {*MODELS, "analysis", "datasets", "weights"}
MAY_IMPORT = {
    "deprecation": set(),
    "errors": set(),
    "import_hooks": set(),
    "registry": set(),
    "version": set(),
    "layers": set(),
    "backbones": {"layers"},
    "weights": {"backbones", "layers"},
    "datasets": {"backbones", "layers"},
    "analysis": {"backbones", "layers"},
    "checkpoints": {"weights"},  # an old name
    "compat": {"weights"},
    "deploy": DATA,
    "engine": {*DATA, "deploy"},
    "apis": {*DATA, "deploy", "engine"},
    "visualization": {*DATA, "deploy", "engine"},
}
for part in MAY_IMPORT.keys() - BASIC:
    MAY_IMPORT[part] = MAY_IMPORT[part] | BASIC
# What a user of a backbone has installed anyway.
OF_A_BACKBONE = {"torch", "mmengine", "mmhybrid"}


@functools.cache
def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """``layers`` for ``mmhybrid/layers/norm.py``, ``version`` for ``mmhybrid/version.py``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> list[str]:
    """Every module that a file names in an import, wherever in the file."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read by this test"
            yield node.module
            # `from mmhybrid import backbones` imports mmhybrid.backbones.
            if node.module == "mmhybrid":
                yield from (f"mmhybrid.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    known = {part_of(other) for other in modules()}
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "mmhybrid" and len(name) > 1} & known


@pytest.mark.parametrize("part", sorted({part_of(path) for path in modules()} - {"__init__"}))
def test_parts_import_in_one_direction(part: str) -> None:
    assert part in MAY_IMPORT, f"say in this test what mmhybrid/{part} may import"
    wrong = {
        str(path.relative_to(ROOT)): sorted(parts_imported(path) - MAY_IMPORT[part] - {part})
        for path in modules()
        if part_of(path) == part
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_no_part_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules():
        if (part := part_of(path)) != "__init__":
            graph.setdefault(part, set()).update(parts_imported(path) - {part})
    assert {"layers"} < set(graph)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("part", ["layers", "backbones"])
def test_a_backbone_needs_torch_and_mmengine_alone(part: str) -> None:
    allowed = OF_A_BACKBONE | sys.stdlib_module_names
    for path in modules():
        if part_of(path) == part:
            assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_nothing_that_is_installed_imports_tools_tests_or_benchmarks() -> None:
    folders = {"benchmarks", "tests", "tools"}
    own = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")}
    own = (own | folders) - sys.stdlib_module_names
    for path in modules():
        assert not {name.split(".")[0] for name in imports(path)} & own, path
    for path in (ROOT / "tools").rglob("*.py"):
        assert "benchmarks" not in {name.split(".")[0] for name in imports(path)}, path


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """The reading itself: all forms of imports, inside functions too."""
    path = tmp_path / "module.py"
    path.write_text(
        "import os, mmhybrid.deploy.fuse\n"
        "from mmhybrid import engine as e\n"
        "def f():\n    from mmhybrid.analysis.timing import time_of\n"
    )
    assert parts_imported(path) == {"deploy", "engine", "analysis"}
