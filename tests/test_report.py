"""The report: its figures are the packages' own, and it never costs a run anything."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmhybrid.engine.hooks.report_hook import MOST_WORST, Evaluation, ReportHook
from mmhybrid.engine.runner.report_figures import NOTHING, figures_of, most_confused
from mmhybrid.visualization import report_page
from mmhybrid.visualization.report_page import to_html, write_page

NAMES = ("cat", "dog", "bird")
LOGGER = logging.getLogger("test_report")


def runner_of(metric: BaseMetric | None, length: int) -> Any:
    """As much of a runner as the hook asks for."""
    infos = [dict(img_id=index, img_path=f"{index}.jpg") for index in range(length)]
    dataset = SimpleNamespace(
        metainfo=dict(classes=NAMES), get_data_info=infos.__getitem__, __len__=infos.__len__
    )
    sized = type("Data", (), dict(vars(dataset), __len__=lambda self: length))()
    metrics = [metric] if metric else []
    loop = SimpleNamespace(
        evaluator=SimpleNamespace(metrics=metrics), dataloader=SimpleNamespace(dataset=sized)
    )
    hub = SimpleNamespace(runtime_info={})
    return SimpleNamespace(iter=7, val_loop=loop, message_hub=hub, logger=LOGGER)


def evaluate(metric: BaseMetric, samples: list, batch: Any = None) -> tuple[Evaluation, dict, dict]:
    """What the hook keeps, the figures made of it, and what the metric itself says."""
    runner, hook = runner_of(metric, len(samples)), ReportHook()
    metric.dataset_meta = dict(classes=NAMES)
    hook.before_val_epoch(runner)
    for start in range(0, len(samples), 2):
        outputs = samples[start : start + 2]
        metric.process(batch, [sample.to_dict() for sample in outputs])
        hook.after_val_iter(runner, start // 2, batch, outputs)
    metrics = metric.evaluate(len(samples))
    hook.after_val_epoch(runner, metrics)
    assert hook.problem == ""
    assert hook.evaluation.images == len(samples)
    return hook.evaluation, figures_of(hook.evaluation, hook.loop.dataloader.dataset), metrics


def page_of(figures: dict, **changes: Any) -> str:
    given = dict(title="model", problems=[], weights="those", headlines={"AP": 0.5}, metrics={})
    given |= dict(images=4, images_per_second=3.2, about={"Seed": "0"}, commands=[("Go", "python")])
    given |= dict(log=dict(losses=[], metrics=[], unit="iteration"), palette=[(200, 0, 0)])
    return to_html(given | figures | changes)


# Boxes are XYXY; ids have gaps, and one object is a crowd.
TRUTH = [
    (0, 3, (0, 0, 20, 20)),
    (0, 5, (40, 40, 60, 60)),
    (1, 3, (0, 0, 30, 30)),
    (2, 9, (10, 10, 50, 50)),
]
FOUND = [
    (0, 0, 0.9, (0, 0, 20, 20)),  # right
    (0, 0, 0.8, (40, 40, 60, 59)),  # a dog taken for a cat
    (0, 1, 0.7, (70, 70, 90, 90)),  # nothing is there
    (0, 1, 0.6, (80, 0, 99, 20)),  # in the crowd
    (1, 0, 0.2, (0, 0, 30, 30)),  # right, but below the threshold
    (2, 2, 0.5, (10, 10, 50, 48)),  # right
    (2, 2, 0.4, (12, 12, 50, 50)),  # a second time
]


def coco_file(folder: Path) -> str:
    """Four images of 100x100 pixels, one without an object."""
    objects = [(image, cat, box, 0) for image, cat, box in TRUTH] + [(0, 5, (70, 0, 100, 30), 1)]
    annotations = [
        dict(id=index + 1, image_id=image, category_id=cat, iscrowd=crowd)
        | dict(bbox=[x, y, r - x, b - y], area=(r - x) * (b - y))
        | dict(segmentation=[[x, y, r, y, r, b, x, b]])
        for index, (image, cat, (x, y, r, b), crowd) in enumerate(objects)
    ]
    annotations[-1]["segmentation"] = dict(
        size=[100, 100], counts=[7000, 30] + [70, 30] * 29 + [70]
    )
    images = [dict(id=i, file_name=f"{i}.jpg", width=100, height=100) for i in range(4)]
    categories = [dict(id=i, name=name) for i, name in zip((3, 5, 9), NAMES, strict=True)]
    path = folder / "truth.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return str(path)


def boxes(found: list, images: int = 4) -> list:
    from mmdet.structures import DetDataSample

    samples = []
    for image in range(images):
        mine = [one for one in found if one[0] == image]
        sample = DetDataSample(metainfo=dict(img_id=image, ori_shape=(100, 100)))
        masks = torch.zeros(len(mine), 100, 100, dtype=torch.bool)
        for mask, (*_, (x, y, r, b)) in zip(masks, mine, strict=True):
            mask[y:b, x:r] = True
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([one[3] for one in mine], dtype=torch.float).view(-1, 4),
            labels=torch.tensor([one[1] for one in mine], dtype=torch.long),
            scores=torch.tensor([one[2] for one in mine]),
            masks=masks,
        )
        samples.append(sample)
    return samples


@pytest.fixture
def coco_metric(tmp_path: Path) -> BaseMetric:
    from mmdet.evaluation import CocoMetric

    return CocoMetric(coco_file(tmp_path), ["bbox", "segm"], classwise=True)


def test_boxes_and_masks_have_the_figures_of_coco(coco_metric) -> None:
    evaluation, figures, metrics = evaluate(coco_metric, boxes(FOUND))
    classes = {line["class"]: line for line in figures["classes"]}
    assert [line["count"] for line in classes.values()] == [2, 1, 1]
    for label, key in (("box", "bbox"), ("mask", "segm")):
        for suffix, ending in (("AP", "mAP"), ("AP50", "mAP_50")):
            mean = np.mean([line[f"{label} {suffix}"] for line in classes.values()])
            assert mean == pytest.approx(metrics[f"coco/{key}_{ending}"], abs=6e-4)
    for name in NAMES:  # the last metric's, masks, have overwritten the boxes'
        assert classes[name]["mask AP"] == pytest.approx(
            metrics[f"coco/{name}_precision"], abs=6e-4
        )
    # Truth by prediction, as the comments at FOUND say; the crowd counts for nobody.
    assert figures["confusion"]["matrix"] == [
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 1, 1, 0],
    ]
    assert classes["cat"] | dict(found=1, missed=1) == classes["cat"]
    assert classes["cat"]["wrong boxes"] == 1
    assert [(one["img_id"], one["mistakes"]) for one in figures["worst"]] == [
        (0, 2),
        (1, 1),
        (2, 1),
    ]
    assert figures["worst"][0]["text"] == "0 missed, 1 where nothing is, 1 of a wrong class"
    assert figures["worst"][0]["image"] == "0.jpg"
    assert figures["worst"][0]["found"]["masks"].shape == (4, 100, 100)
    curve = next(one for one in figures["curves"] if one["name"] == "cat")
    # The right one, the wrong one, and the other right one: 1 up to half, then 2/3.
    assert curve["precision"][:51] == [1.0] * 51
    assert set(curve["precision"][51:]) == {0.6667}
    assert coco_metric.outfile_prefix is None
    assert Path(evaluation.folder.name).is_dir()
    page = page_of(figures)
    assert page.count("<svg") == 2
    assert "0.835" in page


@pytest.mark.parametrize("found", [[], [(1, 0, 0.2, (0, 0, 30, 30))]], ids=["none", "weak"])
def test_a_detector_that_finds_nothing_has_a_report(found, coco_metric) -> None:
    _, figures, _ = evaluate(coco_metric, boxes(found))
    assert [line["missed"] for line in figures["classes"]] == [2, 1, 1]
    assert figures["classes"][1]["box AP"] == 0
    assert [one["mistakes"] for one in figures["worst"]] == [2, 1, 1]
    assert "What is taken for what" in page_of(figures)


def maps(count: int = 5) -> list:
    """Random label maps; 255 is ignored, and 7 is no class."""
    from mmseg.structures import SegDataSample

    random = torch.Generator().manual_seed(1)
    samples = []
    for index in range(count):
        truth = torch.randint(0, 2, (1, 6, 8), generator=random)  # never a bird
        truth[0, 0, :2], truth[0, 1, 0] = 255, 7
        sample = SegDataSample(metainfo=dict(img_path=f"{index}.png"))
        found = torch.where(torch.rand(1, 6, 8, generator=random) < 0.2 * index, 1 - truth, truth)
        sample.set_data(
            dict(
                gt_sem_seg=PixelData(data=truth),
                pred_sem_seg=PixelData(data=found.clamp(0, 1)),
            )
        )
        samples.append(sample)
    return samples


def test_label_maps_have_the_figures_of_mmseg() -> None:
    from mmseg.evaluation import IoUMetric

    metric, samples = IoUMetric(iou_metrics=["mIoU", "mFscore"]), maps()
    evaluation, figures, metrics = evaluate(metric, samples)
    pixels = np.array(figures["confusion"]["matrix"])
    for key, name in (("IoU", "mIoU"), ("accuracy", "mAcc"), ("precision", "mPrecision")):
        values = [line[key] for line in figures["classes"] if line[key] is not None]
        assert 100 * np.mean(values) == pytest.approx(metrics[name], abs=6e-3)
    assert 100 * pixels.trace() / pixels.sum() == pytest.approx(metrics["aAcc"], abs=6e-3)
    assert figures["classes"][2]["IoU"] is None
    assert [line["images"] for line in figures["classes"]] == [5, 5, 0]
    assert figures["worst"][0]["image"] == "4.png"
    assert [one["iou"] for one in figures["worst"]] == sorted(
        one["iou"] for one in figures["worst"]
    )
    kept = evaluation.worst[0][2]
    assert kept.pred_sem_seg.data.dtype == torch.int16
    # The worst image by itself is evaluated as mmseg does.
    alone = IoUMetric()
    alone.dataset_meta = dict(classes=NAMES)
    alone.process(None, [samples[4].to_dict()])
    assert 100 * figures["worst"][0]["iou"] == pytest.approx(alone.evaluate(1)["mIoU"], abs=6e-3)
    assert "&#8211;" in page_of(figures)


def labels(truth: list[int], scores: torch.Tensor) -> list:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(one) for one in truth]
    return [
        sample.set_pred_score(score).set_pred_label(score.argmax())
        for sample, score in zip(samples, scores, strict=True)
    ]


def test_labels_have_the_figures_of_mmpretrain() -> None:
    from mmpretrain.evaluation import ConfusionMatrix, SingleLabelMetric

    truth = [0, 0, 1, 1, 2, 2, 0, 1]
    scores = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    images = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    metric = SingleLabelMetric(items=("precision", "recall", "f1-score"), average=None)
    batch = dict(inputs=images[:2])
    _, figures, metrics = evaluate(metric, labels(truth, scores), batch)
    for key, name in (("precision", "precision"), ("accuracy", "recall"), ("F1", "f1-score")):
        values = [100 * (line[key] or 0) for line in figures["classes"]]
        assert values == pytest.approx(metrics[f"single-label/{name}_classwise"], abs=1e-3)
    expected = ConfusionMatrix.calculate(scores, torch.tensor(truth))
    assert figures["confusion"]["matrix"] == expected.tolist()
    best, right = scores.max(1)[0], scores.argmax(1) == torch.tensor(truth)
    overall = figures["curves"][0]
    assert (
        overall["precision"][-1] == overall["recall"][-1] == round(float(right.float().mean()), 4)
    )
    assert overall["precision"][0] == float(right[best.argmax()])
    worst = figures["worst"]
    assert len(worst) == int((~right).sum())
    assert worst[0]["text"].endswith(f"{float(best[~right].max()):.2f}")
    assert worst[0]["pixels"].shape == (4, 4, 3)
    (first, *_), matrix = most_confused(figures["confusion"]), expected.clone()
    assert first[2] == int(matrix.fill_diagonal_(0).max())


def test_one_class_has_a_page_without_confusion() -> None:
    from mmpretrain.evaluation import Accuracy

    _, figures, _ = evaluate(Accuracy(), labels([0, 0], torch.tensor([[1.0], [1.0]])))
    page = page_of(figures | dict(confusion=dict(labels=["cat"], matrix=[[2]])))
    assert "What is taken for what" not in page
    assert "None has a mistake." in page


def test_no_more_than_the_worst_images_are_kept() -> None:
    made = []
    evaluation = Evaluation()
    for index in range(1000):
        evaluation.keep_worst(index % 100, (-index, 0), lambda index=index: made.append(index))
    assert len(evaluation.worst) == MOST_WORST
    assert {badness for badness, *_ in evaluation.worst} == {98, 99}
    assert len(made) < 300


def test_parts_of_several_processes_make_the_whole() -> None:
    from mmseg.evaluation import IoUMetric

    samples = maps(6)
    whole = evaluate(IoUMetric(), samples)[0]
    parts = [evaluate(IoUMetric(), samples[start::2])[0] for start in (0, 1)]
    parts[1].worst = [(badness, (key, 1), one) for badness, (key, _), one in parts[1].worst]
    parts[0].add(parts[1])
    assert (parts[0].confusion == whole.confusion).all()
    assert (parts[0].with_class == whole.with_class).all()
    assert parts[0].images == 6
    badness = [sorted(one[0] for one in each.worst) for each in (parts[0], whole)]
    assert badness[0] == badness[1]


def test_the_evaluation_of_the_best_checkpoint_is_kept() -> None:
    runner, hook = runner_of(None, 2), ReportHook()
    saved = runner.message_hub.runtime_info
    saved["best_ckpt"] = "before.pth"  # of the run that is resumed
    hook.before_train(runner)
    for best, kept in (("before.pth", 1), ("before.pth", 2), ("a.pth", 3), ("a.pth", 3)):
        hook.before_val_epoch(runner)
        saved["best_ckpt"] = best
        runner.iter += 1
        hook.after_val_epoch(runner, dict(accuracy=runner.iter))
        assert hook.evaluation.metrics["accuracy"] == 7 + kept
    assert hook.evaluation.best == "a.pth"


def test_an_error_is_logged_and_the_run_goes_on(caplog, tmp_path, monkeypatch) -> None:
    runner, hook = runner_of(None, 2), ReportHook()
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, None, [dict(pred_sem_seg=1, gt_sem_seg=1)])
    hook.after_val_epoch(runner, {})
    assert hook.evaluation is None
    assert "the run goes on" in caplog.text
    runner.rank = 0
    assert write_page(runner, hook, "config.py", tmp_path) is None
    assert "could not be written" in caplog.text
    assert "&lt;b&gt;" in page_of(NOTHING, weights="", problems=["<b>"])


def test_what_was_not_evaluated_or_cannot_be_drawn_is_said(monkeypatch, coco_metric) -> None:
    assert "Nothing was evaluated" in page_of(NOTHING, weights="")
    assert "There are no figures of single classes" in page_of(NOTHING)
    _, figures, _ = evaluate(coco_metric, boxes(FOUND))
    (first, *_) = report_page.draw_worst(figures | dict(palette=[(9, 9, 9)]))
    assert "cannot be drawn" in first["text"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = page_of(figures)
    assert "No charts" in page
    assert "<svg" not in page


def test_the_page_fits(page, coco_metric) -> None:
    _, figures, _ = evaluate(coco_metric, boxes(FOUND))
    losses = [dict(step=step, loss=1 / step, lr=0.1) for step in range(1, 9)]
    log = dict(losses=losses, metrics=[dict(step=8, mIoU=3.0)], unit="iteration")
    page.set_content(page_of(figures, log=log, commands=[("Go", "python " + "long/" * 80)]))
    assert page.locator("svg").count() == 5
    assert page.locator("table.classes tbody tr").count() == 3


@pytest.mark.train
@pytest.mark.parametrize("evaluates", [True, False])
def test_a_model_of_its_own_tasks_has_a_report(evaluates, toy_config, tmp_path) -> None:
    if not evaluates:
        toy_config.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner, hook = Runner.from_cfg(toy_config), ReportHook()
    runner.register_hook(hook)
    runner.train()
    page = write_page(runner, hook, "toy.py").read_text()
    told = "no figures of single classes" if evaluates else "Nothing was evaluated"
    assert told in page
    content = json.loads((tmp_path / "run" / "report.json").read_text())
    assert content["images"] == (22 if evaluates else 0)
    assert content["problems"] == []
    assert len(content["log"]["metrics"]) == (4 if evaluates else 0)
    assert content["log"]["unit"] == ("epoch" if evaluates else "iteration")
    assert content["about"]["Training data"] == "22 images, ToyImages"
    assert content["commands"][0][1].endswith(
        f"predict.py toy.py {tmp_path}/run/epoch_4.pth IMAGES"
    )


@pytest.mark.train
def test_training_and_testing_leave_the_same_report(run_tool, root, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = root / "configs" / "dw_vit_t_cifar10.py"
    options = ["--quick", "--work-dir", tmp_path / "run", "--cfg-options", "quick.iterations=2"]
    options += ["quick.train_images=8", "quick.val_images=20", "quick.batch_size=4"]
    run_tool("train.py", config, *options)
    trained = json.loads((tmp_path / "run" / "report.json").read_text())
    assert trained["problems"] == []
    assert sum(line["count"] for line in trained["classes"]) == trained["images"] == 20
    found = sum(line["found"] for line in trained["classes"])
    assert 100 * found / 20 == pytest.approx(trained["metrics"]["accuracy/top1"])
    assert trained["log"]["losses"]
    assert len(trained["worst"]) == 20 - found
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 20 - found
    assert "--resume" in page
    (best,) = (tmp_path / "run").glob("best_*.pth")
    assert best.name in page
    predict, *others = dict(trained["commands"]).values()
    assert predict == f"python tools/predict.py run/{best.name} IMAGES"
    assert not any("dw_vit_t_cifar10.py run" in one for one in others)
    run_tool("test.py", config, best, *options, "--report", tmp_path / "tested")
    tested = json.loads((tmp_path / "tested" / "report.json").read_text())
    same = ("classes", "confusion", "curves", "worst", "metrics")
    assert {key: tested[key] for key in same} == {key: trained[key] for key in same}
    assert not tested["log"]["losses"]
