"""The environments that `make` builds: what is asked for, and what is refused."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

STACKS = {"openmmlab": "constraints.txt", "onedl": "constraints-onedl.txt"}


@pytest.fixture
def bootstrap(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", root / "tools" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path: Path) -> str:
    """A folder that passes for a virtual environment."""
    (tmp_path / "pyvenv.cfg").touch()
    return str(tmp_path)


def read(path: Path) -> list[Requirement]:
    """The requirements of a file and of those that it includes."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("-c "):
            found += read(path.with_name(line[3:]))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def of_openmmlab(requirements: list[Requirement]) -> list[Requirement]:
    return [r for r in requirements if re.match("(onedl-)?mm(engine|cv|det|seg|pretrain)", r.name)]


@pytest.mark.parametrize("stack", STACKS)
def test_pins_agree_with_the_ranges(stack: str, root: Path) -> None:
    pins = {pin.name: pin for pin in read(root / "requirements" / STACKS[stack])}
    packages = of_openmmlab(read(root / "requirements" / f"{stack}.txt"))
    assert len(packages) == 5
    for package in packages:
        (version,) = (pin.version for pin in pins[package.name].specifier)
        assert package.specifier.contains(version), package


@pytest.mark.parametrize("name", ["runtime", "export", "docs", "tests"])
def test_what_both_stacks_share_brings_neither(name: str, root: Path) -> None:
    assert of_openmmlab(read(root / "requirements" / f"{name}.txt")) == []


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_is_installed_from_its_own_files(
    stack: str, bootstrap: ModuleType, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(bootstrap, "run", commands.append)
    monkeypatch.setattr(bootstrap, "is_installed", lambda python, package: False)
    bootstrap.main(environment, stack)
    files = {Path(word).stem for word in commands[0] if word.endswith(".txt")}
    versions = STACKS[stack].removesuffix(".txt")
    assert files == {"runtime", stack, "export", "docs", "tests", versions}


@pytest.mark.parametrize(
    ("there", "wanted"), [("mmengine", "onedl"), ("onedl-mmengine", "openmmlab")]
)
def test_a_stack_is_not_installed_over_the_other(
    there, wanted, bootstrap, environment, monkeypatch
):
    monkeypatch.setattr(bootstrap, "run", lambda command: pytest.fail("it ran pip"))
    monkeypatch.setattr(bootstrap, "is_installed", lambda python, package: package == there)
    with pytest.raises(SystemExit, match=f"overwrite.*STACK={wanted} VENV="):
        bootstrap.main(environment, wanted)


def test_unknown_stack(bootstrap: ModuleType, environment: str) -> None:
    with pytest.raises(SystemExit, match="no stack mmlab; take one of: onedl, openmmlab"):
        bootstrap.main(environment, "mmlab")


@pytest.mark.parametrize("word", ["--help", "-h", "--no-such-option"])
def test_an_option_is_no_folder(
    word: str, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", word])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(root / "tools" / "bootstrap.py"), run_name="__main__")
    told = capsys.readouterr().out or exit.value.code
    assert "bootstrap.py FOLDER [STACK]" in told
    assert (exit.value.code == 0) == (word != "--no-such-option")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_is_installed(bootstrap: ModuleType) -> None:
    assert bootstrap.is_installed(sys.executable, "pytest")
    assert not bootstrap.is_installed(sys.executable, "mmhybrid-nowhere")
