"""COCO: one JSON file with boxes and polygons, one folder of JPEGs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.files import choose_classes, write_image
from mmhybrid.datasets.synthetic.shapes import scene

WIDTH, HEIGHT, CATEGORIES, MOST_SHAPES = 320, 256, 4, 4


def draw(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
) -> None:
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
        for shape in shapes:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=labels[shape.category] + 1,
                    bbox=[round(value, 2) for value in shape.box],
                    area=round(shape.area, 2),
                    segmentation=[shape.polygon.round(2).ravel().tolist()],
                    iscrowd=0,
                )
            )
    categories = [dict(id=index + 1, name=name) for index, name in enumerate(classes)]
    path = folder / dataset["ann_file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))
