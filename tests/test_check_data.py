"""Broken images and annotations: what the check before training finds, and what training does."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from mmhybrid.datasets.check_data import PROBLEMS, check_dataset, check_image
from mmhybrid.datasets.sample_loading import MOST_UNREADABLE, load_or_replace, load_or_stop
from mmhybrid.datasets.synthetic.classification import accept_drawn_cifar, draw_cifar
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.errors import UserError


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
    content = image(path).read_bytes()
    path.write_bytes(content[: len(content) // 2 if length is None else length])
    return path


# Each image's name, how to make it, and whether training reads it all the same; None where that
# depends on the version of OpenCV.
IMAGES = {
    "missing image": ("absent.jpg", lambda path: path, False),
    "empty file": ("empty.jpg", lambda path: cut(path, 0), False),
    "unreadable image": ("short.png", lambda path: cut(path, 20), False),
    "truncated image": ("half.jpg", cut, None),
    "CMYK image": ("cmyk.jpg", lambda path: image(path, "CMYK"), True),
    "16-bit image": ("deep.png", lambda path: image(path, "I;16"), True),
    "palette image": ("palette.png", lambda path: image(path, "P"), True),
    "image with transparency": ("clear.png", lambda path: image(path, "RGBA"), True),
    "grey image": ("grey.jpg", lambda path: image(path, "L"), True),
    "image turned by EXIF": ("turned.jpg", turned, True),
    "image smaller than 32 pixels": ("small.png", lambda path: image(path, size=(20, 64)), True),
}


def test_whole_image_is_not_found(tmp_path: Path) -> None:
    assert check_image(image(tmp_path / "whole.jpg"), (64, 48)) == []
    ((found, _),) = check_image(tmp_path / "whole.jpg", (48, 64))
    assert found == "image of another size than annotated"
    # An image that is turned has the size that it is shown with.
    ((found, _),) = check_image(turned(tmp_path / "turned.jpg"), (48, 64))
    assert found == "image turned by EXIF"


def folders(tmp_path: Path, **changes: Any) -> ConfigDict:
    """The config of a classifier's training set with two classes of two images."""
    for name in ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"):
        image(tmp_path / name)
    init_default_scope("mmpretrain")
    steps = dict(LoadImageFromFile={}, Resize=dict(scale=(32, 32)), PackInputs={})
    pipeline = [dict(type=name, **options) for name, options in steps.items()]
    root = dict(data_root=str(tmp_path), data_prefix="")
    return ConfigDict(type="CustomDataset", pipeline=pipeline, **root, **changes)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What loading warns of."""
    told: list[str] = []
    monkeypatch.setattr("mmhybrid.datasets.sample_loading._warn", told.append)
    return told


@pytest.mark.parametrize("problem", IMAGES)
def test_image_is_found_and_training_survives_it(problem: str, tmp_path: Path, warnings) -> None:
    built = DATASETS.build(folders(tmp_path))
    name, make, readable = IMAGES[problem]
    bad = make(tmp_path / "a" / name)
    ((found, example),) = check_image(bad)
    assert found == problem
    assert str(bad) in example
    built.data_list = None  # as if the image had become so after the list was made
    built.get_data_info = lambda index: dict(
        img_path=str(bad if index == 0 else tmp_path / "b" / "2.jpg"), gt_label=index % 2
    )
    samples = [load_or_replace(built, index) for index in (0, 1)]
    assert [tuple(sample["inputs"].shape) for sample in samples] == [(3, 32, 32)] * 2
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
class LoadMine(Broken):
    """Somebody's own way to read."""


@pytest.mark.parametrize("load", [load_or_replace, lambda dataset, i: load_or_stop(dataset, [i])])
def test_a_transform_that_fails_is_no_unreadable_image(load, tmp_path: Path, warnings) -> None:
    dataset = folders(tmp_path)
    dataset.pipeline.insert(1, dict(type="Broken"))
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
    dataset.pipeline.insert(1, dict(type="LoadMine"))
    told = r"cannot be read, the last one .*jpg \(OSError: no room"
    with pytest.raises(UserError, match=told):
        load_or_replace(DATASETS.build(dataset), 0)


@pytest.mark.train
def test_run_trains_on_what_is_left(toy_config, train, capfd) -> None:
    toy_config.train_dataloader.dataset.data_list[5]["unreadable"] = True
    toy_config.train_dataloader.num_workers = 2
    assert train(toy_config).iter == 24
    assert "Left out, because it cannot be read: 5.png (OSError" in "".join(capfd.readouterr())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loop", ["val", "test"])
def test_evaluation_names_what_it_cannot_read(toy_config, loop, workers) -> None:
    toy_config.val_dataloader.num_workers = workers
    toy_config.val_dataloader.dataset.data_list[5]["unreadable"] = True
    for part in ("dataloader", "cfg", "evaluator"):
        toy_config[f"test_{part}"] = toy_config[f"val_{part}"]
    runner = build_runner(toy_config)
    with pytest.raises(UserError, match=r"^cannot evaluate on 5\.png \(OSError: cannot identify"):
        getattr(runner, loop)()


@pytest.mark.train
@pytest.mark.parametrize("workers", [0, 2])
def test_run_stops_where_nothing_can_be_read(toy_config, train, workers) -> None:
    for record in toy_config.train_dataloader.dataset.data_list:
        record["unreadable"] = True
    toy_config.train_dataloader.num_workers = workers
    told = f"^{MOST_UNREADABLE} samples one after the other cannot be read.*check_data.py"
    with pytest.raises(UserError, match=told) as error:
        train(toy_config)
    assert "Traceback" not in str(error.value)


# --- boxes ----------------------------------------------------------------------------------------


def box(**changes: Any) -> dict[str, Any]:
    good = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    return good | dict(segmentation=[[5, 5, 25, 5, 25, 25]]) | changes


BOXES = {
    "empty box": box(id=3, bbox=[5, 5, 0, 20]),
    "box outside the image": box(id=3, bbox=[100, 5, 20, 20]),
    "box that reaches beyond the image": box(id=3, bbox=[50, 5, 40, 20]),
    "box that is no four numbers": box(id=3, bbox=[5, 5, float("nan"), 20]),
    "crowd box": box(id=3, iscrowd=1, segmentation=dict(counts="", size=[48, 64])),
    "box of an unknown category": box(id=3, category_id=7),
    "box of an unknown image": box(id=3, image_id=9),
    "object without a mask": box(id=3, segmentation=[]),
}
NOT_TRAINED = {"box that is no four numbers", "object without a mask"}


def coco(tmp_path: Path, *boxes: dict, names: tuple[str, ...] = ("cat", "dog")) -> ConfigDict:
    image(tmp_path / "img" / "1.jpg")
    image(tmp_path / "img" / "2.jpg")
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=64, height=48) for i in (1, 2)],
        annotations=[box(), box(id=2, image_id=2, category_id=2), *boxes],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)],
    )
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    load = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
    init_default_scope("mmdet")
    return ConfigDict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="boxes.json",
        data_prefix=dict(img="img/"),
        metainfo=dict(classes=("cat", "dog")),
        pipeline=[dict(type="LoadImageFromFile"), load, dict(type="PackDetInputs")],
    )


def found_in(dataset: ConfigDict, scope: str = "mmdet") -> dict[str, int]:
    """How often each problem is found."""
    return {finding.problem: finding.count for finding in check_dataset(dataset, scope)}


@pytest.mark.parametrize("problem", BOXES)
def test_box_is_found_and_training_survives_it(problem: str, tmp_path: Path) -> None:
    dataset = coco(tmp_path, BOXES[problem])
    (found,) = check_dataset(dataset, "mmdet")
    assert (found.problem, found.count) == (problem, 1)
    assert "annotation 3" in found.examples[0]
    if problem in NOT_TRAINED:
        return
    dataset.pipeline[1].with_mask = False
    built = DATASETS.build(dataset)
    for sample in (load_or_replace(built, index) for index in (0, 1)):
        truth = sample["data_samples"].gt_instances
        assert len(truth) >= 1
        assert torch.isfinite(truth.bboxes.tensor).all()


def test_names_that_do_not_match_are_found_with_what_is_near(tmp_path: Path) -> None:
    lacking, more = check_dataset(coco(tmp_path, names=("cat", "dogs")), "mmdet")
    assert (lacking.problem, lacking.count) == ("class of the config that the file lacks", 1)
    assert (more.problem, more.count) == ("category of the file that the config lacks", 1)
    assert "'dog' is not in" in lacking.examples[0]
    assert "it has 'dogs'" in lacking.examples[0]


def test_images_without_boxes_and_named_twice_are_found(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    assert found_in(dataset) == {"image without a box": 1, "image named twice": 1}


EMPTY = '{"images": [], "annotations": [], "categories": []}'
WITHOUT_A_NAME = EMPTY.replace("[]", '[{"id": 1}]', 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', WITHOUT_A_NAME, EMPTY])
def test_broken_annotation_file_is_found(content: str, tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    (tmp_path / "boxes.json").write_text(content)
    found = {one.problem: one for one in check_dataset(dataset, "mmdet")}
    if content != EMPTY:
        assert list(found) == ["annotation file that cannot be read"]
    one = found["no images" if content == EMPTY else "annotation file that cannot be read"]
    assert one.count == 1
    assert "boxes.json" in one.examples[0]


# --- masks and labels -----------------------------------------------------------------------------


def masks(tmp_path: Path, labels: np.ndarray | None) -> ConfigDict:
    image(tmp_path / "img" / "0.jpg")
    if labels is not None:
        (tmp_path / "ann").mkdir(exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "ann" / "0.png")
    steps = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
    init_default_scope("mmseg")
    return ConfigDict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="img", seg_map_path="ann"),
        metainfo=dict(classes=("ground", "sky"), palette=[[0, 0, 0], [1, 1, 1]]),
        pipeline=[dict(type=name) for name in steps],
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
    assert found_in(masks(tmp_path, MASKS[problem]), "mmseg") == {problem: 1}
    if problem == "missing mask":
        with pytest.raises(UserError, match=r"cannot be read.*0\.jpg.*FileNotFoundError"):
            load_or_replace(DATASETS.build(masks(tmp_path, None)), 0)
    assert found_in(masks(tmp_path, labels()), "mmseg") == {}


def test_labels_outside_the_classes_are_ignored_in_training(tmp_path: Path, warnings) -> None:
    sample = load_or_replace(DATASETS.build(masks(tmp_path, labels(7))), 0)
    truth = sample["data_samples"].gt_sem_seg.data
    assert sorted(truth.unique().tolist()) == [0, 255]
    (told,) = warnings
    assert "640 pixels of the mask of" in told
    assert "labels [7], but there are 2 classes" in told


def test_masks_of_mmdet_have_labels_of_their_own(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    for name in ("1.png", "2.png"):
        Image.fromarray(np.full((48, 64), 182, np.uint8)).save(tmp_path / "img" / name)
    dataset.data_prefix.seg = "img/"
    dataset.pipeline[1].with_seg = True
    sample = load_or_replace(DATASETS.build(dataset), 0)
    assert sample["data_samples"].gt_sem_seg.sem_seg.unique().tolist() == [182]


def test_labels_of_a_classifier_are_found(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/0.jpg 0\nb/2.jpg 5\n")
    options = dict(ann_file="list.txt", with_label=True, metainfo=dict(classes=("a", "b")))
    found = found_in(folders(tmp_path, **options), "mmpretrain")
    assert found == {"class label out of range": 1, "class without an image": 1}


def test_images_that_are_not_files_are_no_missing_ones(tmp_path: Path) -> None:
    options = dict(data_root=str(tmp_path), download=False, pipeline=[dict(type="PackInputs")])
    dataset = ConfigDict(type="CIFAR10", split="test", **options)
    accept_drawn_cifar("CIFAR10")
    for split in ("test", "train"):
        rng = np.random.default_rng(0)
        draw_cifar(dict(dataset, split=split), list("0123456789"), tmp_path, 10, rng)
    assert check_dataset(dataset, "mmpretrain") == []


def test_problems_are_all_tested() -> None:
    text = Path(__file__).read_text()
    assert [problem for problem in PROBLEMS if problem not in text] == []


def test_tool_lists_counts_and_examples(tmp_path: Path, run_tool, capsys) -> None:
    dataset = coco(tmp_path, BOXES["empty box"], BOXES["crowd box"] | dict(id=4))
    cut(tmp_path / "img" / "2.jpg", 0)
    cfg = Config(dict(default_scope="mmdet", model=dict(), train_dataloader=dict(dataset=dataset)))
    cfg.dump(tmp_path / "config.py")
    with pytest.raises(SystemExit) as end:
        run_tool("check_data.py", tmp_path / "config.py")
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: CocoDataset"
    told = "empty file: training leaves it out and says so; evaluation stops"
    assert lines[1].split(maxsplit=2) == ["ERROR", "1", told]
    assert str(tmp_path / "img" / "2.jpg") in lines[2]
    assert any("empty box" in line for line in lines)
    assert any("crowd box" in line for line in lines)
    assert lines[-1] == "1 errors"
