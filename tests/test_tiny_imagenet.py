"""Tiny-ImageNet in its own folder layout."""

from pathlib import Path

import pytest
from mmengine.registry import DATASETS
from numpy.random import default_rng

import mmhybrid  # noqa: F401  (its scope)
from mmhybrid.datasets.synthetic.classification import draw_tiny_imagenet


def build(folder: Path, split: str):
    options = dict(data_root=str(folder), split=split, pipeline=[])
    return DATASETS.build(dict(type="mmhybrid.TinyImageNet", **options))


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("val", 10)])
def test_images_and_labels(tmp_path: Path, split: str, count: int) -> None:
    draw_tiny_imagenet(dict(split=split), ["class"] * 200, tmp_path, count, default_rng(0))
    dataset = build(tmp_path, split)
    ids = (tmp_path / "wnids.txt").read_text().split()
    assert len(dataset) == count
    assert len(dataset.CLASSES) == 200
    for index in range(count):
        info = dataset.get_data_info(index)
        path, wordnet_id = Path(info["img_path"]), ids[info["gt_label"]]
        assert path.is_file()
        if split == "train":
            assert path.parts[-3] == wordnet_id
        else:
            annotations = (tmp_path / "val" / "val_annotations.txt").read_text()
            assert f"{path.name}\t{wordnet_id}\t" in annotations


def test_other_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train and val"):
        build(tmp_path, "test")
