"""Samples that cannot be read: training takes others in their place, evaluation names them."""

import functools
import logging
import random
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from mmhybrid.datasets.image_files import BROKEN_FILE
from mmhybrid.errors import UserError

MOST_UNREADABLE = 10  # samples one after the other, before a run gives up
ADVICE = "`python -m mmhybrid check CONFIG` lists what is wrong with the data."


class UnreadableError(Exception):
    """A sample cannot be read; the message names it and gives the reason."""


def load(dataset: Any, index: int) -> Any:
    """Loads a sample.

    Raises:
        UnreadableError: The file cannot be read: a transform whose class, or one that it derives
            from, is called ``Load...`` raised what decoders raise at broken files, or the data set
            itself raised an ``OSError``.
        RuntimeError: Every other error: a mistake in a transform, a data set or the annotations.
    """
    try:
        return dataset[index]
    except Exception as error:  # whatever a decoder raises at broken data
        from mmcv.transforms import BaseTransform

        sample = f"{_name(dataset, index)} ({type(error).__name__}: {error})"
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        owners = [type(frame.f_locals.get("self")) for frame in reversed(frames)]
        transform = next((one for one in owners if issubclass(one, BaseTransform)), None)
        if transform is None and not isinstance(error, OSError):
            raise RuntimeError(f"the data set fails at {sample}") from error
        loads = transform is None or any(one.__name__[:4] == "Load" for one in transform.__mro__)
        if loads and isinstance(error, BROKEN_FILE):
            raise UnreadableError(sample) from error
        raise RuntimeError(f"{transform.__name__} fails at {sample}") from error


def load_or_replace(dataset: Any, index: int) -> Any:
    """Loads a sample for training; one that cannot be read is logged, and another replaces it."""
    for _ in range(MOST_UNREADABLE):
        try:
            return _without_unknown_labels(dataset, index, load(dataset, index))
        except UnreadableError as error:
            last = error
            _warn(f"Left out, because it cannot be read: {last}")
            others = max(1, len(dataset) - 1)
            index = (index + 1 + random.randrange(others)) % len(dataset)  # never the same again
    told = f"{MOST_UNREADABLE} samples one after the other cannot be read, the last one {last}."
    raise UserError(f"{told} {ADVICE}")


def load_or_stop(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Loads the samples of a batch for evaluation, where one left out would change the metric."""
    try:
        return [load(dataset, index) for index in indices]
    except UnreadableError as error:
        raise UserError(
            f"cannot evaluate on {error}. A metric without it would be another one: mend it, or "
            f"take it out of the annotations. {ADVICE}"
        ) from error


@HOOKS.register_module()
class EvaluationDataHook(Hook):
    """Makes evaluation name the sample that cannot be read."""

    def before_val(self, runner: Any) -> None:
        _name_unreadable(runner.val_dataloader.dataset)

    def before_test(self, runner: Any) -> None:
        _name_unreadable(runner.test_dataloader.dataset)


def _name_unreadable(dataset: Any) -> None:
    # PyTorch's loaders look for this method on the object, in workers too.
    dataset.__getitems__ = functools.partial(load_or_stop, dataset)


def _without_unknown_labels(dataset: Any, index: int, sample: Any) -> Any:
    """Ignores the pixels of a segmentation mask whose label is not that of a class."""
    truth = getattr(sample.get("data_samples"), "gt_sem_seg", None) if sample else None
    metainfo = getattr(dataset, "metainfo", None) or {}
    if not isinstance(metainfo, Mapping):  # of mmdet's ConcatDataset, whose parts have their own
        return sample
    classes = metainfo.get("classes")
    # mmsegmentation's masks are called so; mmdet's, of things and stuff, have labels of their own.
    if truth is None or "data" not in truth or not classes:
        return sample
    ignored = getattr(dataset, "ignore_index", 255)
    labels = truth.data
    unknown = ((labels >= len(classes)) | (labels < 0)) & (labels != ignored)
    if unknown.any():
        values = labels[unknown].unique().tolist()
        _warn(
            f"{int(unknown.sum())} pixels of the mask of {_name(dataset, index)} have the labels "
            f"{values[:10]}, but there are {len(classes)} classes: these pixels are ignored."
        )
        labels[unknown] = ignored
    return sample


def _name(dataset: Any, index: int) -> str:
    """The path of a sample's image, or else its index."""
    try:
        return dataset.get_data_info(index)["img_path"]
    except Exception:  # not every dataset has either
        return f"sample {index}"


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)
