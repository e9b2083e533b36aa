"""Broken images and annotations: what the check before training finds, and what training does."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from mmhybrid.datasets.check_data import PROBLEMS, Finding, check_dataset, check_image
from mmhybrid.datasets.sample_loading import MOST_UNREADABLE, load_or_replace, load_or_stop
from mmhybrid.datasets.synthetic import classification
from mmhybrid.engine.runner.prepare_config import with_safeguards
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def image(path: Path, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path, **options)
    return path


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image(path, exif=exif)


def cut(path: Path, length: int | None = None) -> Path:
    image(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if length is None else length])
    return path


# How to make each of these images, and whether training reads it all the same; None where that
# depends on the version of OpenCV.
IMAGES = {
    "missing image": (lambda folder: folder / "absent.jpg", False),
    "empty file": (lambda folder: cut(folder / "empty.jpg", 0), False),
    "unreadable image": (lambda folder: cut(folder / "short.png", 20), False),
    "truncated image": (lambda folder: cut(folder / "half.jpg"), None),
    "CMYK image": (lambda folder: image(folder / "cmyk.jpg", "CMYK"), True),
    "16-bit image": (lambda folder: image(folder / "deep.png", "I;16"), True),
    "palette image": (lambda folder: image(folder / "palette.png", "P"), True),
    "image with transparency": (lambda folder: image(folder / "clear.png", "RGBA"), True),
    "grey image": (lambda folder: image(folder / "grey.jpg", "L"), True),
    "image turned by EXIF": (lambda folder: turned(folder / "turned.jpg"), True),
    "image smaller than 32 pixels": (
        lambda folder: image(folder / "small.png", size=(20, 64)),
        True,
    ),
}


@pytest.mark.parametrize("problem", IMAGES)
def test_image_is_found(problem: str, tmp_path: Path) -> None:
    path = IMAGES[problem][0](tmp_path)
    found = check_image(path)
    assert [one for one, _ in found] == [problem]
    assert str(path) in found[0][1]


def test_whole_image_is_not_found(tmp_path: Path) -> None:
    assert check_image(image(tmp_path / "whole.jpg"), (64, 48)) == []
    assert [problem for problem, _ in check_image(tmp_path / "whole.jpg", (48, 64))] == [
        "image of another size than annotated"
    ]
    # An image that is turned has the size that it is shown with.
    found = check_image(turned(tmp_path / "turned.jpg"), (48, 64))
    assert [problem for problem, _ in found] == ["image turned by EXIF"]


def folders(tmp_path: Path, **changes: Any) -> ConfigDict:
    """The config of a classifier's training set with two classes of two images."""
    for name in ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"):
        image(tmp_path / name)
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(32, 32)),
        dict(type="PackInputs"),
    ]
    return ConfigDict(
        type="CustomDataset", data_root=str(tmp_path), data_prefix="", pipeline=pipeline, **changes
    )


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What loading warns of."""
    told: list[str] = []
    monkeypatch.setattr("mmhybrid.datasets.sample_loading._warn", told.append)
    return told


@pytest.mark.parametrize("problem", IMAGES)
def test_training_survives_an_image(problem: str, tmp_path: Path, warnings) -> None:
    dataset = folders(tmp_path)
    init_default_scope("mmpretrain")
    built = DATASETS.build(dataset)
    bad = IMAGES[problem][0](tmp_path / "a")
    built.data_list = None  # as if the image had become so after the list was made
    built.get_data_info = lambda index: dict(
        img_path=str(bad if index == 0 else tmp_path / "b" / "2.jpg"), gt_label=index % 2
    )
    samples = [load_or_replace(built, index) for index in (0, 1)]
    assert [tuple(sample["inputs"].shape) for sample in samples] == [(3, 32, 32)] * 2
    readable = IMAGES[problem][1]
    if readable is None:
        readable = not warnings
    assert [str(bad) in one for one in warnings] == [True] * (not readable)


def test_what_is_left_out_is_not_its_own_replacement() -> None:
    class TwoSamples(list):
        def __getitem__(self, index: int) -> dict:
            if index == 0:
                raise OSError("truncated")
            return dict(index=index)

    for seed in range(8):
        random.seed(seed)
        assert load_or_replace(TwoSamples([0, 1]), 0) == dict(index=1)
    with pytest.raises(UserError, match="cannot be read"):
        load_or_replace(TwoSamples([0]), 0)


@TRANSFORMS.register_module()
class Broken(BaseTransform):
    """Raises an error as a file's decoder may, too."""

    def transform(self, results: dict) -> dict:
        raise OSError(f"no room for {results['img_shape']}")


@TRANSFORMS.register_module()
class LoadMine(BaseTransform):
    """Somebody's own way to read."""

    def transform(self, results: dict) -> dict:
        raise ValueError("no such page")


@pytest.mark.parametrize("load", [load_or_replace, lambda dataset, i: load_or_stop(dataset, [i])])
def test_a_transform_that_fails_is_no_unreadable_image(load, tmp_path: Path, warnings) -> None:
    dataset = folders(tmp_path)
    dataset.pipeline.insert(1, dict(type="Broken"))
    init_default_scope("mmpretrain")
    with pytest.raises(RuntimeError) as error:
        load(DATASETS.build(dataset), 0)
    path = tmp_path / "a" / "0.jpg"
    assert str(error.value) == f"Broken fails at {path} (OSError: no room for (48, 64))"
    assert isinstance(error.value.__cause__, OSError)
    assert not isinstance(error.value, UserError)
    assert warnings == []

    class Faulty(list):
        def __getitem__(self, index: int) -> dict:
            return {}["a bug"]

    with pytest.raises(RuntimeError, match=r"the data set fails at sample 0 \(KeyError: 'a bug'\)"):
        load(Faulty([0, 1]), 0)


def test_a_loader_of_ones_own_reads(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    dataset.pipeline[0].type = "LoadMine"
    init_default_scope("mmpretrain")
    with pytest.raises(
        UserError, match=r"cannot be read, the last one .*jpg \(ValueError: no such"
    ):
        load_or_replace(DATASETS.build(dataset), 0)


@pytest.mark.train
def test_run_trains_on_what_is_left(toy_config, capfd) -> None:
    toy_config.train_dataloader.dataset.data_list[5]["unreadable"] = True
    toy_config.train_dataloader.num_workers = 2
    toy_config = with_safeguards(toy_config)
    runner = build_runner(toy_config)
    runner.train()
    assert runner.iter == 24
    assert "Left out, because it cannot be read: 5.png (OSError" in "".join(capfd.readouterr())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loop", ["val", "test"])
def test_evaluation_names_what_it_cannot_read(toy_config, loop, workers) -> None:
    toy_config.val_dataloader.num_workers = workers
    toy_config.val_dataloader.dataset.data_list[5]["unreadable"] = True
    for part in ("dataloader", "cfg", "evaluator"):
        toy_config[f"test_{part}"] = toy_config[f"val_{part}"]
    runner = build_runner(toy_config)
    with pytest.raises(UserError) as error:
        getattr(runner, loop)()
    assert str(error.value).startswith("cannot evaluate on 5.png (OSError: cannot identify")


@pytest.mark.train
@pytest.mark.parametrize("workers", [0, 2])
def test_run_stops_where_nothing_can_be_read(toy_config, workers) -> None:
    for record in toy_config.train_dataloader.dataset.data_list:
        record["unreadable"] = True
    toy_config.train_dataloader.num_workers = workers
    toy_config = with_safeguards(toy_config)
    with pytest.raises(UserError) as error:
        build_runner(toy_config).train()
    message = str(error.value)
    assert message.startswith(f"{MOST_UNREADABLE} samples one after the other cannot be read")
    assert "check_data.py" in message
    assert "Traceback" not in message


# --- boxes ----------------------------------------------------------------------------------------


def box(**changes: Any) -> dict[str, Any]:
    good = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    return good | dict(segmentation=[[5, 5, 25, 5, 25, 25]]) | changes


BOXES = {
    "empty box": box(bbox=[5, 5, 0, 20]),
    "box outside the image": box(bbox=[100, 5, 20, 20]),
    "box that reaches beyond the image": box(bbox=[50, 5, 40, 20]),
    "box that is no four numbers": box(bbox=[5, 5, float("nan"), 20]),
    "crowd box": box(iscrowd=1, segmentation=dict(counts="", size=[48, 64])),
    "box of an unknown category": box(category_id=7),
    "box of an unknown image": box(image_id=9),
    "object without a mask": box(segmentation=[]),
}


NOT_TRAINED = {"box that is no four numbers", "object without a mask"}


def coco(tmp_path: Path, boxes: list[dict], names: tuple[str, ...] = ("cat", "dog")) -> ConfigDict:
    image(tmp_path / "img" / "1.jpg")
    image(tmp_path / "img" / "2.jpg")
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=64, height=48) for i in (1, 2)],
        annotations=[box(), box(id=2, image_id=2, category_id=2), *boxes],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)],
    )
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return ConfigDict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="boxes.json",
        data_prefix=dict(img="img/"),
        metainfo=dict(classes=("cat", "dog")),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs"),
        ],
    )


def counts(found: list[Finding]) -> dict[str, int]:
    return {finding.problem: finding.count for finding in found}


def test_whole_annotations_are_not_found(tmp_path: Path) -> None:
    assert check_dataset(coco(tmp_path, []), "mmdet") == []


@pytest.mark.parametrize("problem", BOXES)
def test_box_is_found(problem: str, tmp_path: Path) -> None:
    found = check_dataset(coco(tmp_path, [BOXES[problem] | dict(id=3)]), "mmdet")
    assert counts(found) == {problem: 1}
    assert "annotation 3" in found[0].examples[0]


@pytest.mark.parametrize("problem", sorted(BOXES.keys() - NOT_TRAINED))
def test_training_survives_a_box(problem: str, tmp_path: Path) -> None:
    init_default_scope("mmdet")
    dataset = coco(tmp_path, [BOXES[problem] | dict(id=3)])
    dataset.pipeline[1].with_mask = False
    built = DATASETS.build(dataset)
    for sample in (load_or_replace(built, index) for index in (0, 1)):
        truth = sample["data_samples"].gt_instances
        assert len(truth) >= 1
        assert torch.isfinite(truth.bboxes.tensor).all()


def test_names_that_do_not_match_are_found_with_what_is_near(tmp_path: Path) -> None:
    found = check_dataset(coco(tmp_path, [], ("cat", "dogs")), "mmdet")
    assert counts(found) == {
        "class of the config that the file lacks": 1,
        "category of the file that the config lacks": 1,
    }
    assert "'dog' is not in" in found[0].examples[0]
    assert "it has 'dogs'" in found[0].examples[0]


def test_images_without_boxes_and_named_twice_are_found(tmp_path: Path) -> None:
    dataset = coco(tmp_path, [])
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    found = check_dataset(dataset, "mmdet")
    assert counts(found) == {"image without a box": 1, "image named twice": 1}


WITHOUT_A_NAME = '{"images": [{"id": 1}], "annotations": [], "categories": []}'


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', WITHOUT_A_NAME])
def test_broken_annotation_file_is_found(content: str, tmp_path: Path) -> None:
    dataset = coco(tmp_path, [])
    (tmp_path / "boxes.json").write_text(content)
    found = check_dataset(dataset, "mmdet")
    assert counts(found) == {"annotation file that cannot be read": 1}
    assert "boxes.json" in found[0].examples[0]


# --- masks and labels -----------------------------------------------------------------------------


def masks(tmp_path: Path, labels: np.ndarray | None) -> ConfigDict:
    image(tmp_path / "img" / "0.jpg")
    if labels is not None:
        (tmp_path / "ann").mkdir(exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "ann" / "0.png")
    return ConfigDict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="img", seg_map_path="ann"),
        metainfo=dict(classes=("ground", "sky"), palette=[[0, 0, 0], [1, 1, 1]]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    )


def labels(value: int = 1) -> np.ndarray:
    values = np.zeros((48, 64))
    values[:10], values[10:20] = value, 255
    return values


MASKS = {
    "missing mask": None,
    "mask of another size than its image": labels()[:40],
    "mask in colour": np.stack([labels()] * 3, 2),
    "label outside the classes": labels(7),
}


@pytest.mark.parametrize("problem", MASKS)
def test_mask_is_found(problem: str, tmp_path: Path) -> None:
    found = check_dataset(masks(tmp_path, MASKS[problem]), "mmseg")
    assert counts(found) == {problem: 1}
    assert check_dataset(masks(tmp_path, labels()), "mmseg") == []


def test_labels_outside_the_classes_are_ignored_in_training(tmp_path: Path, warnings) -> None:
    init_default_scope("mmseg")
    dataset = DATASETS.build(masks(tmp_path, labels(7)))
    sample = load_or_replace(dataset, 0)
    truth = sample["data_samples"].gt_sem_seg.data
    assert sorted(truth.unique().tolist()) == [0, 255]
    (told,) = warnings
    assert "640 pixels of the mask of" in told
    assert "labels [7], but there are 2 classes" in told


def test_masks_of_mmdet_have_labels_of_their_own(tmp_path: Path) -> None:
    dataset = coco(tmp_path, [])
    Image.fromarray(np.full((48, 64), 182, np.uint8)).save(tmp_path / "img" / "1.png")
    Image.fromarray(np.full((48, 64), 182, np.uint8)).save(tmp_path / "img" / "2.png")
    dataset.data_prefix.seg = "img/"
    dataset.pipeline[1].with_seg = True
    init_default_scope("mmdet")
    sample = load_or_replace(DATASETS.build(dataset), 0)
    assert sample["data_samples"].gt_sem_seg.sem_seg.unique().tolist() == [182]


def test_missing_mask_is_left_out_of_training(tmp_path: Path) -> None:
    init_default_scope("mmseg")
    dataset = DATASETS.build(masks(tmp_path, None))
    with pytest.raises(UserError, match=r"cannot be read.*0\.jpg.*FileNotFoundError"):
        load_or_replace(dataset, 0)


def test_labels_of_a_classifier_are_found(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    (tmp_path / "list.txt").write_text("a/0.jpg 0\nb/2.jpg 5\n")
    dataset.update(ann_file="list.txt", with_label=True, metainfo=dict(classes=("a", "b")))
    found = check_dataset(dataset, "mmpretrain")
    assert counts(found) == {"class label out of range": 1, "class without an image": 1}


def test_images_that_are_not_files_are_no_missing_ones(tmp_path: Path) -> None:
    pipeline = [dict(type="PackInputs")]
    root = dict(data_root=str(tmp_path), download=False)
    dataset = ConfigDict(type="CIFAR10", split="test", pipeline=pipeline, **root)
    classification.accept_drawn_cifar("CIFAR10")
    names = tuple(map(str, range(10)))
    classification.draw_cifar(dataset, names, tmp_path, 10, np.random.default_rng(0))
    classification.draw_cifar(dict(dataset, split="train"), names, tmp_path, 10, np.random.default_rng(0))
    assert check_dataset(dataset, "mmpretrain") == []


def test_an_empty_data_set_is_found(tmp_path: Path) -> None:
    dataset = coco(tmp_path, [])
    (tmp_path / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert counts(check_dataset(dataset, "mmdet"))["no images"] == 1


def test_problems_are_all_tested() -> None:
    text = Path(__file__).read_text()
    assert [problem for problem in PROBLEMS if problem not in text] == []


# --- the tool -------------------------------------------------------------------------------------


@pytest.mark.process
def test_tool_lists_counts_and_examples(tmp_path: Path) -> None:
    dataset = coco(tmp_path, [BOXES["empty box"] | dict(id=3), BOXES["crowd box"] | dict(id=4)])
    IMAGES["empty file"][0](tmp_path)
    os.replace(tmp_path / "empty.jpg", tmp_path / "img" / "2.jpg")
    cfg = Config(dict(default_scope="mmdet", model=dict(), train_dataloader=dict(dataset=dataset)))
    cfg.dump(tmp_path / "config.py")
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), str(tmp_path / "config.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "train: CocoDataset"
    assert lines[1].split(maxsplit=2) == [
        "ERROR",
        "1",
        "empty file: training leaves it out and says so; evaluation stops",
    ]
    assert str(tmp_path / "img" / "2.jpg") in lines[2]
    assert "empty box" in done.stdout
    assert "crowd box" in done.stdout
    assert lines[-1] == "1 errors"
