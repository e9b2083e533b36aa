"""Broken images and annotations: what the check before training finds, and what training does."""

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmhybrid.datasets.check_data import PROBLEMS, check, check_before_training, check_image
from mmhybrid.datasets.contact_sheet import draw_contact_sheet
from mmhybrid.datasets.findings import Finding
from mmhybrid.datasets.image_files import size_of
from mmhybrid.datasets.sample_loading import MOST_UNREADABLE, load_or_replace, load_or_stop
from mmhybrid.datasets.synthetic.classification import accept_drawn_cifar, draw_cifar
from mmhybrid.engine.runner.mended_annotations import with_mended_annotations
from mmhybrid.engine.runner.run_config import build_loops, build_runner
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
    "missing-image": ("absent.jpg", lambda path: path, False),
    "empty-file": ("empty.jpg", lambda path: cut(path, 0), False),
    "unreadable-image": ("short.png", lambda path: cut(path, 20), False),
    "truncated-image": ("half.jpg", cut, None),
    "cmyk-image": ("cmyk.jpg", lambda path: image(path, "CMYK"), True),
    "16-bit-image": ("deep.png", lambda path: image(path, "I;16"), True),
    "palette-image": ("palette.png", lambda path: image(path, "P"), True),
    "transparent-image": ("clear.png", lambda path: image(path, "RGBA"), True),
    "grey-image": ("grey.jpg", lambda path: image(path, "L"), True),
    "exif-turned": ("turned.jpg", turned, True),
    "small-image": ("small.png", lambda path: image(path, size=(20, 64)), True),
}


@pytest.mark.parametrize(("turned", "size"), [(1, (64, 48)), (6, (48, 64)), (9, (64, 48))])
def test_size_is_that_of_the_image_as_it_is_read(turned: int, size: tuple, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    path = image(tmp_path / "a.jpg", exif=exif)
    assert size_of(path) == size == mmcv.imread(path).shape[1::-1]


def test_whole_image_is_not_found(tmp_path: Path) -> None:
    assert check_image(image(tmp_path / "whole.jpg"), (64, 48)) == []
    ((found, *_),) = check_image(tmp_path / "whole.jpg", (48, 64))
    assert found == "size-differs"
    # An image that is turned has the size that it is shown with.
    ((found, *_),) = check_image(turned(tmp_path / "turned.jpg"), (48, 64))
    assert found == "exif-turned"


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
    (found,) = check_image(bad)
    assert (found.code, found.image) == (problem, str(bad))
    whole = problem == "truncated-image"  # what a header does not tell
    assert [one.code for one in check_image(bad, header_only=True)] == [problem] * (not whole)
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


@pytest.mark.train
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
    told = f"^{MOST_UNREADABLE} samples one after the other cannot be read.*mmhybrid check"
    with pytest.raises(UserError, match=told) as error:
        train(toy_config)
    assert "Traceback" not in str(error.value)


# --- boxes ----------------------------------------------------------------------------------------


def box(**changes: Any) -> dict[str, Any]:
    good = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    return good | dict(segmentation=[[5, 5, 25, 5, 25, 25]]) | changes


BOXES = {
    "empty-box": box(id=3, bbox=[5, 5, 0, 20]),
    "box-outside": box(id=3, bbox=[100, 5, 20, 20]),
    "box-cut": box(id=3, bbox=[50, 5, 40, 20]),
    "bad-box": box(id=3, bbox=[5, 5, float("nan"), 20]),
    "crowd-box": box(id=3, iscrowd=1, segmentation=dict(counts="", size=[48, 64])),
    "unknown-class": box(id=3, category_id=7),
    "unknown-image": box(id=3, image_id=9),
    "no-outline": box(id=3, segmentation=[]),
}
NOT_TRAINED = {"bad-box", "no-outline"}


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


def problems_of(dataset: ConfigDict) -> list[Finding]:
    """What is found wrong with a training set."""
    return [one for one in check({"train": dataset}) if one.code != "class-count"]


def found_in(dataset: ConfigDict) -> dict[str, int]:
    """The number of images that have each problem."""
    return {finding.code: len(finding.images) for finding in problems_of(dataset)}


def counts_in(dataset: ConfigDict, quick: bool = False) -> str:
    (count,) = [one for one in check({"train": dataset}, quick) if one.code == "class-count"]
    assert count.severity == "info"
    return count.message


@pytest.mark.train
@pytest.mark.parametrize("problem", BOXES)
def test_box_is_found_and_training_survives_it(problem: str, tmp_path: Path) -> None:
    dataset = coco(tmp_path, BOXES[problem])
    (found,) = problems_of(dataset)
    assert found.code == problem
    assert ": 1, such as annotation 3 of image" in found.message
    place = "boxes.json: annotation 3" if problem == "unknown-image" else "img/1.jpg"
    assert found.images == [f"{tmp_path}/{place}"]
    counted = 2 if problem in ("no-outline", "box-cut") else 1
    assert f": cat {counted}, dog 1" in counts_in(dataset)
    if problem in NOT_TRAINED:
        return
    dataset.pipeline[1].with_mask = False
    built = DATASETS.build(dataset)
    for sample in (load_or_replace(built, index) for index in (0, 1)):
        truth = sample["data_samples"].gt_instances
        assert len(truth) >= 1
        assert torch.isfinite(truth.bboxes.tensor).all()


def test_names_that_do_not_match_are_found_with_what_is_near(tmp_path: Path) -> None:
    lacking, more = problems_of(coco(tmp_path, names=("cat", "dogs")))
    assert (lacking.code, lacking.severity) == ("class-not-in-file", "error")
    assert (more.code, more.severity) == ("class-not-in-config", "warning")
    assert ": 1: 'dog' is not in" in lacking.message
    assert "it has 'dogs'" in lacking.message


def test_images_without_boxes_and_named_twice_are_found(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    expected = {"image-without-label": 1, "image-named-twice": 1, "class-without-image": 0}
    assert found_in(dataset) == expected  # of three


EMPTY = '{"images": [], "annotations": [], "categories": []}'
WITHOUT_A_NAME = EMPTY.replace("[]", '[{"id": 1}]', 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', WITHOUT_A_NAME, EMPTY])
def test_broken_annotation_file_is_found(content: str, tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    (tmp_path / "boxes.json").write_text(content)
    found = {one.code: one for one in problems_of(dataset)}
    if content != EMPTY:
        assert list(found) == ["bad-file"]
    one = found["no-images" if content == EMPTY else "bad-file"]
    assert one.images == [str(tmp_path / "boxes.json")]
    assert one.severity == "error"


def rewrite(tmp_path: Path, change: Any) -> dict[str, Any]:
    """Changes the annotations that :func:`coco` wrote."""
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


def to_all(part: str, **changes: Any) -> Any:
    """A change of all entries of a part; ``...`` takes a field out."""

    def change(content: dict) -> None:
        for row in content[part]:
            row.update(changes)
            for field in [field for field, value in changes.items() if value is ...]:
                del row[field]

    return change


def as_text(content: dict) -> None:
    for row in content["annotations"]:
        row.update(image_id=str(row["image_id"]), bbox=list(map(str, row["bbox"])), area="400")
    for row in content["images"]:
        row.update(width="64", height="48")


MENDED_CASES = {
    "without area": ("missing-field", to_all("annotations", area=...)),
    "without iscrowd": ("missing-field", to_all("annotations", iscrowd=...)),
    "without id": ("missing-field", to_all("annotations", id=...)),
    "id that is no number": ("missing-field", to_all("annotations", id="first")),
    "without a height": ("missing-field", to_all("images", height=...)),
    "width of null": ("missing-field", to_all("images", width=None)),
    "numbers as text": ("number-as-text", as_text),
    "the same id": ("repeated-id", to_all("annotations", id=7)),
    "id of 0": ("repeated-id", lambda content: content["annotations"][0].update(id=0)),
    "flat outline": ("flat-outline", to_all("annotations", segmentation=[5, 5, 25, 5, 25, 25])),
    "pairs": ("flat-outline", to_all("annotations", segmentation=[[5, 5], [25, 5], [25, 25]])),
    "list of pairs": (
        "flat-outline",
        to_all("annotations", segmentation=[[[5, 5], [25, 5], [25, 25]]]),
    ),
    "order": ("category-order", lambda content: content["categories"].reverse()),
}


@pytest.mark.parametrize("case", MENDED_CASES)
def test_annotations_are_mended_in_a_copy(case: str, tmp_path: Path) -> None:
    code, change = MENDED_CASES[case]
    dataset = coco(tmp_path)
    rewrite(tmp_path, change)
    (found,) = problems_of(dataset)
    assert (found.code, found.severity) == (code, "error")
    metric = dict(type="CocoMetric", ann_file=str(tmp_path / "boxes.json"))
    cfg = Config(dict(default_scope="mmdet", work_dir=str(tmp_path / "run"), val_evaluator=metric))
    cfg.val_dataloader = dict(dataset=dataset)
    mended = with_mended_annotations(cfg, ("val_dataloader",))
    assert mended.val_evaluator.ann_file == mended.val_dataloader.dataset.ann_file
    assert problems_of(mended.val_dataloader.dataset) == []
    built = DATASETS.build(mended.val_dataloader.dataset)
    assert [one["instances"][0]["bbox_label"] for one in map(built.get_data_info, (0, 1))] == [0, 1]
    truth = COCO(mended.val_evaluator.ann_file)
    rows = truth.loadAnns(truth.getAnnIds())
    same = [dict(one, score=0.9, segmentation=truth.annToRLE(one)) for one in rows]
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(deepcopy(same)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        assert evaluation.eval["precision"][:, :, :, 0, 2].min() == pytest.approx(1)


def test_byte_order_mark_is_told_and_left_out(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    file = tmp_path / "boxes.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (found,) = problems_of(dataset)
    assert (found.code, found.severity) == ("byte-order-mark", "warning")
    cfg = run_on(dataset, dataset)
    cfg.work_dir = str(tmp_path / "run")
    cfg = with_mended_annotations(cfg, ("train_dataloader",))
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 2


STOPPED = {
    "bad-entry": (to_all("annotations", category_id=...), r"annotations without category_id"),
    "bad-box": (to_all("annotations", bbox=[5, 5, 20]), r"bbox=\[5, 5, 20\]"),
    "bad-file": (to_all("images", file_name=...), r"images without file_name"),
    "class-named-twice": (
        lambda content: content["categories"].append(dict(id=3, name="cat")),
        r"two categories have.*'cat'",
    ),
    "no-images": (
        to_all("categories", name="car"),
        r"2 have no object of the classes \['cat', 'dog'\], where the file has \['car', 'car'\]",
    ),
    "no-objects": (to_all("annotations", area=0), "without an object to learn"),
    "bad-outline": (to_all("annotations", segmentation=[[5, 5, 25, 25]]), "no polygon of three"),
    "bad-outline of seven numbers": (
        to_all("annotations", segmentation=[[5, 5, 25, 5, 25, 25, 7]]),
        "no polygon of three",
    ),
    "bad-outline of none": (to_all("annotations", segmentation=[[]]), "no polygon of three"),
    "bad-outline of another size": (
        to_all("annotations", segmentation=dict(size=[64, 48], counts=[0, 64 * 48])),
        "no run lengths",
    ),
    "no-outline": (to_all("annotations", segmentation=...), "objects without a mask"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_what_cannot_be_mended_stops_a_run_before_it_starts(case: str, tmp_path: Path) -> None:
    change, told = STOPPED[case]
    code = case.split()[0]
    dataset = coco(tmp_path)
    dataset.filter_cfg = dict(filter_empty_gt=True)
    rewrite(tmp_path, change)
    assert code in [one.code for one in problems_of(dataset) if one.severity == "error"]
    cfg = run_on(dataset, dataset)
    cfg.work_dir = str(tmp_path / "run")
    loader = "train_dataloader" if code == "no-objects" else "val_dataloader"
    with pytest.raises(UserError, match=f"annotations would stop:\n.*{told}"):
        with_mended_annotations(cfg, (loader,))
    if code == "bad-outline":  # training leaves these objects out, and it is told how many
        with_mended_annotations(cfg, ("train_dataloader",))


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    dataset = coco(tmp_path, box(id=3, ignore=1), box(id=4, area=0))
    dataset.filter_cfg = dict(min_size=60)
    found = {one.code: one.message for one in problems_of(dataset)}
    assert set(found) == {"no-images", "image-left-out", "marked-ignore", "empty-box"}
    assert "min_size (left out): 2" in found["image-left-out"]
    assert "of 2 images none is left" in found["no-images"]


def test_classes_that_the_file_lacks_do_not_shift_the_others(tmp_path: Path) -> None:
    dataset = coco(tmp_path, names=("cat", "dog"))
    dataset.metainfo.classes = ("ant", "cat", "dog")
    cfg = run_on(dataset, dataset)
    cfg.work_dir = str(tmp_path / "run")
    cfg = with_mended_annotations(cfg, ("train_dataloader",))
    built = DATASETS.build(cfg.train_dataloader.dataset)
    assert [one["instances"][0]["bbox_label"] for one in map(built.get_data_info, (0, 1))] == [1, 2]


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
    "missing-mask": None,
    "mask-size": labels()[:40],
    "colour-mask": np.stack([labels()] * 3, 2),
    "unknown-value": np.where(np.arange(48)[:, None] == 40, 1, labels(7)),
}


@pytest.mark.parametrize("problem", MASKS)
def test_mask_is_found(problem: str, tmp_path: Path) -> None:
    assert found_in(masks(tmp_path, MASKS[problem])) == {problem: 1}
    if problem == "missing-mask":
        with pytest.raises(UserError, match=r"cannot be read.*0\.jpg.*FileNotFoundError"):
            load_or_replace(DATASETS.build(masks(tmp_path, None)), 0)
    assert found_in(masks(tmp_path, labels())) == {}


def test_mask_is_compared_with_the_image_as_it_is_read(tmp_path: Path) -> None:
    turned(tmp_path / "img" / "0.jpg")  # 64x48 pixels in the file, read as 48x64
    lying = masks(tmp_path, labels())
    turned(tmp_path / "img" / "0.jpg")
    assert "mask-size" in found_in(lying)
    standing = masks(tmp_path, labels().T)
    turned(tmp_path / "img" / "0.jpg")
    assert found_in(standing) == {"exif-turned": 1}
    standing.pipeline[0].color_type = "unchanged"  # which reads it as it is stored
    assert found_in(standing) == {"mask-size": 1}


def test_masks_of_0_and_255_never_show_the_second_class(tmp_path: Path) -> None:
    (found,) = problems_of(masks(tmp_path, labels(255)))
    assert (found.code, found.severity) == ("class-without-image", "error")
    assert "never occur: sky; 1 masks have pixels of the label 255, which is ig" in found.message


def test_labels_beyond_eight_bits_are_found(tmp_path: Path) -> None:
    dataset = masks(tmp_path, labels())
    deep = labels().astype(np.uint16)
    deep[-1] = 256  # which mmseg reads as 0
    Image.fromarray(deep).save(tmp_path / "ann" / "0.png")
    (found,) = problems_of(dataset)
    assert found.code == "unknown-value"
    assert "[256]" in found.message


@TRANSFORMS.register_module()
class LoadRaw(BaseTransform):
    """Reads images of a format of its own: twelve pixels, one byte each."""

    def transform(self, results: dict) -> dict:
        content = np.frombuffer(Path(results["img_path"]).read_bytes(), np.uint8)
        return results | dict(img=content.reshape(3, 4))


def test_the_loader_of_the_pipeline_decides_what_can_be_read(tmp_path: Path) -> None:
    dataset = folders(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(bytes(12))
    assert found_in(dataset) == {"unreadable-image": 4}
    dataset.pipeline[0] = dict(type="LoadRaw")
    assert found_in(dataset) == {}
    (tmp_path / "a" / "0.jpg").write_bytes(bytes(7))
    assert found_in(dataset) == {"unreadable-image": 1}


def test_a_mistake_in_a_loader_is_no_unreadable_image(tmp_path: Path, warnings) -> None:
    dataset = coco(tmp_path, box(id=3, segmentation=None))
    with pytest.raises(RuntimeError, match=r"LoadAnnotations fails at .*1.jpg \(KeyError: 'mask'"):
        load_or_replace(DATASETS.build(dataset), 0)
    assert warnings == []
    dataset = folders(tmp_path / "own")
    dataset.pipeline[0] = dict(type="LoadWrong")
    (found,) = problems_of(dataset)
    assert (found.code, len(found.images)) == ("failing-sample", 4)
    assert "LoadWrong: KeyError 'file'" in found.message


@TRANSFORMS.register_module()
class LoadWrong(BaseTransform):
    """Asks for what mmdet 2 called so."""

    def transform(self, results: dict) -> dict:
        return results["file"]


def panoptic(tmp_path: Path, segments: tuple[int, ...] = (1, 2)) -> ConfigDict:
    """One image with a person and a road, whose mask has these numbers of segments."""
    image(tmp_path / "img" / "1.jpg")
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:24, :, 0], colours[24:, :, 0] = segments
    (tmp_path / "ann").mkdir()
    Image.fromarray(colours).save(tmp_path / "ann" / "1.png")
    names = dict(person=1, road=0)
    content = dict(
        images=[dict(id=1, file_name="1.jpg", width=64, height=48)],
        annotations=[
            dict(
                image_id=1,
                file_name="1.png",
                segments_info=[
                    dict(id=i, category_id=i, area=1536, bbox=[0, 0, 64, 24], iscrowd=0)
                    for i in (1, 2)
                ],
            )
        ],
        categories=[dict(id=i, name=n, isthing=names[n]) for i, n in enumerate(names, 1)],
    )
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    init_default_scope("mmdet")
    return ConfigDict(
        type="CocoPanopticDataset",
        data_root=str(tmp_path),
        ann_file="panoptic.json",
        data_prefix=dict(img="img/", seg="ann/"),
        metainfo=dict(classes=("person", "road"), thing_classes=["person"], stuff_classes=["road"]),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadPanopticAnnotations")],
    )


def test_panoptic_data_are_checked(tmp_path: Path) -> None:
    assert problems_of(panoptic(tmp_path / "right")) == []
    assert "segments of each class: person 1, road 1" in counts_in(panoptic(tmp_path / "counted"))
    (found,) = problems_of(panoptic(tmp_path / "wrong", segments=(1, 9)))
    assert found.code == "unknown-value"
    assert "has segments [9] that are not annotated" in found.message
    dataset = panoptic(tmp_path / "few")
    dataset.metainfo.classes = ("ant", "person", "road")
    assert [one.code for one in problems_of(dataset)][-1] == "category-missing"


def test_data_sets_that_are_not_known_are_named(tmp_path: Path) -> None:
    class Captions(BaseDataset):
        def load_data_list(self) -> list[dict]:
            return [dict(img_path=str(tmp_path / "0.jpg"), caption="a cat")]

    class Words(Captions):
        def load_data_list(self) -> list[dict]:
            return [dict(text="a cat")]

    image(tmp_path / "0.jpg")
    for type_, code in ((Captions, "labels-not-checked"), (Words, "not-checked")):
        (found,) = problems_of(ConfigDict(type=type_))
        assert (found.code, found.severity) == (code, "info")
        assert type_.__name__ in found.message


def of_classes(tmp_path: Path, train: str, val: str, **changes: Any) -> Config:
    """Folders of classes, one a letter."""
    parts = {}
    for split, names in dict(train=train, val=val).items():
        for name in names:
            image(tmp_path / split / name / f"{split}.jpg", size=(64, 48 + len(split)))
        prefix = dict(data_root=str(tmp_path), data_prefix=split)
        parts[split] = ConfigDict(type="CustomDataset", pipeline=[], **prefix, **changes)
    init_default_scope("mmpretrain")
    return run_on(parts["train"], parts["val"])


def test_folder_that_validation_lacks_shifts_the_labels(tmp_path: Path) -> None:
    (found,) = [one for one in check(of_classes(tmp_path, "abc", "ac")) if one.severity == "error"]
    assert found.code == "classes-differ"
    assert "val: " in found.message
    assert "label 1 is ('c',) here and ('b',) in training" in found.message


def test_names_in_another_order_than_the_folders_are_found(tmp_path: Path) -> None:
    found = check(of_classes(tmp_path, "abc", "abc", metainfo=dict(classes=["c", "b", "a"])))
    told = [one.message for one in found if one.code == "classes-differ"]
    assert "the folders are ['a', 'b', 'c'], the classes ['c', 'b', 'a']" in told[0]


@pytest.mark.parametrize("line", ["a/0.jpg,0", "a/0.jpg\t0", "0 a/0.jpg", "a/0.jpg"])
def test_list_of_labels_that_cannot_be_read_is_told_in_a_sentence(line, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a/1.jpg 0\n{line}\n")
    dataset = folders(tmp_path, ann_file="list.txt", with_label=True)
    told = r"CustomDataset cannot be read: .*list.txt, line 2: .* is no name of a file, a blank and"
    with pytest.raises(UserError, match=told):
        check({"train": dataset})


def test_data_sets_are_built_before_training_starts(tmp_path: Path, toy_config) -> None:
    for name, told in (
        ("folders", r"CustomDataset cannot be read: .*Found 0 files in subfolders"),
        ("masks", r"BaseSegDataset has no image: nothing is found in its folders"),
    ):
        dataset = dict(folders=folders, masks=lambda path: masks(path, labels()))[name](tmp_path)
        for path in tmp_path.rglob("*.jpg"):
            path.unlink()
        toy_config.train_dataloader.dataset = dataset
        toy_config.default_scope = dict(folders="mmpretrain", masks="mmseg")[name]
        with pytest.raises(UserError, match=told):
            build_loops(build_runner(toy_config), ("train", "val"))


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
    out_of_range, without = problems_of(folders(tmp_path, **options))
    assert (out_of_range.code, out_of_range.severity) == ("class-out-of-range", "error")
    assert out_of_range.images == [str(tmp_path / "b" / "2.jpg")]
    assert (without.code, without.severity) == ("class-without-image", "error")
    assert without.message == "train: 1 of 2 classes never occur: b"


def test_images_that_are_not_files_are_no_missing_ones(tmp_path: Path) -> None:
    options = dict(data_root=str(tmp_path), download=False, pipeline=[dict(type="PackInputs")])
    dataset = ConfigDict(type="CIFAR10", split="test", **options)
    accept_drawn_cifar("CIFAR10")
    for split in ("test", "train"):
        rng = np.random.default_rng(0)
        draw_cifar(dict(dataset, split=split), list("0123456789"), tmp_path, 10, rng)
    init_default_scope("mmpretrain")
    assert problems_of(dataset) == []
    assert counts_in(dataset).endswith(
        ": airplane 1, automobile 1, bird 1, cat 1, deer 1, dog 1, frog 1, horse 1, ship 1, truck 1"
    )


def test_problems_are_all_tested() -> None:
    text = Path(__file__).read_text()
    assert [problem for problem in PROBLEMS if problem not in text] == []


def test_tool_lists_counts_and_examples(tmp_path: Path, run_tool, capsys) -> None:
    dataset = coco(tmp_path, BOXES["empty-box"], BOXES["crowd-box"] | dict(id=4))
    cut(tmp_path / "img" / "2.jpg", 0)
    cfg = Config(dict(default_scope="mmdet", model=dict(), train_dataloader=dict(dataset=dataset)))
    cfg.dump(tmp_path / "config.py")
    with pytest.raises(SystemExit) as end:
        run_tool("check_data.py", tmp_path / "config.py", "--json", tmp_path / "found.json")
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    told = "error: train: empty files (left out, and evaluation stops): 1"
    assert lines[0] == f"{told} ({tmp_path / 'img' / '2.jpg'})"
    assert [line.split(":")[0] for line in lines[1:-1]] == ["warning", "info", "info"]
    assert lines[1].startswith("warning: train: empty boxes (ignored): 1, such as annotation 3")
    assert "crowd boxes" in lines[2]
    assert lines[3] == "info: train: objects of each class: cat 1, dog 1"
    assert lines[-1] == "1 errors, 1 warnings"
    written = [Finding(**one) for one in json.loads((tmp_path / "found.json").read_text())]
    assert list(map(str, written)) == lines[:-1]


def test_tool_ends_well_where_nothing_is_wrong(tmp_path: Path, run_tool, capsys) -> None:
    loader = dict(dataset=coco(tmp_path))
    cfg = Config(dict(default_scope="mmdet", model=dict(), train_dataloader=loader))
    cfg.dump(tmp_path / "config.py")
    with pytest.raises(SystemExit) as end:
        run_tool("check_data.py", tmp_path / "config.py", "--quick")
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 errors, 0 warnings"


# --- before training ------------------------------------------------------------------------------


def run_on(train: ConfigDict, val: ConfigDict) -> Config:
    """A config with all that the check looks at."""
    scopes = dict(CocoDataset="mmdet", BaseSegDataset="mmseg", CustomDataset="mmpretrain")
    loaders = dict(train_dataloader=dict(dataset=train), val_dataloader=dict(dataset=val))
    return Config(dict(default_scope=scopes[train.type], **loaders))


def repaint(folder: Path) -> None:
    """Makes the images of a folder differ from those of all others."""
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        Image.new("RGB", (64, 48), (40 * number, 90, 200)).save(path)


def of_boxes(tmp_path: Path, *boxes: dict, change: Any = None) -> Config:
    train, val = coco(tmp_path / "train", *boxes), coco(tmp_path / "val")
    repaint(tmp_path / "val")
    if change:
        path = tmp_path / "train" / "boxes.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return run_on(train, val)


def of_masks(tmp_path: Path, value: int) -> Config:
    values = labels()
    values[30] = value
    train, val = masks(tmp_path / "train", values), masks(tmp_path / "val", labels())
    repaint(tmp_path / "val")
    return run_on(train, val)


def with_a_copy(tmp_path: Path) -> Config:
    cfg = of_boxes(tmp_path)
    image(tmp_path / "train" / "img" / "1.jpg").rename(tmp_path / "val" / "img" / "2.jpg")
    image(tmp_path / "train" / "img" / "1.jpg")
    return cfg


def without_a_class(content: dict) -> None:
    for one in content["annotations"]:
        one["category_id"] = 1


def without_labels(content: dict) -> None:
    content["annotations"] = [box(), box(id=2, category_id=2)]  # both in the first of two images


def of_folders(tmp_path: Path, empty: str) -> Config:
    train, val = folders(tmp_path / "train"), folders(tmp_path / "val")
    repaint(tmp_path / "val")
    for path in (tmp_path / "train" / empty).glob("*"):
        path.unlink()
    return run_on(train, val)


WASTED = {
    "class-without-image": lambda path: of_boxes(path, change=without_a_class),
    "class-without-image in a folder": lambda path: of_folders(path, "b"),
    "box-outside": lambda path: of_boxes(path, BOXES["box-outside"]),
    "duplicate-across-splits": with_a_copy,
    "unknown-value": lambda path: of_masks(path, 7),
    "mostly-unlabelled": lambda path: of_boxes(path, change=without_labels),
}


@pytest.mark.parametrize("waste", WASTED)
def test_what_would_waste_a_run_stops_it(waste: str, tmp_path: Path) -> None:
    cfg, code = WASTED[waste](tmp_path), waste.split()[0]
    with pytest.raises(UserError, match=f"--ignore {code}$") as told:
        check_before_training(cfg)
    (error,) = [one for one in check(cfg, quick=True) if one.severity == "error"]
    assert error.code == code
    assert f"  {error}" in str(told.value)
    assert code not in [one.code for one in check_before_training(cfg, ignore=[code])]
    assert code in [one.code for one in check(cfg)]  # the whole check finds it, too


@pytest.mark.parametrize("make", [of_boxes, lambda path: of_masks(path, 1)])
def test_good_data_do_not_stop_a_run(make, tmp_path: Path) -> None:
    found = check_before_training(make(tmp_path))
    assert [one.code for one in found] == ["class-count"] * 2


def test_the_same_data_for_training_and_validation_stop_a_run(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    repaint(tmp_path)
    with pytest.raises(UserError, match="val: 2 of 2 images are training images"):
        check_before_training(run_on(dataset, dataset))


def test_images_that_begin_alike_are_not_the_same(tmp_path: Path) -> None:
    cfg = of_boxes(tmp_path)
    content = image(tmp_path / "train" / "img" / "1.jpg").read_bytes() + bytes(5000)
    (tmp_path / "train" / "img" / "1.jpg").write_bytes(content)
    (tmp_path / "val" / "img" / "1.jpg").write_bytes(content[:-1] + b"1")
    assert [one.code for one in check(cfg)] == ["class-count"] * 2


def test_a_few_missing_images_stop_no_training(tmp_path: Path) -> None:
    cfg = of_boxes(tmp_path)
    (tmp_path / "train" / "img" / "1.jpg").unlink()
    (found, *_) = check_before_training(cfg)
    assert (found.code, found.severity) == ("missing-image", "warning")
    (found, *_) = check(cfg)
    assert (found.code, found.severity) == ("missing-image", "error")
    (tmp_path / "val" / "img" / "1.jpg").unlink()
    with pytest.raises(UserError, match="val: missing images"):
        check_before_training(cfg)


def test_a_few_classes_that_only_the_evaluation_has_stop_no_training(tmp_path: Path) -> None:
    names = tuple(map(str, range(12)))
    every = [box(id=10 + i, category_id=i) for i in range(1, 13)]
    train, val = (
        coco(tmp_path / part, *boxes, names=names)
        for part, boxes in (("train", every[:-1]), ("val", every))
    )
    repaint(tmp_path / "val")
    for dataset in (train, val):
        dataset.metainfo.classes = names
    (found,) = [one for one in check(run_on(train, val)) if one.severity != "info"]
    assert (found.code, found.severity) == ("class-without-image", "warning")
    assert found.message == "train: 1 of 12 classes never occur: 11"
    (error,) = problems_of(train)  # it is nowhere
    assert (error.code, error.severity) == ("class-without-image", "error")


def test_labels_are_counted_as_training_sees_them(tmp_path: Path) -> None:
    dataset = masks(tmp_path, labels())  # 0, 1 and 255
    assert counts_in(dataset).endswith("masks of each class: ground 1, sky 1")
    without_zero = ConfigDict(dataset, reduce_zero_label=True)
    assert counts_in(without_zero).endswith("masks of each class: ground 1")
    assert found_in(without_zero) == {"class-without-image": 0}


@pytest.mark.parametrize("reduce_zero_label", [False, True])
def test_labels_are_mapped_as_training_maps_them(reduce_zero_label: bool, tmp_path: Path) -> None:
    class Named(DATASETS.get("mmseg.BaseSegDataset")):
        METAINFO: ClassVar[dict] = dict(classes=("ground", "sky", "sea"))

    changes = dict(type=Named, metainfo=dict(classes=("sea", "ground")))
    changes["reduce_zero_label"] = reduce_zero_label
    dataset = ConfigDict(masks(tmp_path, labels(2)), **changes)  # 0, 2 and 255
    trained = load_or_replace(DATASETS.build(dataset), 0)["data_samples"].gt_sem_seg.data
    # Without zero, 2 is sky, which the config leaves out.
    expected = [] if reduce_zero_label else ["sea 1", "ground 1"]
    assert len(trained.unique()) - 1 == len(expected)
    assert counts_in(dataset).endswith(": " + (", ".join(expected) or "none"))


def test_quick_check_reads_a_sample_of_the_masks(tmp_path: Path, monkeypatch) -> None:
    dataset = masks(tmp_path, labels())
    for number in range(1, 6):
        image(tmp_path / "img" / f"{number}.jpg")
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "ann" / f"{number}.png")
    monkeypatch.setattr("mmhybrid.datasets.check_data.QUICK_MASKS", 3)
    told = counts_in(dataset, quick=True)
    assert "in the 3 masks that were read, of 6: ground 3" in told
    assert counts_in(dataset, quick=True) == told
    assert counts_in(dataset).endswith("each class: ground 6, sky 1")


# --- contact sheet --------------------------------------------------------------------------------


def shown_on(path: Path) -> np.ndarray:
    sheet = np.array(Image.open(path))
    assert max(sheet.shape) <= 1600
    return sheet


def test_contact_sheet_shows_boxes_and_masks(tmp_path: Path) -> None:
    dataset = coco(tmp_path, names=("cat", "dog"))
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / "img" / name)
    dataset.metainfo.palette = [(250, 0, 0), (0, 0, 250)]
    sheet = shown_on(draw_contact_sheet(dataset, tmp_path / "out" / "sheet.png"))
    for colour in dataset.metainfo.palette:
        assert (sheet == colour).all(-1).sum() > 500  # boxes and names
        blended = np.abs(sheet.astype(int) - 0.45 * np.array(colour)).max(-1) < 3
        assert blended.sum() > 3000  # the triangles of 20 x 20 pixels, enlarged six times


def test_contact_sheet_shows_labels_as_trained(tmp_path: Path) -> None:
    dataset = masks(tmp_path, labels(2))  # without zero, 2 is sky
    Image.new("RGB", (64, 48)).save(tmp_path / "img" / "0.jpg")
    dataset.reduce_zero_label = True
    dataset.metainfo.palette = [(250, 0, 0), (0, 0, 250)]
    sheet = shown_on(draw_contact_sheet(dataset, tmp_path / "sheet.png")).astype(int)
    red, blue = (
        np.abs(sheet - 0.55 * np.array(one)).max(-1) < 3 for one in dataset.metainfo.palette
    )
    assert red.sum() == 0
    assert 0.8 < blue.sum() / (392 * 294 * 10 / 48) < 1.02  # ten rows of 48, but for the name


def test_contact_sheet_of_classes(tmp_path: Path) -> None:
    dataset = DATASETS.build(folders(tmp_path))
    repaint(tmp_path)
    cut(tmp_path / "a" / "0.jpg", 0)
    sheets = [
        shown_on(draw_contact_sheet(dataset, tmp_path / f"{most}.png", most)) for most in (2, 16)
    ]
    # Three images can be read; in order, so that colours are not swapped: BGR is read as RGB.
    assert sheets[0].shape[1] < sheets[1].shape[1]
    assert (np.abs(sheets[1].astype(int) - (120, 90, 200)).max(-1) < 4).sum() > 50_000
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match="no image of the data set can be read"):
        draw_contact_sheet(dataset, tmp_path / "none.png")
