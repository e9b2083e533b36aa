"""What the inferencers of mmdet, mmseg and mmpretrain find in images."""

from itertools import groupby
from typing import Any

import numpy as np

from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.registry import type_name


def samples_of(inferencer: Any, images: list[np.ndarray]) -> list[Any]:
    """One data sample an image; the three inferencers return them in three ways."""
    if hasattr(inferencer, "config"):  # mmpretrain's, whose call shows a bar for every batch
        _, dataset = next(datasets_of(inferencer.config, ("test_dataloader",)))
        if not any(type_name(step) == "LoadImageFromFile" for step in dataset.pipeline):
            # The data set gives arrays, which are RGB; files are read as BGR.
            images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        batches = inferencer.preprocess(images, len(images))
        return [sample for batch in batches for sample in inferencer.forward(batch)]
    samples = []
    # mmsegmentation takes no others as a batch; mmdet pads them, which changes what it finds.
    for alike in (list(group) for _, group in groupby(images, np.shape)):
        found = inferencer(alike, batch_size=len(alike), return_datasamples=True)
        found = found["predictions"] if isinstance(found, dict) else found
        samples += found if isinstance(found, list) else [found]
    return samples
