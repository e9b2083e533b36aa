"""What the source archive and the wheel hold: the package, and all that mim looks for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from mmhybrid.version import __version__

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.process


def build(source: Path, out: Path, command: str, pattern: str) -> Path:
    """Builds an archive of a source folder, which it leaves as it is."""
    out.mkdir()
    words = f"setup.py -q egg_info --egg-base {out} build --build-base {out}/build {command}"
    words += f" --dist-dir {out}" + f" --bdist-dir {out}/tree" * (command == "bdist_wheel")
    command = [sys.executable, *words.split()]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = out.glob(pattern)
    return archive


@pytest.fixture(scope="module", params=["checkout", "archive"])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, built from the checkout or from the source archive."""
    folder = tmp_path_factory.mktemp(request.param)
    source = ROOT
    if request.param == "archive":
        archive = build(ROOT, folder / "sdist", "sdist", "*.tar.gz")
        shutil.unpack_archive(archive, folder / "unpacked")
        (source,) = (folder / "unpacked").iterdir()
    with ZipFile(build(source, folder / "wheel", "bdist_wheel", "*.whl")) as file:
        file.extractall(folder / "site")
    return folder / "site"


def files(folder: Path) -> set[str]:
    """All files below a folder, but for what Python caches."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    info = f"mmhybrid-{__version__}.dist-info"
    assert {path.name for path in wheel.iterdir()} == {"mmhybrid", info}
    held = {name for name in files(wheel / "mmhybrid") if not name.startswith(".mim/")}
    modules = {name for name in files(ROOT / "mmhybrid") if not name.startswith(".mim/")}
    assert held == modules
    assert not [path for path in wheel.rglob("*") if path.suffix in (".pyc", ".pyo")]
    assert not {"benchmarks", "tests"} & {path.name for path in wheel.rglob("*") if path.is_dir()}
    assert (wheel / info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    about = (wheel / info / "METADATA").read_text()
    assert "License-Expression: Apache-2.0" in about or "License: Apache-2.0" in about


def test_mim_finds_configs_tools_and_index(wheel: Path) -> None:
    carried = wheel / "mmhybrid" / ".mim"
    for folder in ("configs", "tools"):
        assert files(carried / folder) == files(ROOT / folder)
    index = yaml.safe_load((carried / "model-index.yml").read_text())
    parts = [yaml.safe_load((carried / file).read_text()) for file in index["Import"]]
    models = [entry for part in parts for entry in part["Models"]]
    assert models
    assert all((carried / entry["Config"]).is_file() for entry in models)


def test_a_tool_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """As ``mim run mmhybrid get_flops`` starts it, with no checkout near."""
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    options = dict(capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    code = "import mmhybrid; print(mmhybrid.__file__)"
    found = subprocess.run([sys.executable, "-c", code], **options)
    assert found.stdout.strip() == str(wheel / "mmhybrid" / "__init__.py"), found.stderr
    tool = [str(wheel / "mmhybrid" / ".mim" / "tools" / "get_flops.py")]
    for start in (tool, ["-m", "mmhybrid", "get"]):
        words = [sys.executable, *start, "DWVisionTransformer('tiny')"]
        done = subprocess.run(words, **options)
        assert done.returncode == 0, done.stderr
        assert "Params:" in done.stdout


def test_a_config_inherits_from_one_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.py"
    name = "mmhybrid::_base_/../transxnet_t_imagenet.py"
    config.write_text(f"_base_ = __import__('mmhybrid') and {name!r}\nwork_dir = 'here'\n")
    code = "from mmengine import Config; c = Config.fromfile('own.py');"
    code += "print(c.model.backbone.type, c.work_dir)"
    options = dict(cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(wheel)}, timeout=300)
    assert subprocess.check_output([sys.executable, "-c", code], **options).split() == [
        b"TransXNet",
        b"here",
    ]


def test_the_command_is_installed(wheel: Path) -> None:
    (info,) = wheel.glob("*.dist-info")
    assert "mmhybrid = mmhybrid.__main__:main" in (info / "entry_points.txt").read_text()
