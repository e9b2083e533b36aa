"""One's own images in the usual formats: what is read, written, split and found wrong."""

import base64
import functools
import io
import json
import os
import re
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import mmhybrid  # noqa: F401
from mmhybrid.datasets.findings import is_many
from mmhybrid.datasets.folders import (
    ImageRecord,
    TaskError,
    describe,
    read_folder,
    read_prepared,
    write_dataset,
)
from mmhybrid.datasets.folders.class_table import ClassRow, read_class_names, read_class_table
from mmhybrid.datasets.folders.coco import read_coco
from mmhybrid.datasets.folders.listing import Listing, split_of
from mmhybrid.datasets.folders.masks import read_masks
from mmhybrid.datasets.folders.problems import PROBLEMS, Notes
from mmhybrid.datasets.folders.records import FolderData
from mmhybrid.datasets.folders.splitting import split_off
from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.errors import ArgumentError, UserError

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "make_data_folders.py")))

OWN_SPLIT = {
    *("coco_one_file", "coco_cvat", "yolo_plain", "yolo_cvat", "labelme", "labelme_embedded"),
    *("masks_binary", "class_folders", "table_plain"),
}
WITH_OUTLINES = ("coco", "labelme", "yolo_outlines")


def well_formed(writers: tuple) -> list[str]:
    return [one.__name__ for one in writers if not one.__name__.endswith("_faulty")]


@pytest.fixture(params=["drawn", "real"])
def source(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def real(what: str, shared: Path) -> list:
    return getattr(make, f"real_{what}")(shared)


@pytest.fixture
def samples(source: str, request: pytest.FixtureRequest) -> Callable[[str], list]:
    """Makes the images of a task."""

    def get(what: str) -> list:
        if source == "drawn":
            return make.drawn()
        return real(what, request.getfixturevalue("shared"))

    return get


def written(name: str, samples: list, folder: Path) -> Path:
    make.WRITERS[name](folder, samples)
    return folder


def flat(points: list) -> list[float]:
    return [value for point in points for value in point]


def records_of(data: FolderData) -> dict[str, object]:
    """By the name of the file, without folders."""
    return {Path(one.name).stem: one for part in data.splits.values() for one in part}


def codes(data: FolderData) -> Counter:
    return Counter({one.code: len(one.images) for one in data.findings})


def dataset(prepared: PreparedData, split: str, pipeline: list) -> object:
    """What the docstring of PreparedData says a config needs."""
    metainfo = dict(classes=prepared.classes, palette=prepared.palette)
    common = dict(ann_file=prepared.ann_files[split], metainfo=metainfo, pipeline=pipeline)
    common |= dict(serialize_data=False)  # which takes a second
    if prepared.task == "segmentation":
        init_default_scope("mmseg")
        folders = dict(img_path=prepared.image_root, seg_map_path=prepared.mask_root)
        suffixes = dict(img_suffix="", seg_map_suffix=".png")
        type_ = dict(type="mmseg.BaseSegDataset", data_prefix=folders, **suffixes)
    elif prepared.task == "classification":
        init_default_scope("mmpretrain")
        type_ = dict(type="mmpretrain.CustomDataset", data_root=prepared.image_root)
        type_ |= dict(data_prefix="", with_label=True)
    else:
        init_default_scope("mmdet")
        type_ = dict(type="mmdet.CocoDataset", data_root=prepared.image_root)
        type_ |= dict(data_prefix=dict(img=""))
    return DATASETS.build(type_ | common)


def test_samples_are_what_the_other_tests_take_them_for(samples: Callable) -> None:
    for what in ("objects", "masks", "labels"):
        made = samples(what)
        assert len(made) == 20, what
        assert len({one.split for one in made}) == 2
    assert len(make.names_of(samples("objects"))) >= 3


@pytest.mark.parametrize("name", well_formed(make.OBJECTS))
def test_objects_are_read_and_written_as_they_were_made(
    name: str, samples: Callable, tmp_path: Path
) -> None:
    made = samples("objects")
    has_outlines = name.startswith(WITH_OUTLINES) and name != "coco_boxes"
    task = "instances" if has_outlines else "detection"
    data = read_folder(written(name, made, tmp_path / "data"), task)
    assert not [one for one in data.findings if one.severity != "info"]
    assert sorted(data.classes) == make.names_of(made)
    assert data.own_split == (name in OWN_SPLIT)
    found, crowds = records_of(data), name.startswith("coco")
    assert found.keys() == {Path(one.name).stem for one in made}
    for sample in made:
        record = found[Path(sample.name).stem]
        assert (record.width, record.height) == sample.image.size
        things = [one for one in sample.things if crowds or not one.crowd]
        assert [one.name for one in record.instances] == [one.name for one in things]
        for instance, thing in zip(record.instances, things, strict=True):
            assert instance.box == pytest.approx(thing.box, abs=0.02)
            assert instance.crowd == bool(thing.crowd)
            if (
                has_outlines
                and not thing.crowd
                and not (
                    name.startswith("labelme") and instance.segmentation != [flat(thing.outline)]
                )
            ):
                expected = pytest.approx(flat(thing.outline), abs=0.02)
                assert instance.segmentation[0] == expected
    if not data.own_split:
        for split, part in data.splits.items():
            own = {Path(one.name).stem for one in made if one.split == split}
            assert {Path(one.name).stem for one in part} == own
    prepared = write_dataset(data, tmp_path / "work")
    steps = [
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=has_outlines),
    ]
    for split in ("train", "val", "test"):
        loaded = dataset(prepared, split, steps)
        part = data.splits["val" if split == "test" else split]
        assert len(loaded) == len(part)
        for index, record in enumerate(part):
            result = loaded[index]
            assert result["ori_shape"] == (record.height, record.width)
            boxes = result["gt_bboxes"].numpy()
            boxes[:, 2:] -= boxes[:, :2]
            assert boxes == pytest.approx(np.array([one.box for one in record.instances]), abs=1e-3)
            labels = [data.classes.index(one.name) for one in record.instances]
            assert result["gt_bboxes_labels"].tolist() == labels
            if has_outlines:
                assert len(result["gt_masks"].masks) == len(record.instances)


@pytest.mark.parametrize("name", ["coco_splits", "labelme", "yolo_outlines"])
def test_pycocotools_gives_the_truth_full_marks(
    name: str, samples: Callable, tmp_path: Path
) -> None:
    data = read_folder(written(name, samples("objects"), tmp_path / "data"), "instances")
    truth = COCO(write_dataset(data, tmp_path / "work").ann_files["train"])
    assert all("supercategory" in one for one in truth.cats.values())  # mmdet's analysis needs it
    found = [dict(one, score=1.0) for one in truth.dataset["annotations"] if not one["iscrowd"]]
    for type_ in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(found), type_)
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]
        assert precision[precision >= 0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", well_formed(make.MASKS))
def test_masks_are_read_and_written_as_they_were_made(
    name: str, samples: Callable, source: str, tmp_path: Path
) -> None:
    made = samples("masks")
    data = read_folder(written(name, made, tmp_path / "data"), "segmentation")
    names = make.named(made)
    # Of the drawn images 9 parts in 10 are the ground, of CamVid's 1 in 20 is not labelled.
    ground = {
        "masks_zero_unnamed": [] if source == "real" else ["background"],
        "masks_colour": [],  # called Void there
        "masks_binary": ["background"],
    }.get(name, ["background"])
    if name == "masks_binary":
        names = ["foreground"]
    assert data.classes == (*ground, *names)
    assert {one.code for one in data.findings if one.severity != "info"} <= {
        "no-names",
        "zero-unnamed",
    }
    assert data.own_split == (name in OWN_SPLIT)
    if name in ("masks_palette", "masks_colour"):
        assert data.palette == [make.COLOURS[i + (not ground)] for i in range(len(data.classes))]
    prepared = write_dataset(data, tmp_path / "work")
    truth = {Path(one.name).stem: one for one in made}
    steps = [dict(type="LoadImageFromFile"), dict(type="mmseg.LoadAnnotations")]
    number = 0
    for split in data.splits:
        loaded = dataset(prepared, split, steps)
        for index in range(len(loaded)):
            number += 1
            result = loaded[index]
            sample = truth[Path(result["img_path"]).stem]
            values = (sample.mask > 0).astype(np.uint8) if name == "masks_binary" else sample.mask
            expected = values if ground else np.where(values == 0, 255, values - 1)
            assert (result["gt_seg_map"] == expected).all()
            assert result["img"].shape[:2] == expected.shape
            assert data.own_split or sample.split == split
    assert number == 20


@pytest.mark.parametrize("name", well_formed(make.LABELS))
def test_labels_are_read_and_written_as_they_were_made(
    name: str, samples: Callable, tmp_path: Path
) -> None:
    made = samples("labels")
    data = read_folder(written(name, made, tmp_path / "data"), "classification")
    assert data.classes == tuple(sorted({one.label for one in made}))
    assert not [one for one in data.findings if one.severity != "info"]
    assert data.own_split == (name in OWN_SPLIT)
    prepared = write_dataset(data, tmp_path / "work")
    truth = {Path(one.name).stem: one for one in made}
    seen = 0
    for split in data.splits:
        loaded = dataset(prepared, split, [dict(type="LoadImageFromFile")])
        seen += len(loaded)
        for index in range(len(loaded)):
            result = loaded[index]
            sample = truth[Path(result["img_path"]).stem]
            assert data.classes[result["gt_label"]] == sample.label
            assert result["ori_shape"] == sample.image.size[::-1]
            assert data.own_split or sample.split == split
    assert seen == 20


# What each faulty folder has, by code and number of places; and images and objects that stay.
FAULTS = {
    "coco_faulty": (
        {
            **dict.fromkeys(("missing-image", "unreadable-image", "size-differs"), 1),
            **dict.fromkeys(("bad-box", "empty-box", "box-outside", "box-cut", "no-outline"), 1),
            **dict.fromkeys(("unknown-class", "unknown-image", "class-without-image"), 1),
            "windows-text": 1,
        },
        (19, 1),
    ),
    "yolo_faulty": (
        {
            **dict.fromkeys(("image-without-label-file", "image-without-object"), 1),
            **dict.fromkeys(("label-without-image", "unknown-class", "box-cut", "box-outside"), 1),
            **dict.fromkeys(("odd-name", "mixed-case", "duplicate-across-splits"), 1),
            **{"bad-line": 2, "windows-text": None},
        },
        (21, 1),
    ),
    "voc_faulty": (
        {"bad-file": 2, "image-without-label": 2, "label-without-image": 1, "empty-box": 1},
        (18, 0),
    ),
    "labelme_faulty": (
        {"bad-file": 1, "image-without-label": 2, "dropped-shape": 3, "bad-line": 1},
        (18, 1),
    ),
    "masks_faulty": (
        {
            **dict.fromkeys(("unknown-value", "mask-size", "label-without-image"), 1),
            "image-without-label": 1,
        },
        (18, 0),
    ),
    "class_folders_faulty": (
        dict.fromkeys(("class-without-image", "image-without-class", "unreadable-image"), 1),
        (19, 0),
    ),
    "table_faulty": ({"missing-image": 1, "bad-line": 2, "windows-text": 1}, (20, 0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_and_the_rest_is_read(name: str, samples: Callable, tmp_path: Path) -> None:
    expected, (images, more) = FAULTS[name]
    what = "masks" if "masks" in name else "labels" if name.startswith(("cl", "ta")) else "objects"
    task = dict(masks="segmentation", labels="classification", objects="detection")[what]
    task = "instances" if name.startswith(("coco", "labelme")) else task
    made = samples(what)
    data = read_folder(written(name, made, tmp_path / "data"), task)
    found = codes(data)
    for code, number in expected.items():
        assert found[code] == number if number else found[code], code
    # What stays is said; classes may be gone with the image that alone had them.
    assert found.keys() - expected.keys() <= {"class-without-image", "class-not-in-train"}
    assert [one for one in data.findings if one.severity == "error"] == []
    assert sum(map(len, data.splits.values())) == images
    prepared = write_dataset(data, tmp_path / "work")
    for split in data.splits:
        assert len(dataset(prepared, split, [])) == len(data.splits[split])
    if what == "objects":
        kept = sum(len(one.instances) for part in data.splits.values() for one in part)
        stems = {Path(one.name).stem for part in data.splits.values() for one in part}
        crowds = name.startswith("coco")
        of_made = [
            thing
            for one in made
            if Path(one.name).stem in stems
            for thing in one.things
            if crowds or not thing.crowd
        ]
        if name != "yolo_faulty":  # one file is renamed, one deleted, one copied
            assert kept == len(of_made) + more
    assert all(str(one) for one in data.findings)
    assert json.dumps([vars(one) for one in data.findings])


def test_a_few_faults_warn_and_many_stop(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("yolo_folders", made, tmp_path / "data")
    for path in sorted((folder / "images" / "train").iterdir())[:4]:
        path.write_bytes(b"cut")
    finding = next(one for one in read_folder(folder, "detection").findings)
    assert (finding.code, finding.severity, len(finding.images)) == ("unreadable-image", "error", 4)
    assert [is_many(*pair) for pair in ((3, 4), (4, 40), (4, 39), (11, 100))] == [
        False,
        False,
        True,
        True,
    ]


def test_half_of_the_images_without_an_object_stop(tmp_path: Path) -> None:
    folder = written("yolo_folders", make.drawn(), tmp_path / "data")
    for path in sorted(folder.glob("labels/train/*"))[:11]:
        path.unlink()
    assert "half-unlabelled" in {
        one.code for one in read_folder(folder, "detection").findings if one.severity == "error"
    }


def test_a_class_that_only_validation_has_stops(tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        one.label = "late" if one.split == "val" and one.label == "disc" else one.label
    folder = written("class_folders_split", made, tmp_path / "data")
    finding = read_folder(folder, "classification").findings[0]
    assert (finding.code, finding.severity) == ("class-not-in-train", "error")
    assert finding.images == ["late"]


# ---- splits


def test_a_split_of_ours_is_the_same_each_time_and_has_all_classes(tmp_path: Path) -> None:
    made = make.drawn(count=60)
    folder = written("labelme", made, tmp_path / "data")
    names = [
        {one.name for one in read_folder(folder, "detection", seed=seed).splits["val"]}
        for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]
    data = read_folder(folder, "detection")
    assert len(data.splits["val"]) == 12
    for name in data.classes:
        shown = {split: sum(name in {i.name for i in r.instances} for r in part)
                 for split, part in data.splits.items()}  # fmt: skip
        assert shown["val"] == pytest.approx(0.2 * sum(shown.values()), abs=2), name


def test_a_class_folder_split_takes_of_each_class_alike(tmp_path: Path) -> None:
    made = make.drawn(count=50)
    data = read_folder(written("class_folders", made, tmp_path / "data"), "classification")
    in_val = Counter(one.label for one in data.splits["val"])
    for name, total in Counter(one.label for one in made).items():
        assert abs(in_val[name] - 0.2 * total) <= 1


def test_same_images_and_variants_of_one_stay_together(tmp_path: Path) -> None:
    made = make.drawn(count=20)
    folder = written("class_folders", made, tmp_path / "data")
    paths = sorted(folder.rglob("*.jpg"))
    for path in paths:
        shutil.copy(path, path.with_name(f"again_{path.name}"))
        path.rename(path.with_name(f"{path.stem}_jpg.rf.1a2b.jpg"))
        Image.open(path.with_name(f"again_{path.name}")).rotate(90).save(
            path.with_name(f"{path.stem}_jpg.rf.3c4d.jpg")
        )
    data = read_folder(folder, "classification")
    assert not codes(data)["duplicate-across-splits"]
    side = {one.name.split("/")[-1]: split for split, part in data.splits.items() for one in part}
    for path in paths:
        names = (
            f"again_{path.name}",
            f"{path.stem}_jpg.rf.1a2b.jpg",
            f"{path.stem}_jpg.rf.3c4d.jpg",
        )
        assert len({side[name] for name in names}) == 1


def test_a_class_with_one_image_is_trained_on() -> None:
    records = [
        ImageRecord(
            f"{i}.jpg", Path(__file__), label="rare" if i == 0 else "usual", embedded_in=Path()
        )
        for i in range(10)
    ]
    for seed in range(20):
        train, val = split_off(records, seed=seed)
        assert len(val) == 2
        assert "rare" in {one.label for one in train}
        assert sorted(one.name for one in train + val) == sorted(one.name for one in records)


def test_two_images_of_two_classes_are_split(tmp_path: Path) -> None:
    folder = written("class_folders", make.drawn(count=2), tmp_path)
    data = read_folder(folder, "classification")
    assert [len(part) for part in data.splits.values()] == [1, 1]
    assert codes(data) == {"class-not-in-train": 1}


def test_the_split_of_a_work_folder_stays(tmp_path: Path) -> None:
    made = make.drawn(count=30)
    folder = written("class_folders", made[:20], tmp_path / "data")
    first = write_dataset(read_folder(folder, "classification"), tmp_path / "work")
    before = {split: Path(first.ann_files[split]).read_text() for split in ("train", "val")}
    again = write_dataset(read_folder(folder, "classification", seed=7), tmp_path / "work")
    assert {split: Path(again.ann_files[split]).read_text() for split in before} == before
    assert again == first == read_prepared(tmp_path / "work")
    written("class_folders", made[20:], folder)
    next(folder.rglob("image_00.jpg")).unlink()
    data = read_folder(folder, "classification")
    more = write_dataset(data, tmp_path / "work")
    assert codes(data)["new-image"] == 10
    assert codes(data)["gone-image"] == 1
    kept = set(Path(more.ann_files["val"]).read_text().splitlines())
    assert kept == set(before["val"].splitlines()) - {"disc/image_00.jpg 0"}
    shutil.rmtree(folder / "disc")
    with pytest.raises(UserError, match=r"prepared for the classes .*'disc'"):
        write_dataset(read_folder(folder, "classification"), tmp_path / "work")


def test_another_folder_is_not_mixed_with_what_is_there(tmp_path: Path) -> None:
    made = make.drawn()
    first = written("class_folders", made, tmp_path / "one")
    write_dataset(read_folder(first, "classification"), tmp_path / "work")
    for one in made:
        one.name = f"other_{one.name}"
    second = written("class_folders", made, tmp_path / "two")
    with pytest.raises(UserError, match="prepared from other images"):
        write_dataset(read_folder(second, "classification"), tmp_path / "work")


def test_images_may_move(tmp_path: Path) -> None:
    folder = written("coco_one_file", make.drawn(), tmp_path / "data")
    prepared = write_dataset(read_folder(folder, "detection"), tmp_path / "work")
    folder.rename(tmp_path / "moved")
    prepared.image_root = str(tmp_path / "moved")
    loaded = dataset(prepared, "train", [dict(type="LoadImageFromFile")])
    assert loaded[0]["img"].ndim == 3


# ---- outlines as masks, and what does not fit


@pytest.mark.parametrize("name", ["coco_splits", "labelme", "yolo_outlines"])
def test_outlines_are_drawn_into_masks(name: str, samples: Callable, tmp_path: Path) -> None:
    made = samples("objects")
    data = read_folder(written(name, made, tmp_path / "data"), "segmentation")
    assert data.classes == ("background", *make.names_of(made))
    prepared = write_dataset(data, tmp_path / "work")
    truth = {Path(one.name).stem: one for one in made}
    for split in data.splits:
        loaded = dataset(prepared, split, [dict(type="mmseg.LoadAnnotations")])
        for index in range(len(loaded)):
            info = loaded[index]
            sample = truth[Path(info["img_path"]).stem]
            width, height = sample.image.size
            covered = np.zeros((height, width), bool)
            for thing in sample.things:
                if not thing.crowd:
                    outline = [flat(thing.outline)]
                    rle = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
                    covered |= coco_mask.decode(rle) > 0
            is_ground = info["gt_seg_map"] == 0
            if name != "labelme" and not any(thing.crowd for thing in sample.things):
                assert (is_ground == covered).mean() < 0.01  # YOLO rounds
            shown = set(np.unique(info["gt_seg_map"]).tolist()) - {0}
            assert shown <= {data.classes.index(thing.name) for thing in sample.things}
            assert shown


@pytest.mark.parametrize(
    ("name", "task", "offers", "words"),
    [
        ("coco_boxes", "instances", ("detection",), "boxes but no outlines"),
        ("yolo_folders", "segmentation", ("detection",), "boxes but no outlines"),
        ("voc", "instances", ("detection",), "boxes but no outlines"),
        ("masks_index", "detection", ("segmentation",), "images and masks of class numbers"),
        ("masks_index", "classification", ("segmentation",), "a folder a class"),
        ("class_folders", "detection", ("classification",), "COCO JSON, YOLO"),
        ("coco_splits", "classification", ("detection", "instances", "segmentation"), "COCO JSON"),
        ("yolo_lists", "classification", ("detection",), "holds YOLO, data.yaml"),
    ],
)
def test_labels_of_another_task_are_named(
    name: str, task: str, offers: tuple, words: str, tmp_path: Path
) -> None:
    folder = written(name, make.drawn(), tmp_path / "data")
    with pytest.raises(TaskError, match=words) as error:
        read_folder(folder, task)
    assert error.value.offers == offers


def test_folders_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(tmp_path / "nowhere", "detection")
    with pytest.raises(UserError, match="has no images"):
        read_folder(tmp_path, "detection")
    with pytest.raises(ArgumentError, match="task must be one of"):
        read_folder(tmp_path, "keypoints")
    make.save(make.drawn(count=1)[0], tmp_path / "a.jpg")
    with pytest.raises(TaskError, match=r"\(1 \.jpg\) holds nothing that is recognised") as error:
        read_folder(tmp_path, "detection")
    assert error.value.offers == ()


# ---- odd and hostile folders


def test_images_that_exif_turns_have_the_size_that_mmcv_gives_them(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("coco_one_file", made, tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "images" / made[1].name
    Image.open(path).save(path, exif=exif)
    data = read_folder(folder, "detection")
    assert codes(data) == {"exif-turned": 1, "size-differs": 1}
    prepared = write_dataset(data, tmp_path / "work")
    for split in data.splits:
        loaded = dataset(prepared, split, [dict(type="LoadImageFromFile")])
        for index, record in enumerate(data.splits[split]):
            assert loaded[index]["ori_shape"] == (record.height, record.width)


def test_names_that_are_hard_to_list(tmp_path: Path) -> None:
    made = make.drawn()
    for one, name in zip(made, (" first.jpg", "a b  c.jpg", "ü 🙂.JPG", "x 7.jpg"), strict=False):
        one.name = name
    (tmp_path / "data").mkdir()
    for one in made:  # beside each other, so that a line begins with a space
        make.save(one, tmp_path / "data" / one.name)
    rows = "".join(f'"{one.name}","{one.label}"\n' for one in made)
    make.write(tmp_path / "data" / "labels.csv", rows)
    (tmp_path / "data" / "bad\nname.jpg").write_bytes(b"")
    data = read_folder(tmp_path / "data", "classification")
    assert codes(data)["bad-name"] == 1
    prepared = write_dataset(data, tmp_path / "work")
    number = 0
    for split in data.splits:
        loaded = dataset(prepared, split, [dict(type="LoadImageFromFile")])
        number += sum(loaded[index]["img"].ndim == 3 for index in range(len(loaded)))
    assert number >= 19  # csv strips the space of one


def test_nothing_outside_of_the_folder_is_read_or_written(tmp_path: Path) -> None:
    folder = written("coco_one_file", make.drawn(), tmp_path / "data")
    secret = make.save(make.drawn(count=1)[0], tmp_path / "secret.jpg")
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../secret.jpg"
    content["images"][1]["file_name"] = str(secret)
    path.write_text(json.dumps(content))
    before = set(tmp_path.rglob("*"))
    data = read_folder(folder, "segmentation")
    assert codes(data)["missing-image"] == 2
    write_dataset(data, tmp_path / "work")
    after = set(tmp_path.rglob("*")) - before
    assert all((tmp_path / "work") in (one, *one.parents) for one in after)


def test_yaml_makes_no_object_and_a_bad_one_is_named(tmp_path: Path) -> None:
    folder = written("yolo_folders", make.drawn(), tmp_path / "data")
    hit = tmp_path / "hit"
    (folder / "data.yaml").write_text(f"names: !!python/object/apply:os.mkdir ['{hit}']\n")
    with pytest.raises(UserError, match=r"data\.yaml.*could not determine a constructor"):
        read_folder(folder, "detection")
    assert not hit.exists()
    (folder / "data.yaml").write_text("names: 7\ntrain: images/train\nval: [images/val\n")
    with pytest.raises(UserError, match=r"data\.yaml.*line 4"):
        read_folder(folder, "detection")


def test_a_broken_annotation_file_is_named_with_its_place(tmp_path: Path) -> None:
    folder = written("coco_splits", make.drawn(), tmp_path / "data")
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"instances_val2017\.json: .*line 1 column \d+"):
        read_folder(folder, "detection")
    path.unlink()
    path.with_name("instances_train2017.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"nothing that is recognised .*train2017\.json: .*line 1"):
        read_folder(folder, "detection")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_junk_in_an_annotation_file_ends_in_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "data"
    name = data.draw(st.sampled_from(["coco_one_file", "labelme"]))
    if not (folder / name).exists():
        written(name, make.drawn(count=4), folder / name)
        for path in (folder / name).glob("*.json"):
            path.rename(path.with_suffix(".json_"))
    for path in (folder / name).glob("*.json_"):
        content = json.loads(path.read_text())
        for _ in range(data.draw(st.integers(0, 3))):
            place = content
            for _ in range(data.draw(st.integers(0, 4))):
                inner = list(place.values() if isinstance(place, dict) else place)
                inner = [one for one in inner if isinstance(one, dict | list) and one]
                place = data.draw(st.sampled_from(inner)) if inner else place
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            place[data.draw(st.sampled_from(keys))] = data.draw(junk)
        path.with_suffix(".json").write_text(json.dumps(content))
    try:
        found = read_folder(folder / name, "instances")
        write_dataset(found, tmp_path / "work")
    except UserError:  # and nothing else
        pass
    shutil.rmtree(tmp_path / "work", ignore_errors=True)


# ---- small parts


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cat\ntraffic light\n", [ClassRow("cat"), ClassRow("traffic light")]),
        ("0 cat\n1: traffic light", [ClassRow("cat", 0), ClassRow("traffic light", 1)]),
        ("Pixel Value, Class\n0, sky\n", [ClassRow("sky", 0)]),
        ("name,r,g,b\nwall,1,2,3", [ClassRow("wall", None, (1, 2, 3))]),
        ("# label:color_rgb:parts:actions\na b:1,2,3::", [ClassRow("a b", None, (1, 2, 3))]),
        ("64 128 64\tAnimal", [ClassRow("Animal", None, (64, 128, 64))]),
        ("0,wall,1,2,3", [ClassRow("wall", None, (1, 2, 3))]),
        ("car\n2 wheeler\nbus", [ClassRow("car"), ClassRow("2 wheeler"), ClassRow("bus")]),
        ("7 road\n32 2 wheeler", [ClassRow("road", 7), ClassRow("2 wheeler", 32)]),
        ("id,name\n7,road\n32,2 wheeler", [ClassRow("road", 7), ClassRow("2 wheeler", 32)]),
        ("0 road\n1 car\nvoid", [ClassRow("road", 0), ClassRow("car", 1), ClassRow("void")]),
    ],
)
def test_tables_of_classes(text: str, rows: list, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    assert read_class_table(Listing(tmp_path, Notes()), "classes.txt") == rows


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 euro\n2 euro\n50 cent", ["1 euro", "2 euro", "50 cent"]),
        ("car\n2 wheeler\nbus", ["car", "2 wheeler", "bus"]),
        ("car\n2 wheeler", ["car", "2 wheeler"]),
        ("1 euro\n2 euro", ["1 euro", "2 euro"]),
        ("0 car\n1: bus", ["car", "bus"]),
        ("1 bus\n0 car", ["car", "bus"]),
        ("1 car\n2 bus", ["car", "bus"]),
        ("car: 0\nbus: 1", ["car", "bus"]),
        ("id,name\n0,car\n1,bus", ["car", "bus"]),
        ("id,name\n1,car\n2,bus", ["car", "bus"]),
        ("id,name\n1,car\n2,2 wheeler\n3,bus", ["car", "2 wheeler", "bus"]),
        ("car\n1 euro", ["car", "1 euro"]),
        ("1 person\n2 car\n13 stop sign", ["person", "car", "stop sign"]),
        ("0 car\n1 bus\n3 bike", ["car", "bus", "bike"]),
        ("0 car\n1 2 wheeler\n2 bus", ["car", "2 wheeler", "bus"]),
        ("car,1,2,3\nbus,4,5,6", ["car", "bus"]),
    ],
)
def test_names_of_yolo(text: str, names: list, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    found = read_class_names(Listing(tmp_path, Notes()), "classes.txt")
    assert found == dict(enumerate(names))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (["a", "b"], [ClassRow("a"), ClassRow("b")]),
        ({"0": "a", "2": "b"}, [ClassRow("a", 0), ClassRow("b", 2)]),
        ({"a": 0, "b": 255}, [ClassRow("a", 0), ClassRow("b", 255)]),
        ({"a": [1, 2, 3]}, [ClassRow("a", None, (1, 2, 3))]),
        ({"classes": [{"name": "a", "id": 4}]}, [ClassRow("a", 4)]),
    ],
)
def test_classes_in_json(content: object, rows: list, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(content))
    assert read_class_table(Listing(tmp_path, Notes()), "classes.json") == rows


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("validation.json", "val"),
        ("trainannot/a.png", "train"),
        ("test/images/train.jpg", "train"),
        ("TrainSet/cat/a.jpg", "train"),
        ("setter/testsets.json", None),
        ("contest/latest.json", None),
        ("result.json", None),
    ],
)
def test_splits_are_told_by_paths(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_colours_without_a_table_are_listed(tmp_path: Path) -> None:
    folder = written("masks_colour", make.drawn(), tmp_path / "data")
    (folder / "class_dict.csv").unlink()
    with pytest.raises(UserError, match=r"0,0,0, 30,200,30, 200,30,30, 30,30,200.*class_dict\.csv"):
        read_folder(folder, "segmentation")


def test_what_was_found_is_described(tmp_path: Path) -> None:
    data = read_folder(written("yolo_faulty", make.drawn(), tmp_path / "data"), "detection")
    text = describe(data)
    for part in ("YOLO, data.yaml", "train 14, val 7", "48x64 to 64x48", "warning: boxes outside"):
        assert part in text, text
    row = next(line for line in text.splitlines() if "triangle" in line)
    assert row.split()[3] == str(
        sum(one.name == "triangle" for r in data.splits["train"] for one in r.instances)
    )


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = written("class_folders", make.drawn(), tmp_path / "data")
    (folder / "disc" / "again").symlink_to(folder, target_is_directory=True)
    assert len(Listing(folder, Notes()).images) == 20


# ---- layouts that others have, too small for a writer each


def one_shape(folder: Path, **shape: object) -> None:
    for number, sample in enumerate(make.drawn(count=2)):
        content = make.labelme_content(sample) | dict(shapes=[dict(label="a", **shape)])
        make.save(sample, folder / f"{number}.jpg")
        make.write(folder / f"{number}.json", json.dumps(content))


def test_labelme_circles_and_masks_and_groups(tmp_path: Path) -> None:
    one_shape(tmp_path / "circle", shape_type="circle", points=[[20, 20], [20, 26]])
    (instance,) = read_folder(tmp_path / "circle", "instances").splits["train"][0].instances
    assert instance.box == pytest.approx((14, 14, 12, 12), abs=0.1)
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 4), 255, np.uint8)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    one_shape(tmp_path / "mask", shape_type="mask", points=[[10, 20], [13, 24]], mask=text)
    (instance,) = read_folder(tmp_path / "mask", "instances").splits["train"][0].instances
    assert instance.box == (10, 20, 4, 5)
    assert coco_mask.area(instance.segmentation) == 20
    shapes = [
        dict(label="a", shape_type="rectangle", points=[[x, 5], [x + 4, 9]], group_id=3)
        for x in (2, 20)
    ]
    for path in (tmp_path / "mask").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(shapes=shapes)))
    (instance,) = read_folder(tmp_path / "mask", "instances").splits["train"][0].instances
    assert instance.box == (2, 5, 22, 4)
    assert len(instance.segmentation) == 2


def test_coco_masks_that_are_not_compressed(tmp_path: Path) -> None:
    folder = written("coco_one_file", make.drawn(), tmp_path)
    content = json.loads((folder / "annotations.json").read_text())
    one, two, three = content["annotations"][:3]
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for row, counts in ((one, [10, 5, 3057]), (two, [10, 5, 4]), (three, [-10, 3082])):
        row["segmentation"] = dict(size=sizes[row["image_id"]], counts=counts)
    (folder / "annotations.json").write_text(json.dumps(content))
    data = read_folder(folder, "instances")
    assert codes(data) == {"bad-outline": 2, "no-outline": 2}
    instance = records_of(data)["image_00"].instances[0]
    assert coco_mask.area(instance.segmentation) == 5


def test_one_column_a_class_is_a_table_too(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("class_folders", made, tmp_path)
    names = sorted({one.label for one in made})
    rows = [[f"{one.label}/{one.name}", *(str(int(n == one.label)) for n in names)] for one in made]
    lines = [", ".join(row) for row in [["filename", *names], *rows]]
    make.write(folder / "_classes.csv", "\n".join(lines))
    data = read_folder(folder, "classification")
    assert {
        Path(one.name).parent.name == one.label for part in data.splits.values() for one in part
    } == {True}
    assert data.classes == tuple(names)
    make.write(
        folder / "_classes.csv", "\n".join([*lines[:3], lines[3].replace("0", "1"), *lines[4:]])
    )
    with pytest.raises(UserError, match="several classes"):
        read_folder(folder, "classification")


def test_yolo_that_validates_on_what_it_trains_on_is_split(tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        one.split = "train"
    folder = written("yolo_folders", made, tmp_path)
    path = folder / "data.yaml"
    path.write_text(path.read_text().replace("images/val", "images/train"))
    data = read_folder(folder, "detection")
    assert codes(data) == {"same-split": 20}
    assert (data.own_split, len(data.splits["val"])) == (True, 4)


def test_a_split_without_labels_is_left_out(tmp_path: Path) -> None:
    folder = written("yolo_folders", make.drawn(), tmp_path)
    shutil.rmtree(folder / "labels" / "val")
    data = read_folder(folder, "detection")
    assert codes(data)["split-without-labels"] == 6
    assert data.own_split
    assert sum(map(len, data.splits.values())) == 14


def test_a_work_folder_inside_of_the_data_is_no_data(tmp_path: Path) -> None:
    for name, task in (("labelme_embedded", "instances"), ("masks_binary", "segmentation")):
        folder = written(name, make.drawn(), tmp_path / name)
        work = folder / "work_dirs" / "run"
        first = write_dataset(read_folder(folder, task), work)
        again = write_dataset(read_folder(folder, task), work)
        assert first == again
        assert sum(again.images.values()) == 20


def test_masks_are_written_once_and_again_when_they_change(tmp_path: Path) -> None:
    folder = written("masks_index", make.drawn(), tmp_path / "data")
    prepared = write_dataset(read_folder(folder, "segmentation"), tmp_path / "work")
    ours = Path(prepared.mask_root) / "images" / "train" / "image_00.jpg.png"
    source = folder / "masks" / "train" / "image_00.png"
    os.utime(ours, (ours.stat().st_mtime + 5,) * 2)
    before = ours.stat().st_mtime_ns
    write_dataset(read_folder(folder, "segmentation"), tmp_path / "work")
    assert ours.stat().st_mtime_ns == before
    Image.fromarray(np.array(Image.open(source)) * 0).save(source)
    os.utime(source, (ours.stat().st_mtime + 5,) * 2)
    write_dataset(read_folder(folder, "segmentation"), tmp_path / "work")
    assert not np.array(Image.open(ours)).any()


def test_images_beside_masks_of_the_same_name(tmp_path: Path) -> None:
    for one in make.drawn():
        path = make.save(one, tmp_path / "all" / one.name)
        Image.fromarray(one.mask).save(path.with_suffix(".png"))
    data = read_folder(tmp_path, "segmentation")
    assert data.classes == ("background", "class 1", "class 2", "class 3")
    assert codes(data) == {"no-names": 0}


def test_the_same_name_in_two_folders_is_not_guessed(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("coco_one_file", made, tmp_path)
    for part in ("a", "b"):
        make.save(made[0], folder / part / made[0].name)
    (folder / "images" / made[0].name).unlink()
    assert codes(read_folder(folder, "detection"))["ambiguous-image"] == 1


def test_voc_that_counts_from_zero(tmp_path: Path) -> None:
    made = make.drawn()
    made[0].things[0].box = [-1, -1, 11, 11]  # written as 0, 0, 10, 10
    folder = written("voc", made, tmp_path)
    instances = records_of(read_folder(folder, "detection"))["image_00"].instances
    assert instances[0].box == (0, 0, 10, 10)


def test_a_folder_around_the_classes_and_a_class_called_train(tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        one.label = {"disc": "train"}.get(one.label, one.label)
    written("class_folders", made, tmp_path / "unpacked" / "vehicles")
    assert read_folder(tmp_path, "classification").classes == ("square", "train", "triangle")
    (tmp_path / "unpacked" / "other").mkdir()
    written("class_folders_split", made, tmp_path / "splits")
    make.save(made[0], tmp_path / "splits" / "samples" / "few" / "a.jpg")
    data = read_folder(tmp_path / "splits", "classification")
    assert data.classes == ("square", "train", "triangle")
    assert codes(data) == {"image-without-split": 1}


def test_masks_that_were_saved_as_jpeg_are_refused(tmp_path: Path) -> None:
    folder = written("masks_binary", make.drawn(), tmp_path)
    for path in (folder / "masks").iterdir():
        Image.open(path).resize((50, 37)).save(path.with_suffix(".jpg"), quality=20)
        path.unlink()
    with pytest.raises(UserError, match="save masks as PNG"):
        read_folder(folder, "segmentation")


def test_masks_of_two_types_are_refused_and_a_cut_one_is_told(tmp_path: Path) -> None:
    folder = written("masks_colour", make.drawn(), tmp_path)
    first, second, *_ = sorted((folder / "train_labels").iterdir())
    first.write_bytes(first.read_bytes()[:60])
    assert codes(read_folder(folder, "segmentation"))["bad-file"] == 1
    Image.open(second).convert("L").save(second)
    with pytest.raises(UserError, match="some masks are colours and others are class numbers"):
        read_folder(folder, "segmentation")


def test_what_data_yaml_names_and_is_not_there(tmp_path: Path) -> None:
    folder = written("yolo_lists", make.drawn(), tmp_path)
    with (folder / "train.txt").open("a") as file:
        file.write("\n./images/train/gone.jpg\n")
    with (folder / "data.yaml").open("a") as file:
        file.write("test: ../test/images\n")
    found = codes(read_folder(folder, "detection"))
    assert found == {"missing-image": 1, "split-missing": 1}
    (folder / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: {a: b}\n")
    with pytest.raises(UserError, match="names must be a list, or names by number"):
        read_folder(folder, "detection")
    (folder / "data.yaml").write_text("train: train.txt\nval: val.txt\nnc: 3\n")
    assert read_folder(folder, "detection").classes == ("class 0", "class 1", "class 2")


def test_labels_in_a_folder_of_their_own_without_a_yaml(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("yolo_folders", made, tmp_path)
    (folder / "data.yaml").unlink()
    (folder / "labels").rename(folder / "txt")
    data = read_folder(folder, "detection")
    assert (data.format, len(data.splits["train"])) == ("YOLO, label files", 14)
    assert sum(len(one.instances) for part in data.splits.values() for one in part) == 28


def test_a_test_set_alone_is_split(tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        one.split = "test"
    data = read_folder(written("yolo_plain", made, tmp_path / "test"), "detection")
    assert data.own_split
    (tmp_path / "val").mkdir()
    (tmp_path / "test").rename(tmp_path / "val" / "test")
    data = read_folder(tmp_path / "val", "detection")
    assert codes(data) == {"no-train-split": 0}
    assert [len(part) for part in data.splits.values()] == [16, 4]


def test_outlines_in_voc_as_roboflow_writes_them(tmp_path: Path) -> None:
    folder = written("voc_flat", make.drawn(), tmp_path)
    points = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(
        ((1, 2), (9, 2), (9, 12)), 1))  # fmt: skip
    for path in folder.rglob("*.xml"):
        path.write_text(
            path.read_text().replace("</object>", f"<polygon>{points}</polygon></object>")
        )
    for record in records_of(read_folder(folder, "instances")).values():
        assert all(one.segmentation == [[1, 2, 9, 2, 9, 12]] for one in record.instances)


def test_the_page_lists_every_code_with_its_severity(root: Path) -> None:
    page = (root / "docs" / "formats.md").read_text()
    rows = dict(re.findall(r"^\| (error|warning|info|\w+ or \w+) \| (.*) \|$", page, re.MULTILINE))
    listed = {code: row for row, text in rows.items() for code in re.findall(r"`([\w-]+)`", text)}
    for code, (few, many, _, _) in PROBLEMS.items():
        assert listed.pop(code) == (few if few == many else f"{few} or {many}"), code
    source = "".join(path.read_text() for path in (root / "mmhybrid/datasets/folders").glob("*.py"))
    said = dict(re.findall(r'(?:say|Finding)\("([\w-]+)", ("\w+"|severity)', source))
    severities = {'"error"': "error", '"warning"': "warning", '"info"': "info"}
    assert listed == {code: severities.get(one, "warning or error") for code, one in said.items()}


# ---- files of one name that belong to different images


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        ("SegmentationObject/{}.png", {"image-beside-image": 20}),
        ("SegmentationClassVisualization/{}.jpg", {"image-beside-image": 20}),
        ("copies/images/{}.jpg", {"image-beside-image": 20}),
        ("copies/{}.jpg", {"image-beside-image": 20}),
        ("JPEGImages/{}.bmp", {"ambiguous-image": 20}),
    ],
)
def test_a_mask_belongs_to_one_image(beside: str, found: dict, tmp_path: Path) -> None:
    folder = written("masks_palette", make.drawn(), tmp_path)
    for path in (folder / "JPEGImages").iterdir():
        other = folder / beside.format(path.stem)
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(other)
    if "ambiguous-image" in found:
        with pytest.raises(UserError, match=r"no image that can be used.*several files have.*: 20"):
            read_folder(folder, "segmentation")
        return
    data = read_folder(folder, "segmentation")
    assert codes(data) == found
    names = [one.name for part in data.splits.values() for one in part]
    assert len(names) == 20
    assert {Path(one).parent.name for one in names} == {"JPEGImages"}


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_an_unlabelled_sequence_is_no_copy(task: str, layout: str, tmp_path: Path) -> None:
    for number, one in enumerate(make.drawn(count=24)):
        place, name = layout.format(f"s{number // 6}"), str(number % 6)
        make.save(one, tmp_path / place / f"{name}.jpg")
        if number < 6 and task == "detection":
            xml = make.voc_text(one, f"{name}.jpg")
            make.write(tmp_path / place / f"{name}.xml", xml)
        elif number < 6:
            mask = tmp_path / place.replace("images", "masks") / f"{name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(one.mask).save(mask)
    data = read_folder(tmp_path, task)
    assert +codes(data) == {"image-without-label": 18, "half-unlabelled": 18}
    assert {one.name.split("/")[layout == "images/{}"] for one in records_of(data).values()} == {
        "s0"
    }


def test_versions_of_an_image_share_its_mask(tmp_path: Path) -> None:
    folder = written("masks_binary", make.drawn(), tmp_path)
    shutil.copytree(folder / "images", folder / "images" / "blur")
    (folder / "images" / "orig").mkdir()
    for path in folder.glob("images/*.jpg"):
        path.rename(folder / "images" / "orig" / path.name)
    data = read_folder(folder, "segmentation")
    assert sum(len(part) for part in data.splits.values()) == 40
    assert len({one.mask for part in data.splits.values() for one in part}) == 20


def test_a_mask_of_another_split_is_not_taken(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("masks_index", made, tmp_path)
    name = f"{Path(made[0].name).stem}.png"
    make.save(made[0], folder / "images" / "val" / made[0].name)
    shutil.move(folder / "masks" / "train" / name, folder / "masks" / "val" / name)
    data = read_folder(folder, "segmentation")
    assert data.findings[0].images == [f"images/train/{made[0].name}"]
    assert codes(data) == {"image-without-label": 1}
    (folder / "images" / "val" / made[0].name).unlink()
    assert codes(read_folder(folder, "segmentation")) == {
        "image-without-label": 1,
        "label-without-image": 1,
    }


def test_a_label_file_of_another_image_is_not_taken(tmp_path: Path) -> None:
    folder, made = tmp_path, make.drawn()
    for number, one in enumerate(made):
        name = f"{1 + number % 2}/{number // 2}"  # the names of 1 are those of 2
        make.save(one, folder / "images" / f"{name}.jpg")
        if number % 4 < 3:
            lines = make.yolo_lines(one, make.names_of(made), outlines=False)
            make.write(folder / "labels" / f"{name}.txt", lines)
    data = read_folder(folder, "detection")
    assert codes(data) == {"image-without-label-file": 5, "image-without-object": 5}
    assert all(one.startswith("images/2/") for one in data.findings[0].images)


@pytest.mark.parametrize("place", ["txt/1", "txt"])
def test_a_label_file_far_off_is_that_of_one_image(place: str, tmp_path: Path) -> None:
    made = make.drawn()
    for number, one in enumerate(made):
        name = str(number // 2) if number < 4 else f"of_{number}"
        lines = make.yolo_lines(one, make.names_of(made), outlines=False)
        make.save(one, tmp_path / "img" / str(1 + number % 2) / f"{name}.jpg")
        if number >= 4 or number % 2 == 0:
            make.write(tmp_path / place / f"{name}.txt", lines)
    data = read_folder(tmp_path, "detection")
    records = {one.name: one for part in data.splits.values() for one in part}
    if place == "txt":
        assert codes(data) == {"ambiguous-image": 2}
        assert len(records) == 16
    else:
        assert codes(data) == {"image-without-label-file": 2, "image-without-object": 2}
        assert all(bool(one.instances) == (name != "img/2/0.jpg" and name != "img/2/1.jpg")
                   for name, one in records.items())  # fmt: skip


@pytest.mark.parametrize("near", ["seq2/0.jpg", "frames/seq2/0.jpg"])
def test_an_image_of_another_name_is_not_taken_for_a_missing_one(near: str, tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("coco_one_file", made, tmp_path)
    (folder / near).parent.mkdir(parents=True)
    (folder / "images" / made[1].name).rename(folder / near)
    (folder / "images" / made[0].name).unlink()
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    for row, name in zip(content["images"], ("seq1/0.jpg", "seq2/0.jpg"), strict=False):
        row["file_name"] = name
    path.write_text(json.dumps(content))
    data = read_folder(folder, "detection")
    assert codes(data) == {"missing-image": 1}
    assert len(records_of(data)["0"].instances) == len(made[1].things)


@pytest.mark.parametrize("there", [(), ("train/{}.png",)])
def test_an_image_of_another_split_is_not_taken(there: tuple, tmp_path: Path) -> None:
    made = make.drawn()
    folder, name = written("coco_splits", made, tmp_path), Path(made[0].name).stem
    (gone,) = folder.rglob(made[0].name)
    val = next(one for one in folder.rglob("*.jpg") if "val" in one.parent.name)
    shutil.copy(gone, val.with_name(gone.name))
    gone.unlink()
    for other in there:
        make.save(made[0], folder / other.format(name))
    data = read_folder(folder, "detection")
    trained = {one.name: one for one in data.splits["train"]}
    assert val.with_name(gone.name).relative_to(folder).as_posix() not in trained
    assert codes(data)["missing-image"] == (not there)
    assert len(trained) == 14 - (not there)


def test_a_second_copy_of_an_annotation_file_adds_nothing(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("coco_one_file", made, tmp_path)
    content = json.loads((folder / "annotations.json").read_text())
    annotations = len(content["annotations"])
    extra = dict(content["annotations"][0], bbox=[1, 1, 9, 9])
    content["annotations"].append(extra)
    make.write(folder / "annotations (1).json", json.dumps(content))
    data = read_folder(folder, "detection")
    assert codes(data) == {"repeated-object": annotations}
    assert sum(len(one.instances) for one in records_of(data).values()) == annotations + 1


@pytest.mark.parametrize("other", ["", "D:\\bob\\"])
def test_two_files_may_name_an_image_by_paths_of_two_machines(other: str, tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("coco_one_file", made, tmp_path)
    content = json.loads((folder / "annotations.json").read_text())
    for name, start in (("annotations", "/home/ann/data/"), ("more", other)):
        for row, one in zip(content["images"], made, strict=True):
            row["file_name"] = start + one.name
        make.write(folder / f"{name}.json", json.dumps(content))
    data = read_folder(folder, "detection")
    assert codes(data) == {"repeated-object": len(content["annotations"])}
    assert len(records_of(data)) == 20


def test_an_id_of_two_images_is_refused(tmp_path: Path) -> None:
    folder = written("coco_one_file", make.drawn(), tmp_path)
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    content["images"][5]["id"] = content["images"][0]["id"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"image id 0 is that of image_00\.jpg and of image_05\.jpg"
    ):
        read_folder(folder, "detection")


def masks_of(values: list[int], folder: Path) -> Path:
    """Masks with other values for 0, 1, 2 and 3."""
    make.mask_pairs(folder, make.drawn())
    for path in folder.glob("masks/*/*"):
        Image.fromarray(np.array(values, np.uint8)[np.array(Image.open(path))]).save(path)
    return folder


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ([0, 128, 255, 255], "error"),
        ([255, 1, 2, 3], "error"),
        ([0, 85, 170, 255], "warning"),
        ([0, 0, 255, 255], None),
    ],
)
def test_values_255_are_told(values: list, severity: str | None, tmp_path: Path) -> None:
    folder = masks_of(values, tmp_path)
    found = {one.code: one for one in read_folder(folder, "segmentation").findings}
    assert (found["ignored-pixels"].severity if severity else None) == severity
    assert severity or "ignored-pixels" not in found
    if severity:
        assert "of the pixels have the value 255" in str(found["ignored-pixels"])
        lines = [f"{value} name {value}" for value in sorted(set(values))]
        make.write(folder / "classes.txt", "\n".join(lines))
        data = read_folder(folder, "segmentation")
        assert data.classes == tuple(f"name {value}" for value in sorted(set(values)))
        assert not codes(data)["ignored-pixels"]


def test_one_stray_value_does_not_make_255_ignored(tmp_path: Path) -> None:
    folder = masks_of([0, 255, 255, 255], tmp_path)
    path = next(folder.glob("masks/train/*"))
    mask = np.array(Image.open(path))
    mask[0, 0] = 254
    Image.fromarray(mask).save(path)
    finding = read_folder(folder, "segmentation").findings[0]
    assert (finding.code, finding.severity) == ("ignored-pixels", "error")


def test_the_named_suffix_goes_before_the_nearer_file(tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        make.save(one, tmp_path / "imgs" / one.name)
        mask = tmp_path / "labels" / "masks" / f"{Path(one.name).stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.mask).save(mask)
    content = make.coco_content(made, make.names_of(made))
    make.write(tmp_path / "labels" / "coco.json", json.dumps(content))
    data = read_folder(tmp_path, "detection")
    assert {Path(one.name).parent.name for one in records_of(data).values()} == {"imgs"}


def test_voc_beside_trimaps(tmp_path: Path) -> None:
    for one in make.drawn():
        name = Path(one.name).stem
        make.save(one, tmp_path / "images" / one.name)
        make.write(tmp_path / "annotations" / "xmls" / f"{name}.xml", make.voc_text(one, one.name))
        mask = tmp_path / "annotations" / "trimaps" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.mask).save(mask)
    data = read_folder(tmp_path, "detection")
    assert {Path(one.name).parent.name for one in records_of(data).values()} == {"images"}
    assert codes(data) == {"image-beside-image": 20}


@pytest.mark.parametrize("line", ["{}/{}.jpg", "/home/me/JPEGImages/{}/{}.jpg {}/{}.png", "{}/{}"])
def test_lists_of_sequences_whose_names_repeat(line: str, tmp_path: Path) -> None:
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for number, one in enumerate(make.drawn()):
        sequence, name = ("night", "day")[number % 2], str(number // 2)
        make.save(one, tmp_path / "JPEGImages" / sequence / f"{name}.jpg")
        mask = tmp_path / "SegmentationClass" / sequence / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.mask).save(mask)
        if number < 18:
            split = ("train", "val")[number % 2]
            lists[split].append(line.format(sequence, name, sequence, name))
    for split, lines in lists.items():
        make.write(tmp_path / f"{split}.txt", "\n".join(lines))
    data = read_folder(tmp_path, "segmentation")
    assert codes(data) == {"no-names": 0, "image-without-split": 2}
    found = {split: {one.name.split("/")[1] for one in part} for split, part in data.splits.items()}
    assert found == {"train": {"night"}, "val": {"day"}}


def coco_files(folder: Path, count: int) -> None:
    categories = [dict(id=1, name="a")]
    annotations = [dict(id=i, image_id=1, category_id=1, bbox=[i, 0, 9, 9]) for i in range(3)]
    for i in range(count):
        images = [dict(id=1, file_name=f"{i}/image.png")]
        content = dict(images=images, annotations=annotations, categories=categories)
        make.write(folder / f"{i}.json", json.dumps(content))


def list_of_images(folder: Path, count: int, line: str = "{}/image.png") -> None:
    make.write(folder / "train.txt", "\n".join(line.format(i) for i in range(count)))


def masks_without_images(folder: Path, count: int) -> None:
    for i in range(count):
        make.write(folder / "masks" / f"m{i}" / "image.png", "x")


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (coco_files, lambda listing: read_coco(listing, listing.notes)),
        (list_of_images, Listing.split_lists),
        (functools.partial(list_of_images, line="/data/{}/image"), Listing.split_lists),
        (masks_without_images, lambda listing: read_masks(listing, listing.notes)),
    ],
)
def test_work_grows_with_the_files_alone(write: Callable, read: Callable, tmp_path: Path) -> None:
    calls = []
    for count in (20, 80):
        folder = tmp_path / str(count)
        for i in range(count):
            make.write(folder / str(i) / "image.png", "x")
        write(folder, count)
        listing, seen = Listing(folder, Notes()), Counter()
        sys.setprofile(lambda frame, event, _, seen=seen: seen.update([event]))
        try:
            read(listing)
        finally:
            sys.setprofile(None)
        calls.append(seen["call"])
    assert calls[1] < 5 * calls[0]


@pytest.mark.parametrize("line", ["0.png", "xml/0.xml"])
def test_a_line_is_of_all_images_of_its_name(line: str, tmp_path: Path) -> None:
    names = ["0.png", "images/0.png", "masks/0.png"]
    for name in [*names, "xml/0.xml"]:
        make.write(tmp_path / name, "x")
    make.write(tmp_path / "train.txt", line)
    assert Listing(tmp_path, Notes()).split_lists() == dict.fromkeys(names, "train")


# ---- folders of classes


@pytest.mark.parametrize("layout", ["{split}Set/{label}", "{label}/{split}", "{label}/{split}/raw"])
def test_splits_around_and_below_the_classes(layout: str, tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        place = layout.format(split=one.split.title(), label=one.label)
        make.save(one, tmp_path / place / one.name)
    data = read_folder(tmp_path, "classification")
    assert data.classes == ("disc", "square", "triangle")
    assert (data.own_split, codes(data)) == (False, {})
    for split, part in data.splits.items():
        assert len(part) == sum(one.split == split for one in made)


def test_what_is_not_read_in_folders_is_told(tmp_path: Path) -> None:
    folder = written("class_folders", make.drawn(), tmp_path)
    make.write(folder / "disc" / "phone.HEIC", "x")
    for path in [*folder.glob("square/*.jpg")]:
        make.write(path.with_suffix(".NEF"), "x")
    make.write(folder / "disc" / "moving.gif", "x")
    (folder / "disc" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "disc" / "itself.jpg").symlink_to(folder / "disc" / "itself.jpg")
    data = read_folder(folder, "classification")
    assert codes(data) == {"unread-format": 2, "dead-link": 2}
    assert {one.severity for one in data.findings} == {"warning"}
    for path in folder.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"no images but such as disc/moving\.gif"):
        read_folder(folder, "classification")


def test_a_column_of_labels_is_not_guessed(tmp_path: Path) -> None:
    made = make.drawn()
    rows = ["id,code,diagnosis,sex"]
    codes_ = {"disc": "d", "square": "s", "triangle": "t"}
    for number, one in enumerate(made):
        make.save(one, tmp_path / one.name)
        rows.append(f"{one.name},{codes_[one.label]},{one.label},{'fm'[number % 2]}")
    table = make.write(tmp_path / "metadata.csv", "\n".join(rows))
    with pytest.raises(UserError, match=r"metadata\.csv .*: code, sex.*`label`"):
        read_folder(tmp_path, "classification")
    table.write_text(table.read_text().replace("diagnosis", "Label"))
    names = tuple(sorted(codes_))
    assert read_folder(tmp_path, "classification").classes == names
    make.write(table, "\n".join(rows[1:]))  # no titles
    with pytest.raises(UserError, match="column 2, column 4"):
        read_folder(tmp_path, "classification")
    make.write(table, "\n".join(row.replace(",t,", ",s,") for row in rows))  # genus and species
    with pytest.raises(UserError, match="code, diagnosis, sex"):
        read_folder(tmp_path, "classification")
    # Two columns that say the same are one.
    make.write(table, "\n".join(row.rpartition(",")[0] for row in rows))
    assert read_folder(tmp_path, "classification").classes == ("d", "s", "t")


@pytest.mark.parametrize("folders", ["{}", "part_{}"])
def test_folders_of_classes_beside_a_table_of_something_else(folders: str, tmp_path: Path) -> None:
    rows = ["file,camera,width"]
    for number, one in enumerate(make.drawn()):
        place = folders.format(one.label if folders == "{}" else number % 3)
        make.save(one, tmp_path / place / one.name)
        rows.append(f"{place}/{one.name},{'ab'[number % 2]},{640 + number % 3}")
    make.write(tmp_path / "meta.csv", "\n".join(rows))
    if folders == "part_{}":
        with pytest.raises(UserError, match=r"meta\.csv .*: camera, width"):
            read_folder(tmp_path, "classification")
        return
    data = read_folder(tmp_path, "classification")
    assert data.classes == ("disc", "square", "triangle")
    (finding,) = data.findings
    assert (finding.code, finding.severity) == ("unclear-table", "warning")
    assert str(finding).startswith("warning: a folder a class is read, no table: meta.csv")


def test_rows_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    made = make.drawn()
    folder = written("table_plain", made, tmp_path)
    with (folder / "train.csv").open("a") as file:
        file.write(f"{made[0].name};{made[0].label}\n{made[1].name};{made[0].label}\n")
    data = read_folder(folder, "classification")
    assert codes(data) == {"other-label": 1}
    assert records_of(data)[Path(made[1].name).stem].label == made[1].label


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_that_are_cut_do_not_validate(suffix: str, tmp_path: Path) -> None:
    made = make.drawn()
    for one in made:
        one.name = f"{Path(one.name).stem}{suffix}"
    folder = written("yolo_folders", made, tmp_path)
    cut, *others = sorted((folder / "images" / "val").iterdir())
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert Image.open(cut).size  # its head is whole
    data = read_folder(folder, "detection")
    assert codes(data) == {"unreadable-image": 1}
    assert [one.path for one in data.splits["val"]] == others
    for path in others:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="no image to validate on can be read"):
        read_folder(folder, "detection")


# ---- odd files


def test_labelme_in_latin_1_with_the_image_in_it(tmp_path: Path) -> None:
    folder = written("labelme_embedded", make.drawn(), tmp_path / "data")
    path = next(folder.glob("*.json"))
    content = json.loads(path.read_text())
    content["shapes"][0]["label"] = "Stra\xdfe"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("latin-1"))
    prepared = write_dataset(read_folder(folder, "instances"), tmp_path / "work")
    assert "Stra\xdfe" in prepared.classes


def test_names_in_yaml_that_are_words_of_yes_and_no(tmp_path: Path) -> None:
    folder = written("yolo_folders", make.drawn(), tmp_path)
    (folder / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [no, yes, True]\n"
    )
    assert read_folder(folder, "detection").classes == ("no", "yes", "True")


@pytest.mark.parametrize("has_train_ids", [False, True])
def test_cityscapes_as_it_is_unpacked(tmp_path: Path, has_train_ids: bool) -> None:
    for one in make.drawn():
        place, name = f"{one.split}/aachen", Path(one.name).stem
        make.save(one, tmp_path / "leftImg8bit" / place / f"{name}_leftImg8bit.png")
        ours = tmp_path / "gtFine" / place
        ours.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.mask).save(ours / f"{name}_gtFine_labelIds.png")
        Image.fromarray(one.mask.astype(np.uint16)).save(ours / f"{name}_gtFine_instanceIds.png")
        colours = np.array(make.COLOURS, np.uint8)[one.mask]
        Image.fromarray(colours).save(ours / f"{name}_gtFine_color.png")
        if has_train_ids:
            Image.fromarray(one.mask).save(ours / f"{name}_gtFine_labelTrainIds.png")
    data = read_folder(tmp_path, "segmentation")
    assert codes(data) == {"no-names": 0}
    assert [len(part) for part in data.splits.values()] == [14, 6]
    end = "labelTrainIds.png" if has_train_ids else "labelIds.png"
    assert all(str(one.mask).endswith(end) for part in data.splits.values() for one in part)


def test_the_image_in_a_folder_called_images_has_the_mask(tmp_path: Path) -> None:
    for one in make.drawn():
        for folder in ("images/a", "depth/a"):  # neither has the folders of the mask
            make.save(one, tmp_path / folder / f"{Path(one.name).stem}.jpg")
        mask = tmp_path / "masks" / "b" / f"{Path(one.name).stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.mask).save(mask)
    data = read_folder(tmp_path, "segmentation")
    assert codes(data) == {"no-names": 0, "image-beside-image": 20}
    assert all(one.name.startswith("images/") for one in data.splits["train"])


def test_an_image_that_is_cut_inside_of_labelme_is_left_out(tmp_path: Path) -> None:
    folder = written("labelme_embedded", make.drawn(), tmp_path / "data")
    path = next(folder.glob("*.json"))
    content = json.loads(path.read_text())
    content["imageData"] = content["imageData"][: len(content["imageData"]) // 8 * 4]
    path.write_text(json.dumps(content))
    data = read_folder(folder, "instances")
    assert codes(data)["unreadable-image"] == 1
    assert sum(write_dataset(data, tmp_path / "work").images.values()) == 19
