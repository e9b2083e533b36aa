"""Writes the same labelled images in every format that people keep them in.

``drawn``, ``real_objects``, ``real_masks`` and ``real_labels`` make images with their labels;
a function of ``WRITERS`` writes them into a folder, those called ``_faulty`` with faults.
"""

import base64
import csv
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

COLOURS = [(0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]
COLOURS += [(40 * i, 255 - 40 * i, 90) for i in range(1, 7)]


@dataclass
class Thing:
    """An object: box as (x, y, width, height), outline as points, or RLE of a crowd."""

    name: str
    box: list[float]
    outline: list[list[float]]
    crowd: dict | None = None


@dataclass
class Sample:
    """An image with whatever a task asks for."""

    name: str
    image: Image.Image
    split: str = "train"
    things: list[Thing] = field(default_factory=list)
    mask: np.ndarray | None = None
    label: str = ""


def drawn(classes: tuple[str, ...] = ("disc", "square", "triangle"), count: int = 20) -> list:
    """Shapes on noise; mask values are 0 for the ground and 1, 2, 3 for the classes."""
    rng, samples = random.Random(0), []
    noise = np.random.default_rng(0)
    for number in range(count):
        size = width, height = (64, 48) if number % 3 else (48, 64)
        image = Image.fromarray(noise.integers(60, 120, (height, width, 3)).astype(np.uint8))
        mask = Image.new("L", size)
        things = []
        for place in range(rng.choice((1, 2))):
            index = (number + place) % len(classes)
            side, x, y = rng.randint(10, 16), place * 24 + rng.randint(1, 5), rng.randint(2, 25)
            right, bottom = x + side, y + side
            outline = {
                0: [[x, y], [right, y], [right, bottom], [x, bottom]],
                1: [[x, y], [right, y + 3], [right - 3, bottom], [x + 2, bottom - 1]],
                2: [[x, bottom], [x + side / 2, y], [right, bottom]],
            }[index % 3]
            points = [tuple(point) for point in outline]
            ImageDraw.Draw(image).polygon(points, fill=COLOURS[index + 1])
            ImageDraw.Draw(mask).polygon(points, fill=index + 1)
            things.append(Thing(classes[index], [x, y, side, side], outline))
        split = "train" if number < count * 0.7 else "val"
        label = things[0].name
        name = f"image_{number:02}.jpg"
        samples.append(Sample(name, image, split, things, np.array(mask), label))
    return samples


def real_objects(shared: Path, count: int = 20) -> list[Sample]:
    """COCO images at a quarter of their size, with four of their classes; some have crowds."""
    folder = shared / "data" / "coco_sample"
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    wanted, samples = {"person", "car", "bus", "toilet"}, []
    for info in sorted(content["images"], key=lambda one: one["id"]):
        image = Image.open(folder / "train2017" / info["file_name"]).convert("RGB")
        image = image.resize((image.width // 4, image.height // 4))
        things = []
        for one in content["annotations"]:
            if one["image_id"] != info["id"] or names[one["category_id"]] not in wanted:
                continue
            box = [round(value / 4, 2) for value in one["bbox"]]
            crowd, outline = None, []
            if one["iscrowd"]:
                rle = coco_mask.frPyObjects(one["segmentation"], info["height"], info["width"])
                small = Image.fromarray(coco_mask.decode(rle)).resize(image.size, Image.NEAREST)
                crowd = coco_mask.encode(np.asfortranarray(np.array(small)))
                crowd["counts"] = crowd["counts"].decode()
            elif len(one["segmentation"]) > 1 or min(box[2:]) < 3:
                continue
            else:
                flat = [round(value / 4, 2) for value in one["segmentation"][0]]
                points = zip(flat[::2], flat[1::2], strict=True)
                outline = [[min(x, image.width), min(y, image.height)] for x, y in points]
                xs, ys = zip(*outline, strict=True)
                box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            things.append(Thing(names[one["category_id"]], box, outline, crowd))
        if things:
            split = "val" if len(samples) % 4 == 3 else "train"
            samples.append(Sample(info["file_name"], image, split, things))
    return samples[:count]


CAMVID = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]


def real_masks(shared: Path, count: int = 20) -> list[Sample]:
    """CamVid images at a quarter of their size; mask value 0 is unlabelled."""
    samples, folder = [], shared / "data" / "camvid_sample"
    for split, subfolder, most in (("train", "training", 14), ("val", "validation", 6)):
        for path in sorted((folder / "images" / subfolder).iterdir())[:most]:
            image, mask = (
                Image.open(one).resize((120, 90), Image.NEAREST)
                for one in (path, folder / "annotations" / subfolder / f"{path.stem}.png")
            )
            samples.append(Sample(path.name, image, split, mask=np.array(mask)))
    return samples[:count]


def real_labels(shared: Path, count: int = 20) -> list[Sample]:
    """CIFAR-10 images of four classes."""
    samples = []
    with tarfile.open(shared / "data" / "cifar10" / "test.tar.gz") as archive:
        for number in range(count // 4):
            for name in ("cat", "deer", "ship", "truck"):
                content = archive.extractfile(f"test/{name}/{number:04}.jpg").read()
                split = "train" if number < 3 else "val"
                image = Image.open(io.BytesIO(content))
                samples.append(Sample(f"{name}_{number}.jpg", image, split, label=name))
    return samples


def names_of(samples: list[Sample]) -> list[str]:
    return sorted({thing.name for one in samples for thing in one.things})


def save(sample: Sample, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sample.image.save(path, quality=95)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


# ---- COCO


def coco_content(samples: list[Sample], names: list[str], first: int = 1, step: int = 1) -> dict:
    """A COCO file; ids of categories and images start at ``first`` and go on by ``step``."""
    images, annotations = [], []
    for number, sample in enumerate(samples):
        image_id = first + number * step
        size = dict(width=sample.image.width, height=sample.image.height)
        images.append(dict(id=image_id, file_name=sample.name, **size))
        for thing in sample.things:
            category = first + names.index(thing.name) * step
            flat = [value for point in thing.outline for value in point]
            width, height = thing.box[2:]
            one = dict(id=first + len(annotations), image_id=image_id, category_id=category)
            one |= dict(bbox=thing.box, area=width * height, iscrowd=int(bool(thing.crowd)))
            annotations.append(one | dict(segmentation=thing.crowd or [flat]))
    categories = [dict(id=first + i * step, name=name) for i, name in enumerate(names)]
    return dict(images=images, annotations=annotations, categories=categories)


def coco_splits(folder: Path, samples: list[Sample]) -> None:
    """As COCO 2017 is unpacked; ids have gaps."""
    for split in ("train", "val"):
        part = [one for one in samples if one.split == split]
        for one in part:
            save(one, folder / f"{split}2017" / one.name)
        content = coco_content(part, names_of(samples), first=3, step=5)
        write(folder / "annotations" / f"instances_{split}2017.json", json.dumps(content))


def coco_roboflow(folder: Path, samples: list[Sample]) -> None:
    """As Roboflow exports it: a file beside the images of a split; category 0 is the project."""
    for split, name in (("train", "train"), ("val", "valid")):
        part = [one for one in samples if one.split == split]
        for one in part:
            save(one, folder / name / one.name)
        content = coco_content(part, names_of(samples))
        for one in content["categories"]:
            one["supercategory"] = "things"
        content["categories"].insert(0, dict(id=0, name="things", supercategory="none"))
        write(folder / name / "_annotations.coco.json", json.dumps(content))


def coco_one_file(folder: Path, samples: list[Sample]) -> None:
    """One file for all, ids from zero."""
    for one in samples:
        save(one, folder / "images" / one.name)
    content = coco_content(samples, names_of(samples), first=0)
    write(folder / "annotations.json", json.dumps(content))


def coco_cvat(folder: Path, samples: list[Sample]) -> None:
    for one in samples:
        save(one, folder / "images" / "default" / one.name)
    content = coco_content(samples, names_of(samples))
    write(folder / "annotations" / "instances_default.json", json.dumps(content))


def coco_boxes(folder: Path, samples: list[Sample]) -> None:
    coco_splits(folder, samples)
    for path in folder.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        for one in content["annotations"]:
            one["segmentation"] = []
        write(path, json.dumps(content))


def coco_faulty(folder: Path, samples: list[Sample]) -> None:
    """One file with a BOM, of fields that lack, paths of another machine and impossible boxes."""
    coco_one_file(folder, samples)
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    annotations, images = content["annotations"], content["images"]
    for one in annotations:
        del one["area"], one["iscrowd"]
    images[0]["file_name"] = "C:\\data\\" + images[0]["file_name"]
    images[1]["file_name"] = "/home/somebody/" + images[1]["file_name"]
    del images[2]["height"]
    images[3]["width"] *= 2
    images.append(dict(id=900, file_name="gone.jpg", width=64, height=48))
    first = dict(annotations[0])
    for bbox in ([1, 1, 0, 5], [500, 500, 9, 9], [1, 2, "x", 4], [-4, -4, 12, 12]):
        annotations.append(dict(first, bbox=bbox, segmentation=[], id=len(annotations)))
    annotations.append(dict(first, category_id=77))
    annotations.append(dict(first, image_id=7777))
    content["categories"].append(dict(id=50, name="unicorn"))
    write(path, json.dumps(content), "utf-8-sig")
    (folder / "images" / samples[4].name).write_bytes(b"no image")


# ---- YOLO


def yolo_lines(sample: Sample, names: list[str], outlines: bool) -> str:
    lines, (width, height) = [], sample.image.size
    for thing in sample.things:
        if thing.crowd:
            continue
        x, y, w, h = thing.box
        values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        if outlines:
            values = [v for x, y in thing.outline for v in (x / width, y / height)]
        lines.append(" ".join([str(names.index(thing.name)), *(f"{v:.6f}" for v in values)]))
    return "\n".join([*lines, ""])


def yolo_folders(folder: Path, samples: list[Sample], outlines: bool = False) -> None:
    """As Ultralytics lays it out."""
    names = names_of(samples)
    for one in samples:
        save(one, folder / "images" / one.split / one.name)
        label = folder / "labels" / one.split / f"{Path(one.name).stem}.txt"
        write(label, yolo_lines(one, names, outlines))
    text = "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n"
    write(folder / "data.yaml", text + "".join(f"  {i}: {n}\n" for i, n in enumerate(names)))


def yolo_outlines(folder: Path, samples: list[Sample]) -> None:
    """As Roboflow exports it: splits outside, paths that lead out of the folder."""
    names = names_of(samples)
    for one in samples:
        split = folder / {"train": "train", "val": "valid"}[one.split]
        save(one, split / "images" / one.name)
        label = split / "labels" / f"{Path(one.name).stem}.txt"
        write(label, yolo_lines(one, names, outlines=True))
    text = f"train: ../train/images\nval: ../valid/images\nnc: {len(names)}\nnames: {names}\n"
    write(folder / "data.yaml", text)


def yolo_lists(folder: Path, samples: list[Sample]) -> None:
    """Lists of images; names as a list."""
    yolo_folders(folder, samples)
    for split in ("train", "val"):
        lines = [f"./images/{split}/{one.name}" for one in samples if one.split == split]
        write(folder / f"{split}.txt", "\n".join(lines))
    write(folder / "data.yaml", f"train: train.txt\nval: val.txt\nnames: {names_of(samples)}\n")


def yolo_plain(folder: Path, samples: list[Sample]) -> None:
    """No data.yaml: label files beside the images, and the names."""
    names = names_of(samples)
    for one in samples:
        path = save(one, folder / one.name)
        write(path.with_suffix(".txt"), yolo_lines(one, names, outlines=False))
    write(folder / "classes.txt", "\n".join(names) + "\n")


def yolo_cvat(folder: Path, samples: list[Sample]) -> None:
    names = names_of(samples)
    for one in samples:
        path = save(one, folder / "obj_train_data" / one.name)
        write(path.with_suffix(".txt"), yolo_lines(one, names, outlines=False))
    lines = "".join(f"data/obj_train_data/{one.name}\n" for one in samples)
    write(folder / "train.txt", lines)
    write(folder / "obj.names", "\n".join(names) + "\n")
    data = "train = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    write(folder / "obj.data", f"classes = {len(names)}\n{data}")


def yolo_faulty(folder: Path, samples: list[Sample]) -> None:
    """CRLF and a BOM, a name with spaces and another case, lines that mean nothing, a leak."""
    yolo_folders(folder, samples)
    train, labels = folder / "images" / "train", folder / "labels" / "train"
    stems = sorted(path.stem for path in labels.iterdir())
    for path in labels.iterdir():
        write(path, path.read_text().replace("\n", "\r\n"), "utf-8-sig")
    (train / f"{stems[0]}.jpg").rename(train / "mit Leerzeichen ä.JPG")
    (labels / f"{stems[0]}.txt").rename(labels / "mit Leerzeichen ä.txt")
    (labels / f"{stems[1]}.txt").unlink()
    write(labels / "nobody.txt", "0 0.5 0.5 0.1 0.1\n")
    with (labels / f"{stems[2]}.txt").open("a") as file:
        file.write("0 0.5 0.5\n9 0.5 0.5 0.2 0.2\n0 0.95 0.5 0.3 0.2\n0 1.5 1.5 0.1 0.1\none two\n")
    leaked = train / f"{stems[3]}.jpg"
    (folder / "images" / "val" / "copy.jpg").write_bytes(leaked.read_bytes())
    write(folder / "labels" / "val" / "copy.txt", (labels / f"{stems[3]}.txt").read_text())


# ---- Pascal VOC


def voc_text(sample: Sample, filename: str) -> str:
    objects = ""
    for thing in sample.things:
        if not thing.crowd:
            x, y, w, h = thing.box  # VOC counts pixels from 1, the last one included
            values = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
            box = "".join(f"<{key}>{value:g}</{key}>" for key, value in values.items())
            objects += f"<object><name>{thing.name}</name><difficult>0</difficult>"
            objects += f"<bndbox>{box}</bndbox></object>"
    width, height = sample.image.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def voc(folder: Path, samples: list[Sample]) -> None:
    """As VOC 2007 is unpacked."""
    base = folder / "VOC2007"
    for one in samples:
        save(one, base / "JPEGImages" / one.name)
        path = base / "Annotations" / f"{Path(one.name).stem}.xml"
        write(path, voc_text(one, one.name))
    for split in ("train", "val"):
        lines = [Path(one.name).stem for one in samples if one.split == split]
        write(base / "ImageSets" / "Main" / f"{split}.txt", "\n".join(lines) + "\n")
    write(base / "ImageSets" / "Main" / "thing_train.txt", "000001 -1\n")


def voc_flat(folder: Path, samples: list[Sample]) -> None:
    """As Roboflow exports it."""
    for one in samples:
        path = save(one, folder / {"train": "train", "val": "valid"}[one.split] / one.name)
        write(path.with_suffix(".xml"), voc_text(one, one.name))


def voc_faulty(folder: Path, samples: list[Sample]) -> None:
    """Names of other files, a turned box, a hostile file, one that is cut, one without an image."""
    voc_flat(folder, samples)
    paths = sorted(folder.rglob("*.xml"))
    write(paths[0], paths[0].read_text().replace("<filename>", "<filename>other_"))
    box = "<bndbox><xmin>30</xmin><ymin>9</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    name = names_of(samples)[0]
    turned = f"<object><name>{name}</name>{box}</object></annotation>"
    write(paths[1], paths[1].read_text().replace("</annotation>", turned))
    entity = '<!DOCTYPE a [<!ENTITY b "bomb"><!ENTITY c "&b;&b;&b;">]>'
    write(paths[2], entity + paths[2].read_text().replace(name, "&c;"))
    write(folder / "train" / "gone.xml", voc_text(samples[0], "gone.jpg"))
    write(paths[3], paths[3].read_text()[:-30])


# ---- LabelMe


def labelme_content(sample: Sample) -> dict:
    shapes = []
    for number, thing in enumerate(sample.things):
        if thing.crowd:
            continue
        x, y, w, h = thing.box
        shape = dict(label=thing.name, shape_type="polygon", points=thing.outline, group_id=None)
        if number % 2 and sample.mask is not None:  # of drawn shapes: a corner and its opposite
            shape |= dict(shape_type="rectangle", points=[[x + w, y + h], [x, y]])
        shapes.append(shape)
    width, height = sample.image.size
    size = dict(imageWidth=width, imageHeight=height)
    return dict(version="5.4.1", shapes=shapes, imagePath=sample.name, imageData=None, **size)


def labelme(folder: Path, samples: list[Sample]) -> None:
    for one in samples:
        path = save(one, folder / one.name)
        write(path.with_suffix(".json"), json.dumps(labelme_content(one)))


def labelme_embedded(folder: Path, samples: list[Sample]) -> None:
    """Images inside the files alone."""
    for one in samples:
        buffer = io.BytesIO()
        one.image.save(buffer, "JPEG")
        content = labelme_content(one)
        content["imageData"] = base64.b64encode(buffer.getvalue()).decode()
        write(folder / f"{Path(one.name).stem}.json", json.dumps(content))


def labelme_faulty(folder: Path, samples: list[Sample]) -> None:
    """Shapes that have no area, a circle, a part by itself, a cut file, Windows' paths."""
    labelme(folder, samples)
    paths = sorted(folder.glob("*.json"))
    content = json.loads(paths[0].read_text())
    name = content["shapes"][0]["label"]
    content["imagePath"] = "..\\images\\" + content["imagePath"]
    content["shapes"] += [
        dict(label=name, shape_type="circle", points=[[20, 20], [25, 20]]),
        dict(label=name, shape_type="point", points=[[20, 20]]),
        dict(label=name, shape_type="linestrip", points=[[1, 1], [9, 9], [9, 1]]),
        dict(label=name, shape_type="polygon", points=[[1, 1], [9, 9]]),
        dict(label=name, shape_type="polygon", points=[[1, 1], [9, 9], ["a", 3]]),
    ]
    write(paths[0], json.dumps(content))
    write(paths[1], paths[1].read_text()[:-20])
    paths[2].unlink()


# ---- masks


def mask_pairs(
    folder: Path, samples: list[Sample], colours: bool = False, palette: bool = False
) -> None:
    for one in samples:
        save(one, folder / "images" / one.split / one.name)
        path = folder / "masks" / one.split / f"{Path(one.name).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(one.mask)
        if colours:
            mask = Image.fromarray(np.array(COLOURS, np.uint8)[one.mask])
        elif palette:
            mask.putpalette([value for colour in COLOURS for value in colour])
        mask.save(path)


def named(samples: list[Sample]) -> list[str]:
    """Names of the values from 1 on."""
    return names_of(samples) or CAMVID


def masks_index(folder: Path, samples: list[Sample]) -> None:
    """Values from 0, all of them named."""
    mask_pairs(folder, samples)
    write(folder / "classes.txt", "\n".join(["background", *named(samples)]))


def masks_zero_unnamed(folder: Path, samples: list[Sample]) -> None:
    """Value 0 has no name."""
    mask_pairs(folder, samples)
    write(folder / "classes.txt", "\n".join(named(samples)))


def masks_palette(folder: Path, samples: list[Sample]) -> None:
    """As CVAT exports it: VOC's folders and labelmap.txt."""
    names = ["background", *named(samples)]
    for one in samples:
        save(one, folder / "JPEGImages" / one.name)
    for one in samples:
        path = folder / "SegmentationClass" / f"{Path(one.name).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(one.mask)
        mask.putpalette([value for colour in COLOURS for value in colour])
        mask.save(path)
    for split in ("train", "val"):
        lines = [Path(one.name).stem for one in samples if one.split == split]
        write(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(lines))
    rows = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(names, COLOURS, strict=False)]
    write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(rows))


def masks_colour(folder: Path, samples: list[Sample]) -> None:
    """As CamVid is on Kaggle: train and train_labels, *_L.png, class_dict.csv."""
    names = ["Void", *named(samples)]
    for one in samples:
        save(one, folder / one.split / one.name)
        path = folder / f"{one.split}_labels" / f"{Path(one.name).stem}_L.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(COLOURS, np.uint8)[one.mask]).save(path)
    rows = [f"{n},{r},{g},{b}" for n, (r, g, b) in zip(names, COLOURS, strict=False)]
    write(folder / "class_dict.csv", "\n".join(["name,r,g,b", *rows]))


def masks_suffix(folder: Path, samples: list[Sample]) -> None:
    """As Roboflow exports it: NAME_mask.png beside NAME.jpg, and _classes.csv."""
    for one in samples:
        path = save(one, folder / {"train": "train", "val": "valid"}[one.split] / one.name)
        Image.fromarray(one.mask).save(path.with_name(f"{path.stem}_mask.png"))
    rows = [f"{i}, {name}" for i, name in enumerate(["background", *named(samples)])]
    write(folder / "train" / "_classes.csv", "\n".join(["Pixel Value, Class", *rows]))


def masks_binary(folder: Path, samples: list[Sample]) -> None:
    """0 and 255, no names, no splits."""
    for one in samples:
        save(one, folder / "images" / one.name)
        path = folder / "masks" / f"{Path(one.name).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((one.mask > 0).astype(np.uint8) * 255).save(path)


def masks_faulty(folder: Path, samples: list[Sample]) -> None:
    """A value without a name, a mask of another size, one without an image, an image without."""
    masks_index(folder, samples)
    paths = sorted((folder / "masks" / "train").iterdir())
    values = np.array(Image.open(paths[0]))
    values[0, :5] = 77
    Image.fromarray(values).save(paths[0])
    Image.open(paths[1]).resize((30, 20), Image.NEAREST).save(paths[1])
    paths[2].rename(paths[2].with_name("nobody.png"))


# ---- labels


def class_folders(folder: Path, samples: list[Sample]) -> None:
    for one in samples:
        save(one, folder / one.label / one.name)


def class_folders_split(folder: Path, samples: list[Sample]) -> None:
    for one in samples:
        save(
            one, folder / {"train": "train", "val": "validation"}[one.split] / one.label / one.name
        )


def table(folder: Path, samples: list[Sample]) -> None:
    """A CSV with a header, its image column the second, with a split."""
    for one in samples:
        save(one, folder / "images" / one.name)
    buffer = io.StringIO()
    rows = [(i, Path(one.name).stem, one.label, one.split) for i, one in enumerate(samples)]
    csv.writer(buffer).writerows([("number", "id", "species", "split"), *rows])
    write(folder / "labels.csv", buffer.getvalue())


def table_plain(folder: Path, samples: list[Sample]) -> None:
    """A CSV with semicolons and no header."""
    for one in samples:
        save(one, folder / one.name)
    write(folder / "train.csv", "".join(f"{one.name};{one.label}\n" for one in samples))


def class_folders_faulty(folder: Path, samples: list[Sample]) -> None:
    """An empty class, an image beside the classes, one cut, one of a foreign folder of Windows."""
    class_folders_split(folder, samples)
    (folder / "train" / "nothing").mkdir()
    save(samples[0], folder / "train" / "beside.jpg")
    next((folder / "train" / samples[0].label).iterdir()).write_bytes(b"\xff\xd8\xff")
    write(folder / "train" / samples[0].label / "Thumbs.db", "x")
    write(folder / "__MACOSX" / "train" / "._x.jpg", "x")


def table_faulty(folder: Path, samples: list[Sample]) -> None:
    """A BOM, CRLF, a file that is not there, a row without a label, one twice, other case."""
    table_plain(folder, samples)
    text = (folder / "train.csv").read_text()
    text = text.replace(samples[1].name, samples[1].name.upper())
    text += f"gone.jpg;{samples[0].label}\n;;\n{samples[0].name};\n"
    write(folder / "train.csv", "image;label\n" + text.replace("\n", "\r\n"), "utf-8-sig")


OBJECTS = (
    *(coco_splits, coco_roboflow, coco_one_file, coco_cvat, coco_boxes, coco_faulty),
    *(yolo_folders, yolo_outlines, yolo_lists, yolo_plain, yolo_cvat, yolo_faulty),
    *(voc, voc_flat, voc_faulty, labelme, labelme_embedded, labelme_faulty),
)
MASKS = (
    *(masks_index, masks_zero_unnamed, masks_palette, masks_colour, masks_suffix, masks_binary),
    masks_faulty,
)
LABELS = (
    class_folders,
    class_folders_split,
    table,
    table_plain,
    class_folders_faulty,
    table_faulty,
)
WRITERS: dict[str, Callable[[Path, list[Sample]], None]] = {
    writer.__name__: writer for writer in (*OBJECTS, *MASKS, *LABELS)
}
