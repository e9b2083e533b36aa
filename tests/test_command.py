"""The command ``mmhybrid``: which file it starts, with which words."""

import os
import sys
from pathlib import Path

import pytest

from mmhybrid import __main__ as command
from mmhybrid.engine.runner.named_configs import find_config
from mmhybrid.errors import UserError

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


def test_a_config_of_the_package_is_named_without_its_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "dmformer_s_imagenet"
    Path(name).mkdir()  # as after --work-dir
    for word in (name, f"{name}.py", f"configs/{name}.py"):
        found = Path(find_config(word))
        assert found.is_file()
        assert (found.name, found.parent.name) == (f"{name}.py", "configs")
    others = f"mine/{name}.py", "TransXNet('tiny')", "TransXNet", "last.pth", "images", "timm.vgg11"
    assert [find_config(word) for word in others] == [*others]
    for word in ("mask_rcnn_transxnet_t", "mask_rcn_transxnet_t_coco.py"):
        with pytest.raises(UserError, match=f"no config {word}; did you mean mask_rcnn_transx"):
            find_config(word)
        Path(word).touch()
        assert find_config(word) == word
    Path(f"{name}.py").touch()  # what is there comes first
    assert find_config(f"{name}.py") == f"{name}.py"
    Path(name, "model.json").touch()  # an exported model
    assert find_config(name) == name


def test_every_tool_is_a_command_and_others_are_refused(run, capsys) -> None:
    files = {file.stem for file in (ROOT / "tools").glob("*.py")}
    assert set(command.tools()) == files - {"bootstrap", "command_line"}
    with pytest.raises(SystemExit, match="there is no tool trian"):
        run("trian")
    for words in ((), ("--help",)):
        assert run(*words) == []
        assert "train" in capsys.readouterr().out
