"""The command ``mmhybrid``: which file it starts, with which words."""

import os
import sys
from pathlib import Path

import pytest

from mmhybrid import __main__ as command

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """What is started for a command line: the tool's name and its arguments."""

    def run(*words: str) -> list[str]:
        started = []
        monkeypatch.setattr(sys, "argv", ["mmhybrid", *words])
        monkeypatch.setattr(os, "execv", lambda program, command: started.extend(command))
        command.main()
        return started

    return run


@pytest.mark.parametrize(
    ("word", "tool"),
    [
        *(
            (name, name)
            for name in ("train", "test", "predict", "visualize", "export", "export_onnx")
        ),
        *{"check": "check_data", "check-data": "check_data"}.items(),
        *{"convert": "convert_checkpoint", "get": "get_flops", "print": "print_groups"}.items(),
    ],
)
def test_a_tool_may_be_named_by_its_first_word(word: str, tool: str, run) -> None:
    program, file, *words = run(word, "--quick", "a b")
    assert (program, Path(file).stem, words) == (sys.executable, tool, ["--quick", "a b"])


def test_a_config_of_the_package_is_named_without_its_folder(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dmformer_s_imagenet", "dmformer_s_imagenet.py", "configs/dmformer_s_imagenet.py"):
        found = Path(run("train", name)[2])
        assert found.is_file()
        assert (found.name, found.parent.name) == ("dmformer_s_imagenet.py", "configs")
    for name in ("mine/dmformer_s_imagenet.py", "TransXNet('tiny')", "last.pth", "--help"):
        assert run("train", name)[2] == name
    own = tmp_path / "dmformer_s_imagenet.py"  # what is there comes first
    own.touch()
    assert run("train", own.name)[2] == own.name


def test_every_tool_is_a_command_and_others_are_refused(run, capsys) -> None:
    files = {file.stem for file in (ROOT / "tools").glob("*.py")}
    assert set(command.tools()) == files - {"bootstrap", "command_line"}
    with pytest.raises(SystemExit, match="there is no tool trian"):
        run("trian")
    for words in ((), ("--help",)):
        assert run(*words) == []
        assert "train" in capsys.readouterr().out
