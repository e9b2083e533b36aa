"""Every tool from a folder of its own: what it refuses in this process, runs as a user has them."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from mmhybrid.backbones import TransXNet

pytestmark = [pytest.mark.process, pytest.mark.train]

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "mask_rcnn_transxnet_t_coco.py"
PYTHON_TOOLS = sorted(
    path.name for path in (ROOT / "tools").glob("*.py") if "ArgumentParser(\n" in path.read_text()
)
SHELL_TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.sh"))
TINY = ["quick.iterations=2", "quick.batch_size=2", "quick.train_images=4", "quick.val_images=2"]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without PYTHONPATH, so that it finds the package by itself."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment}
    env.pop("PYTHONPATH", None)
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


def start(name: str, *arguments: object, cwd: Path, **environment: str) -> str:
    """What a tool prints in a process of its own, which must end well."""
    program = "bash" if name.endswith(".sh") else sys.executable
    result = run(program, ROOT / "tools" / name, *arguments, cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def tool(run_tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a tool in this process, from an empty folder."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # a tool sets it, and it must not stay
    monkeypatch.chdir(tmp_path)
    return run_tool


def final_metrics(output: str) -> dict[str, float]:
    """The numbers of the last line of evaluation."""
    lines = [line for line in output.splitlines() if "coco/bbox_mAP_50:" in line]
    return {k: float(v) for k, v in re.findall(r"(coco/\w+): (-?[\d.]+)", lines[-1])}


@pytest.mark.parametrize("name", PYTHON_TOOLS)
def test_help_says_how_to_use_it(name: str, tool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        tool(name, "--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    examples = text.partition("examples:")[2]
    assert text.startswith("usage:")
    assert examples
    assert not re.search(r"\S {2,}\S", examples), "two lines in one"
    common = ["--work-dir", "--cfg-options", "--launcher", "--quick", "--data-root", "--amp"]
    train = ["--amp-dtype", "--auto-scale-lr", "--resume", "--no-validate"]
    test = ["--out", "--out-item", "--show", "--show-dir", "--wait-time", "--tta"]
    options = {"train.py": common + train, "test.py": common + test}.get(name, [])
    assert not [option for option in options if option not in text]


@pytest.mark.parametrize("end", [ValueError("a bug"), KeyboardInterrupt()])
def test_bug_keeps_its_traceback_and_ctrl_c_is_no_bug(end, tool, monkeypatch) -> None:
    failing = mock.Mock(side_effect=end)
    monkeypatch.setattr("mmhybrid.engine.runner.prepare_config.prepare_config", failing)
    with pytest.raises((ValueError, SystemExit)) as left:
        tool("train.py", CONFIG)
    assert left.value is end or left.value.code == 130


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tool):
    """tools/test.py in this process, with a runner that has metrics ready; ``runs`` grows by it."""
    tests = []
    runner = SimpleNamespace(rank=0, test=lambda: tests.append(1) or {"accuracy/top1": 50.0})
    runner.register_hook = lambda hook: None
    monkeypatch.setattr("mmhybrid.engine.runner.run_config.build_runner", lambda cfg: runner)
    monkeypatch.setattr("mmhybrid.engine.runner.prepare_config.check_data", lambda *args: None)
    (tmp_path / "weights.pth").touch()

    def test(*options: str, rank: int = 0) -> None:
        runner.rank = rank
        tool("test.py", ROOT / "configs" / "dw_vit_t_cifar10.py", "weights.pth", *options)

    test.runs = tests
    return test


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--out-item", "metrics"], "needs a file to write them to: --out FILE.json"),
        (["--out-item", "metrics", "--out", "m.txt"], "--out m.txt: metrics go to a .json or .pkl"),
        (["--result", "m.txt"], "--result m.txt: metrics go to a .json file"),
        (["--result", "weights.pth/m.json"], "--result weights.pth/m.json cannot be written"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_run(tested, options, told: str) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{told}"):
        tested(*options)
    assert not tested.runs


def test_metrics_are_written_once(tested, tmp_path: Path) -> None:
    options = ["--out-item", "metrics", "--out", "new/m.json"]
    tested(*options, rank=1)
    assert not (tmp_path / "new" / "m.json").exists()
    tested(*options)
    assert json.loads((tmp_path / "new" / "m.json").read_text()) == {"accuracy/top1": 50.0}


def test_the_result_tells_of_augmentation(tested, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    written = "mmhybrid.engine.runner.results.write_test_result"
    monkeypatch.setattr(written, lambda *args, **more: told.append(more))
    tested("--result", "m.json")
    tested("--result", "m.json", "--tta", "--published")
    assert told == [dict(tta=False, published=False), dict(tta=True, published=True)]


def test_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    # -S hides site-packages, and with it everything that was installed.
    result = run(sys.executable, "-S", ROOT / "tools" / "train.py", CONFIG, cwd=tmp_path)
    assert result.returncode == 1
    for part in ("error: ", "torch", "mmengine", "pip install -r", "constraints.txt"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr


PAGES = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import command_line
command_line.prepare()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide themselves")
def test_freed_memory_is_kept(root: Path) -> None:
    def pages(**env: str) -> int:
        command, env = [sys.executable, "-c", PAGES, str(root / "tools")], dict(os.environ, **env)
        return int(subprocess.run(command, env=env, capture_output=True, check=True).stdout)

    assert pages() < pages(MALLOC_TRIM_THRESHOLD_="131072") / 2


@pytest.fixture(scope="module")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own config, of a tiny model: the tool is tested here and not the model."""
    path = tmp_path_factory.mktemp("config") / "mask_rcnn_small.py"
    options = dict(TransXNet.test_options)
    widths = options["arch"]["embed_dims"]
    options["arch"] = dict(options["arch"], _delete_=True)
    model = dict(backbone=options, neck=dict(in_channels=list(widths)))
    model["roi_head"] = dict(bbox_head=dict(fc_out_channels=16))
    path.write_text(f"_base_ = {str(CONFIG)!r}\nmodel = {model!r}\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_config: Path) -> tuple[Path, str]:
    """The work folder of a very small quick run, and what it printed."""
    cwd = tmp_path_factory.mktemp("quick")
    words = [small_config, "--quick", "--verbose", "--cfg-options", *TINY]
    output = start("train.py", *words, cwd=cwd)
    return cwd / "work_dirs" / "mask_rcnn_small_quick", output


def test_quick_leaves_what_it_promises(trained: tuple[Path, str]) -> None:
    import cv2

    folder, output = trained
    assert (folder / "epoch_1.pth").stat().st_size > 1e6
    assert "<svg" in (folder / "report.html").read_text()
    page = json.loads((folder / "report.json").read_text())
    assert (page["task"], page["problems"], page["images"]) == ("detection", [], 2)
    assert sum(line["count"] for line in page["classes"]) > 0
    images = list((folder / "images").glob("*.png"))
    assert len(images) == 2
    for path in images:  # truth and prediction stand side by side
        source = cv2.imread(str(folder / "data" / "val2017" / f"{path.stem}.jpg"))
        assert cv2.imread(str(path)).shape == (source.shape[0], 2 * source.shape[1], 3)
    report = json.loads((folder / "metrics.json").read_text())
    assert report["iterations"] == 2
    assert set(report["final"]) == {"box AP", "box AP50", "mask AP", "mask AP50"}
    assert report["losses"][0]["loss"] > 0
    for text in ("box AP50", "mask AP50", str(folder / "images")):
        assert text in output
    assert "use BN in this run" in output
    # The weights of the base config are not asked for.
    assert "backbone=dict(\n        arch=" in output
    assert "transx-t.pth.tar" not in output.split("backbone=dict(")[1].split("neck=dict(")[0]


def test_testing_gives_the_metrics_of_the_run(trained, small_config, tmp_path) -> None:
    folder, output = trained
    options = ["--quick", "--verbose", "--work-dir", folder, "--show-dir", tmp_path / "drawn"]
    options += ["--out", tmp_path / "predictions.pkl", "--cfg-options", *TINY]
    tested = start("test.py", small_config, folder / "epoch_1.pth", *options, cwd=tmp_path)
    assert final_metrics(tested) == final_metrics(output)
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2
    assert (tmp_path / "predictions.pkl").stat().st_size > 100


def test_resume_continues_where_the_run_ended(trained, small_config, tool, capfd, tmp_path) -> None:
    options = ["--quick", "--work-dir", tmp_path, "--resume", trained[0] / "epoch_1.pth"]
    options += ["--verbose", "--cfg-options", "quick.iterations=4", *TINY[1:]]
    tool("train.py", small_config, *options)
    output = capfd.readouterr().out
    assert "resumed epoch: 1, iter: 2" in output
    assert "Epoch(train) [2][2/2]" in output
    assert "Epoch(train) [1]" not in output
    assert (tmp_path / "epoch_2.pth").exists()


@pytest.mark.parametrize("reported", [True, False])
def test_resuming_a_run_that_has_ended_keeps_its_metrics(
    reported: bool, trained, small_config, tool, tmp_path
) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    names = ("metrics.json", "report.json", "result.json")
    before = [json.loads((folder / name).read_text()) for name in names]
    if not reported:  # the run was ended in between
        for name in ("report.html", *names[:2]):
            (folder / name).unlink()
    options = ["--quick", "--work-dir", folder, "--resume", "--verbose", "--cfg-options", *TINY]
    tool("train.py", small_config, *options)
    after = [json.loads((folder / name).read_text()) for name in names]
    assert (after[0], after[2]) == (before[0], before[2])
    assert before[1]["metrics"]
    for key in ("metrics", "headlines", "log", *(["classes", "about"] if reported else [])):
        assert after[1].get(key) == before[1].get(key), key
    page = (folder / "report.html").read_text()
    assert ("the last that it logged. The last command" in page) is not reported


def test_quick_on_real_images_and_testing_fused(
    shared, small_config, tool, capfd, tmp_path
) -> None:
    work = tmp_path / "run"
    data = shared / "data" / "coco_sample"
    options = ["--quick", "--verbose", "--data-root", data, "--work-dir", work]
    more = ["model.test_cfg.rcnn.score_thr=0.0", "model.test_cfg.rcnn.max_per_img=20"]
    options += ["--cfg-options", *TINY, *more]
    tool("train.py", small_config, *options)
    output = capfd.readouterr().out
    assert "Epoch(train) [1][2/2]" in output
    assert not (work / "data").exists()
    tool("test.py", small_config, work / "epoch_1.pth", "--fuse", *options)
    fused = capfd.readouterr().out
    assert "The model is fused for inference." in fused
    for name, value in final_metrics(output).items():
        assert final_metrics(fused)[name] == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize("name", SHELL_TOOLS)
def test_shell_tools_ask_for_their_arguments(name: str, tmp_path: Path) -> None:
    result = run("bash", ROOT / "tools" / name, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("usage:")


def test_two_processes_test_as_one_does(trained, small_config: Path, tmp_path: Path) -> None:
    """How they train is in test_many_processes.py."""
    folder, output = trained
    words = [2, "--quick", "--verbose", "--work-dir", folder, "--cfg-options", *TINY]
    words = [small_config, folder / "epoch_1.pth", *words]
    tested = start("dist_test.sh", *words, cwd=tmp_path, PORT="29618")
    assert final_metrics(tested) == final_metrics(output)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slurm_train.sh C W", "train.py C --work-dir W --launcher slurm --amp"),
        ("slurm_test.sh C K.pth", "test.py C K.pth --launcher slurm --amp"),
    ],
)
def test_slurm(words: str, expected: str, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    name, *arguments = words.split()
    more = dict(PATH=f"{tmp_path}:{os.environ['PATH']}", GPUS="16", SRUN_ARGS="--time 1 --mem 2")
    output = start(name, "gpus", "job", *arguments, "--amp", cwd=tmp_path, **more)
    assert output.strip().endswith(expected)
    assert "--ntasks=16 --ntasks-per-node=8" in output
    assert "--partition=gpus --job-name=job" in output
    assert "--time 1 --mem 2" in output
