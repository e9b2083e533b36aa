"""Every tool, run as a user runs it: a process of its own, from a folder of its own."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "mask_rcnn_transxnet_t_coco.py"
PYTHON_TOOLS = sorted(
    path.name for path in (ROOT / "tools").glob("*.py") if "ArgumentParser(\n" in path.read_text()
)
SHELL_TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.sh"))
TINY = [
    "quick.iterations=2",
    "quick.batch_size=2",
    "quick.train_images=4",
    "quick.val_images=2",
]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without PYTHONPATH, so that it finds the package by itself."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


def tool(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "tools" / name, *arguments, cwd=cwd)


def assert_one_error(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The tool failed with one message that holds all parts, and no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    for part in parts:
        assert part in result.stderr


def final_metrics(output: str) -> dict[str, str]:
    """The numbers of the last line of evaluation."""
    lines = [line for line in output.splitlines() if "coco/bbox_mAP_50:" in line]
    return dict(re.findall(r"(coco/\w+): (-?[\d.]+)", lines[-1]))


@pytest.mark.parametrize("name", PYTHON_TOOLS)
def test_help_says_how_to_use_it(name: str, tmp_path: Path) -> None:
    result = tool(name, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage:")
    examples = result.stdout.partition("examples:")[2]
    assert examples
    assert not re.search(r"\S {2,}\S", examples), "two lines in one"


def test_the_options_of_openmmlab_are_there(tmp_path: Path) -> None:
    common = ["--work-dir", "--cfg-options", "--launcher"]
    train = ["--amp", "--auto-scale-lr", "--resume", "--no-validate", "--quick", "--data-root"]
    test = ["--out", "--out-item", "--show", "--show-dir", "--wait-time", "--tta", "--quick"]
    for name, options in (("train.py", common + train), ("test.py", common + test)):
        text = tool(name, "--help", cwd=tmp_path).stdout
        assert not [option for option in options if option not in text]


def test_missing_config(tmp_path: Path) -> None:
    wrong = CONFIG.with_name("mask_rcnn_transxnett_coco.py")
    result = tool("train.py", wrong, cwd=tmp_path)
    assert_one_error(result, str(wrong), "Did you mean", str(CONFIG))


def test_missing_data(tmp_path: Path) -> None:
    result = tool("train.py", CONFIG, cwd=tmp_path)
    path = tmp_path / "data" / "coco" / "annotations" / "instances_train2017.json"
    assert_one_error(result, str(path), "annotations_trainval2017.zip", "--data-root", "--quick")
    assert not (tmp_path / "work_dirs").exists()


def test_missing_data_at_another_root(tmp_path: Path) -> None:
    result = tool("train.py", CONFIG, "--data-root", tmp_path / "here", cwd=tmp_path)
    assert_one_error(result, str(tmp_path / "here" / "annotations" / "instances_train2017.json"))


def test_missing_checkpoint(tmp_path: Path) -> None:
    result = tool("test.py", CONFIG, "none.pth", cwd=tmp_path)
    assert_one_error(result, "there is no checkpoint none.pth")
    result = tool("train.py", CONFIG, "--quick", "--resume", "none.pth", cwd=tmp_path)
    assert_one_error(result, "there is no checkpoint none.pth")


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """tools/test.py in this process, with a runner that has metrics ready; ``runs`` grows by it."""
    from mmhybrid.datasets import data_paths
    from mmhybrid.engine.runner import run_config

    tests = []
    runner = SimpleNamespace(rank=0, test=lambda: tests.append(1) or {"accuracy/top1": 50.0})
    monkeypatch.setattr(run_config, "build_runner", lambda cfg: runner)
    monkeypatch.setattr(data_paths, "check_data", lambda *args: None)
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setenv("LOCAL_RANK", "0")  # the tool sets it, and it must not stay
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    config = str(ROOT / "configs" / "dw_vit_t_cifar10.py")

    def test(*options: str, rank: int = 0) -> None:
        runner.rank = rank
        monkeypatch.setattr(sys, "argv", ["test.py", config, "weights.pth", *options])
        runpy.run_path(str(ROOT / "tools" / "test.py"), run_name="__main__")

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
    from mmhybrid.engine.runner import results

    told = []
    monkeypatch.setattr(results, "write_test_result", lambda *args, **more: told.append(more))
    tested("--result", "m.json")
    tested("--result", "m.json", "--tta", "--published")
    assert told == [dict(tta=False, published=False), dict(tta=True, published=True)]


def test_unknown_quick_setting(tmp_path: Path) -> None:
    options = ["--cfg-options", "quick.steps=3"]
    result = tool("train.py", CONFIG, "--quick", *options, cwd=tmp_path)
    assert_one_error(result, "quick.steps", "iterations")


@pytest.mark.parametrize(
    ("words", "option", "told"),
    [
        (["get_flops.py", CONFIG], "frozen_stage=1", "did you mean 'frozen_stages'?"),
        (["print_groups.py", CONFIG], "arch=tinny", "'tinny' is unknown; choose from"),
        # Any files: the model is wrong before they are read.
        (["predict.py", CONFIG, CONFIG, CONFIG], "frozen_stage=1", "'frozen_stages'?"),
    ],
)
def test_wrong_model(words: list[str], option: str, told: str, tmp_path: Path) -> None:
    result = tool(*words, "--cfg-options", f"model.backbone.{option}", cwd=tmp_path)
    assert_one_error(result, "model.backbone", told)


@pytest.mark.parametrize("device", ["gpu", "foo:1", "cuda:99"])
@pytest.mark.parametrize("words", [["benchmark.py", "XFormer"], ["predict.py", "C", "K", "P"]])
def test_device_that_is_not_there(device, words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setattr(sys, "argv", [*words, "--device", device])
    with pytest.raises(
        SystemExit, match=f"^error: --device {device} cannot be used here, .*$"
    ) as told:
        runpy.run_path(str(ROOT / "tools" / words[0]), run_name="__main__")
    assert "\n" not in told.value.code


def test_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    # -S hides site-packages, and with it everything that was installed.
    result = run(sys.executable, "-S", ROOT / "tools" / "train.py", CONFIG, cwd=tmp_path)
    assert_one_error(result, "torch", "mmengine", "pip install -r", "constraints.txt")


@pytest.fixture(scope="module")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own config, of one block a stage: the tool is tested here and not the model."""
    path = tmp_path_factory.mktemp("config") / "mask_rcnn_small.py"
    arch = "dict(_delete_=True, depths=(1, 1, 1, 1))"
    path.write_text(f"_base_ = {str(CONFIG)!r}\nmodel = dict(backbone=dict(arch={arch}))\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_config: Path) -> tuple[Path, str]:
    """The work folder of a very small quick run, and what it printed."""
    cwd = tmp_path_factory.mktemp("quick")
    result = tool("train.py", small_config, "--quick", "--cfg-options", *TINY, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd / "work_dirs" / "mask_rcnn_small_quick", result.stdout


def test_quick_leaves_what_it_promises(trained: tuple[Path, str]) -> None:
    folder, output = trained
    assert (folder / "epoch_1.pth").stat().st_size > 1e6
    assert (folder / "curves.png").stat().st_size > 1e4
    assert len(list((folder / "images").glob("*.png"))) == 2
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


def test_truth_and_prediction_stand_side_by_side(trained: tuple[Path, str]) -> None:
    import cv2

    folder, _ = trained
    for path in (folder / "images").glob("*.png"):
        source = cv2.imread(str(folder / "data" / "val2017" / f"{path.stem}.jpg"))
        assert cv2.imread(str(path)).shape == (source.shape[0], 2 * source.shape[1], 3)


def test_testing_gives_the_metrics_of_the_run(
    trained: tuple[Path, str], small_config: Path, tmp_path: Path
) -> None:
    folder, output = trained
    options = ["--quick", "--work-dir", folder, "--show-dir", tmp_path / "drawn"]
    options += ["--out", tmp_path / "predictions.pkl", "--cfg-options", *TINY]
    result = tool("test.py", small_config, folder / "epoch_1.pth", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert final_metrics(result.stdout) == final_metrics(output)
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2
    assert (tmp_path / "predictions.pkl").stat().st_size > 100


def test_testing_fused_gives_the_metrics_of_the_run(
    trained: tuple[Path, str], small_config: Path, tmp_path: Path
) -> None:
    folder, output = trained
    options = ["--quick", "--work-dir", folder, "--fuse", "--cfg-options", *TINY]
    result = tool("test.py", small_config, folder / "epoch_1.pth", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "The model is fused for inference." in result.stdout
    fused, unfused = (final_metrics(text) for text in (result.stdout, output))
    assert fused.keys() == unfused.keys()
    for name, value in fused.items():
        assert float(value) == pytest.approx(float(unfused[name]), abs=0.02)


def test_augmentation_that_cannot_merge_masks(
    trained: tuple[Path, str], small_config: Path, tmp_path: Path
) -> None:
    checkpoint = trained[0] / "epoch_1.pth"
    result = tool("test.py", small_config, checkpoint, "--quick", "--tta", cwd=tmp_path)
    assert_one_error(result, "boxes alone")


def test_resume_continues_where_the_run_ended(
    trained: tuple[Path, str], small_config: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    options = ["--quick", "--work-dir", tmp_path, "--resume", folder / "epoch_1.pth"]
    more = ["quick.iterations=4", *TINY[1:]]
    result = tool("train.py", small_config, *options, "--cfg-options", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "resumed epoch: 1, iter: 2" in result.stdout
    assert "Epoch(train) [2][2/2]" in result.stdout
    assert "Epoch(train) [1]" not in result.stdout
    assert (tmp_path / "epoch_2.pth").exists()


def test_quick_on_real_images(shared: Path, small_config: Path, tmp_path: Path) -> None:
    sample = shared / "data" / "coco_sample"
    options = ["--quick", "--data-root", sample, "--work-dir", tmp_path / "run"]
    more = ["model.test_cfg.rcnn.score_thr=0.0", "model.test_cfg.rcnn.max_per_img=20"]
    options += ["--cfg-options", *TINY, *more]
    result = tool("train.py", small_config, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Epoch(train) [1][2/2]" in result.stdout
    assert not (tmp_path / "run" / "data").exists()
    checkpoint = tmp_path / "run" / "epoch_1.pth"
    again = tool("test.py", small_config, checkpoint, *options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert final_metrics(again.stdout) == final_metrics(result.stdout)


@pytest.mark.parametrize("name", SHELL_TOOLS)
def test_shell_tools_ask_for_their_arguments(name: str, tmp_path: Path) -> None:
    result = run("bash", ROOT / "tools" / name, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("usage:")


@pytest.mark.slow
def test_two_processes_train_and_test_together(small_config: Path, tmp_path: Path) -> None:
    options = ["--quick", "--work-dir", tmp_path, "--cfg-options", *TINY]
    script = ROOT / "tools" / "dist_train.sh"
    result = run("bash", script, small_config, 2, *options, cwd=tmp_path, PORT="29617")
    assert result.returncode == 0, result.stderr
    # Two processes of batch 2 go through the four images in one step.
    assert "Epoch(train) [1][1/1]" in result.stdout
    script = ROOT / "tools" / "dist_test.sh"
    checkpoint = tmp_path / "epoch_1.pth"
    again = run("bash", script, small_config, checkpoint, 2, *options, cwd=tmp_path, PORT="29618")
    assert again.returncode == 0, again.stderr
    assert final_metrics(again.stdout) == final_metrics(result.stdout)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("slurm_train.sh", ["C", "W"], "train.py C --work-dir W --launcher slurm --amp"),
        ("slurm_test.sh", ["C", "K.pth"], "test.py C K.pth --launcher slurm --amp"),
    ],
)
def test_slurm(name: str, arguments: list[str], expected: str, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["bash", ROOT / "tools" / name, "gpus", "job", *arguments, "--amp"]
    result = run(*words, cwd=tmp_path, PATH=path, GPUS="16", SRUN_ARGS="--time 1 --mem 2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith(expected)
    assert "--ntasks=16 --ntasks-per-node=8" in result.stdout
    assert "--partition=gpus --job-name=job" in result.stdout
    assert "--time 1 --mem 2" in result.stdout
