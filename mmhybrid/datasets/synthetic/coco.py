"""COCO: one JSON file with boxes and polygons, one folder of JPEGs."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from mmhybrid.datasets.synthetic.shapes import choose_classes, scene, write_image

WIDTH, HEIGHT, CATEGORIES, MOST_SHAPES = 480, 384, 4, 4


def draw(dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator) -> None:
    """Writes the JSON file and the images that a ``CocoDataset`` config asks for.

    All classes of the config stand in the JSON file, as in COCO; the shapes belong to four of them.
    """
    labels = choose_classes(len(classes), CATEGORIES)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        image, shapes = scene(rng, WIDTH, HEIGHT, range(len(labels)), MOST_SHAPES)
        name = f"{image_id:012d}.jpg"
        write_image(folder / dataset["data_prefix"]["img"] / name, image)
        images.append(dict(id=image_id, file_name=name, width=WIDTH, height=HEIGHT))
        for category, polygon in shapes:
            corner, size = polygon.min(axis=0), np.ptp(polygon, axis=0)
            row = dict(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=labels[category] + 1,
                bbox=[round(value, 2) for value in (*corner.tolist(), *size.tolist())],
                area=round(cv2.contourArea(polygon.astype(np.float32)), 2),
                segmentation=[polygon.round(2).ravel().tolist()],
                iscrowd=0,
            )
            annotations.append(row)
    categories = [
        dict(id=index + 1, name=name, supercategory="none") for index, name in enumerate(classes)
    ]
    path = folder / dataset["ann_file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))
