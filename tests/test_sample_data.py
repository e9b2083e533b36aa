"""The drawn data sets: in the published formats, the same each time, and told apart by shape."""

import hashlib
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import mmhybrid  # noqa: F401
from mmhybrid.datasets.data_paths import LOADERS, check_data, with_data_root
from mmhybrid.datasets.synthetic import draw_data
from mmhybrid.datasets.synthetic.shapes import CATEGORIES, choose_classes, outline, place
from mmhybrid.engine.runner.run_config import UserError

SOURCES = dict(
    coco="mmdet::_base_/datasets/coco_instance.py",
    ade20k="mmseg::_base_/datasets/ade20k.py",
    cityscapes="mmseg::_base_/datasets/cityscapes.py",
    imagenet="mmpretrain::_base_/datasets/imagenet_bs32.py",
    cifar10="mmpretrain::_base_/datasets/cifar10_bs16.py",
    cifar100="mmpretrain::_base_/datasets/cifar100_bs16.py",
)


every_source = pytest.mark.parametrize("source", SOURCES)


def read(source: str, folder: Path) -> Config:
    """The library's own config of a data set, reading from a folder."""
    config = folder.parent / f"{source}.py"
    config.write_text(f"_base_ = {SOURCES[source]!r}\n")
    cfg = Config.fromfile(config)
    cfg.default_scope = SOURCES[source].split("::")[0]
    init_default_scope(cfg.default_scope)
    return with_data_root(cfg, str(folder))


def drawn(source: str, folder: Path, train: int = 12, held_out: int = 10, seed: int = 0) -> Config:
    cfg = read(source, folder)
    draw_data(cfg, folder, train=train, held_out=held_out, seed=seed)
    return cfg


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@every_source
def test_the_library_reads_what_was_drawn(source: str, tmp_path: Path) -> None:
    cfg = drawn(source, tmp_path / "data")
    check_data(cfg, LOADERS)
    for loader, count in (("train_dataloader", 12), ("val_dataloader", 10)):
        dataset = DATASETS.build(cfg[loader].dataset)
        assert len(dataset) == count
        assert dataset[0]["inputs"].dim() == 3
        truth = dataset[0]["data_samples"]
        assert any(hasattr(truth, name) for name in ("gt_instances", "gt_sem_seg", "gt_label"))


@every_source
def test_same_seed_same_bytes(source: str, tmp_path: Path) -> None:
    for name, seed in dict(one=0, two=0, three=1).items():
        drawn(source, tmp_path / name, train=3, held_out=2, seed=seed)
    first, second, third = (digest(tmp_path / name) for name in ("one", "two", "three"))
    assert first == second
    assert first != third


def test_what_is_there_is_kept_and_what_does_not_fit_is_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    drawn("coco", folder)
    train, val = (set(digest(folder / part).values()) for part in ("train2017", "val2017"))
    assert len(train) == 12
    assert not train & val
    image = folder / "train2017" / "000000000001.jpg"
    before = image.stat().st_mtime_ns
    drawn("coco", folder)
    assert image.stat().st_mtime_ns == before
    drawn("coco", folder, train=3)
    assert len(list((folder / "train2017").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["data"]


def test_coco_annotations_are_valid(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    cfg = drawn("coco", folder, train=20)
    coco = COCO(folder / "annotations" / "instances_train2017.json")
    assert len(coco.getCatIds()) == 80
    assert len(coco.imgs) == 20
    assert {one["category_id"] for one in coco.anns.values()} == {1, 21, 41, 61}
    assert set(coco.getImgIds()) == {one["image_id"] for one in coco.anns.values()}
    for image in coco.getImgIds():  # objects do not touch
        masks = [coco.annToMask(one) for one in coco.loadAnns(coco.getAnnIds(image))]
        assert sum(masks).max() == 1
    for annotation in coco.anns.values():
        record = coco.imgs[annotation["image_id"]]
        image = cv2.imread(str(folder / "train2017" / record["file_name"]))
        assert image.shape == (record["height"], record["width"], 3)
        mask = coco.annToMask(annotation).astype(bool)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.06)
        left, top, width, height = coco_mask.toBbox(coco.annToRLE(annotation))
        assert (left, top, width, height) == pytest.approx(annotation["bbox"], abs=2)
        # The mask covers one colour: that of the shape, unlike the background.
        inside = image[mask].astype(float)
        assert inside.std(axis=0).max() < 25
    assert cfg.val_evaluator.ann_file == str(folder / "annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("source", "maps", "images", "labels"),
    [  # ADE20K keeps zero for what has no label, Cityscapes has a strip that is ignored
        (
            "ade20k",
            "annotations/training/*.png",
            "images/training/*.jpg",
            {index + 1 for index in choose_classes(150, 6)},
        ),
        (
            "cityscapes",
            "gtFine/train/**/*_gtFine_labelTrainIds.png",
            "leftImg8bit/train/**/*_leftImg8bit.png",
            {*choose_classes(19, 6), 255},
        ),
    ],
)
def test_maps_hold_the_published_labels(source, maps, images, labels, tmp_path: Path) -> None:
    drawn(source, tmp_path / "data")
    found = [cv2.imread(str(path), -1) for path in (tmp_path / "data").glob(maps)]
    assert set(np.unique(found).tolist()) == labels
    assert len(found) == len(list((tmp_path / "data").glob(images)))


def test_cifar_pickles_have_the_published_layout(tmp_path: Path) -> None:
    drawn("cifar10", tmp_path / "data")
    folder = tmp_path / "data" / "cifar-10-batches-py"
    batches = {f"data_batch_{index}" for index in range(1, 6)}
    assert {path.name for path in folder.iterdir()} == {*batches, "test_batch", "batches.meta"}
    batch = pickle.loads((folder / "test_batch").read_bytes())
    assert batch["data"].shape == (10, 3072)
    assert sorted(batch["labels"]) == list(range(10))


@pytest.mark.parametrize("change", ["path", "folder", "type"])
def test_what_cannot_be_drawn_is_refused(change: str, tmp_path: Path) -> None:
    cfg = read("coco", tmp_path / "data")
    mine = tmp_path / ("data/coco/mine.json" if change == "folder" else "mine.json")
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("{}")
    if change == "path":
        cfg.train_dataloader.dataset.ann_file = str(mine)
    elif change == "type":
        cfg.train_dataloader.dataset.type = "LVISV1Dataset"
    told = dict(
        path="relative to data_root",
        folder="which holds something else.*--work-dir",
        type="cannot draw data for a LVISV1Dataset",
    )
    with pytest.raises(UserError, match=told[change]):
        draw_data(cfg, tmp_path / "data", train=2, held_out=2, seed=0)
    assert mine.read_text() == "{}"


@pytest.mark.parametrize("name", sorted({name for name, _ in CATEGORIES}))
def test_outlines_fit_the_unit_circle(name: str) -> None:
    corners = outline(name)
    assert 0.9 < np.linalg.norm(corners, axis=1).max() <= 1.0 + 1e-9
    assert np.abs(corners.mean(axis=0)).max() < 1e-9


@pytest.mark.parametrize("side", [32, 96, 320])
def test_shapes_stay_inside(side: int) -> None:
    rng = np.random.default_rng(0)
    scenes = [place(rng, side, side, range(len(CATEGORIES)), 4) for _ in range(20)]
    corners = np.concatenate([shape.polygon for shapes in scenes for shape in shapes])
    assert corners.min() >= 0
    assert corners.max() <= side
