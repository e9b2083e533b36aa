"""docs/openmmlab.md: its configs are right, and what they switch on works with the models here."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.registry import METRICS

from benchmarks.coco_metric import compare, draw
from mmhybrid import __main__ as command
from mmhybrid.engine.runner.check_config import check_config
from mmhybrid.engine.runner.results import write_json
from mmhybrid.engine.runner.run_config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "openmmlab.md").read_text()
BLOCKS = re.findall(r"^```python\n(_base_ = .*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
BASE = "./mask_rcnn_transxnet_t_coco.py"
TINY = "dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64))"
OPTIONS = ["quick.iterations=8", "quick.batch_size=2", "quick.train_images=4", "quick.size=64"]
OPTIONS += ["quick.val_images=2", "custom_hooks.0.stopping_threshold=-1.0"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1][:40])
def test_every_config_is_right(block: str, tmp_path: Path) -> None:
    assert BASE in block
    path = tmp_path / "mine.py"
    path.write_text(block.replace(BASE, str(ROOT / "configs" / BASE)))
    check_config(load_config(str(path)))


def test_faster_evaluation_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    truth, found = draw(images=30, classes=4)
    assert all(compare(truth, found, one)[2] < 1e-6 for one in ("bbox", "segm"))

    write_json(tmp_path / "truth.json", truth)
    results = []
    for image in truth["images"]:
        mine = [one for one in found if one["image_id"] == image["id"]]
        boxes = [one["bbox"] for one in mine]
        prediction = dict(
            img_id=image["id"],
            bboxes=[[x, y, x + width, y + height] for x, y, width, height in boxes],
            scores=[one["score"] for one in mine],
            labels=[one["category_id"] - 1 for one in mine],
            masks=[one["segmentation"] for one in mine],
        )
        results.append((dict(img_id=image["id"], height=160, width=200), as_arrays(prediction)))
    numbers = []
    for name in ("mmdet.CocoMetric", "mmhybrid.FasterCocoMetric"):
        kinds = dict(metric=["bbox", "segm", "proposal"], classwise=True)
        metric = METRICS.build(dict(type=name, ann_file=str(tmp_path / "truth.json"), **kinds))
        metric.dataset_meta = dict(classes=[one["name"] for one in truth["categories"]])
        numbers.append(metric.compute_metrics(results))
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6, nan_ok=True)
    assert 0.1 < numbers[0]["segm_mAP"] < 0.9
    assert {"AR@100", "1_precision"} <= set(numbers[0])


def as_arrays(prediction: dict) -> dict:
    import numpy as np

    keys = ("bboxes", "scores", "labels")
    return prediction | {key: np.asarray(prediction[key]) for key in keys}


@pytest.mark.train
def test_hooks_metric_and_tools_in_a_run(run_tool, monkeypatch, tmp_path: Path, capsys) -> None:
    """Early stopping, EMA and the faster evaluation; then OpenMMLab's tools on what it left."""
    pytest.importorskip("faster_coco_eval")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    tiny = f"model = dict(backbone=dict(arch={TINY}), neck=dict(in_channels=[16, 32, 48, 64]))\n"
    base = str(ROOT / "configs" / BASE)
    Path("tiny.py").write_text(f"_base_ = {base!r}\n{tiny}")
    hooks, evaluator = [], {}
    for block in BLOCKS:
        if re.search("EarlyStopping|ExpMomentum|Faster", block):
            exec(block, settings := {})
            hooks += settings.get("custom_hooks", [])
            evaluator = settings.get("val_evaluator", evaluator)
    lines = f"custom_hooks = {hooks!r}\nval_evaluator = test_evaluator = {evaluator!r}\n"
    Path("mine.py").write_text(f"_base_ = './tiny.py'\n{lines}")

    run_tool("train.py", "mine.py", "--quick", "--work-dir", "run", "--cfg-options", *OPTIONS)
    (last,) = Path("run").glob("epoch_*.pth")
    assert last.name == "epoch_2.pth"  # of 4: evaluated for the first time, it is good enough
    run_tool("test.py", "run/best.pth", "--out", "found.pkl")
    capsys.readouterr()

    def openmmlab(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["mmhybrid", "run", *words])
        command.main()

    openmmlab("mmdet", "browse_dataset", "run/mine.py", "--not-show", "--output-dir", "browsed")
    assert len(list(Path("browsed").iterdir())) == 4
    openmmlab("mmdet", "confusion_matrix", "run/mine.py", "found.pkl", "matrix")
    assert Path("matrix/confusion_matrix.png").is_file()


def test_a_tool_of_openmmlab_that_is_not_there_is_told(monkeypatch) -> None:
    for words in ([], ["mmdet"], ["mmdet", "browse"], ["nothing", "browse"], ["../x", "y"]):
        monkeypatch.setattr(sys, "argv", ["mmhybrid", "run", *words])
        with pytest.raises(SystemExit, match=r"usage: mmhybrid run \{mmdet"):
            command.main()


def test_without_mmdet_there_is_no_faster_metric_and_no_error(monkeypatch, root: Path) -> None:
    """The registry imports its module for any config with a type of ours."""
    monkeypatch.setitem(sys.modules, "mmdet.evaluation.metrics", None)
    found = runpy.run_path(str(root / "mmhybrid" / "engine" / "faster_coco_metric.py"))
    assert "FasterCocoMetric" not in found
