"""Tiny-ImageNet in its own folder layout."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS

import mmhybrid  # noqa: F401  (its scope)
from mmhybrid.datasets.synthetic.classification import draw_tiny_imagenet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 20), ("val", 10)):
        rng = np.random.default_rng(count)
        draw_tiny_imagenet(dict(split=split), ["class"] * 200, tmp_path, count, rng)
    return tmp_path


def build(folder: Path, split: str):
    return DATASETS.build(
        dict(type="mmhybrid.TinyImageNet", data_root=str(folder), split=split, pipeline=[])
    )


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("val", 10)])
def test_images_and_labels(folder: Path, split: str, count: int) -> None:
    dataset = build(folder, split)
    ids = (folder / "wnids.txt").read_text().split()
    annotations = (folder / "val" / "val_annotations.txt").read_text()
    assert len(dataset) == count
    assert len(dataset.CLASSES) == 200
    for index in range(count):
        info = dataset.get_data_info(index)
        path, wordnet_id = Path(info["img_path"]), ids[info["gt_label"]]
        assert path.is_file()
        if split == "train":
            assert path.parts[-3] == wordnet_id
        else:
            assert f"{path.name}\t{wordnet_id}\t" in annotations


def test_other_splits_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="train and val"):
        build(folder, "test")
