"""The classes in every place of a config, compared before training."""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.logging import print_log

from mmhybrid.datasets.data_paths import classes_of, datasets_of
from mmhybrid.engine.runner.classes import OTHER_CLASSES, OUT_OF_REACH
from mmhybrid.engine.runner.config_parts import Part, arguments_of, parts_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.loading import read_address

# Heads whose ``num_classes`` is not that of the data, by the name of their class or of a base.
OTHER_HEADS = ("STDCHead", "RPNHead")
DATA = dict(train_dataloader="training", val_dataloader="validation", test_dataloader="test")


class Classes(NamedTuple):
    """Classes in one place.

    Attributes:
        where: The place, as in ``model.roi_head.bbox_head`` or ``the training data``.
        number: How many there are.
        names: In the order of their labels; none where the place has a number alone.
    """

    where: str
    number: int
    names: tuple[str, ...] = ()


def classes_in(cfg: Config) -> Iterator[Classes]:
    """Yields the classes of every data set, head, metric and mix of labels of a config.

    Raises:
        UserError: The classes of a data set are no list.
    """
    scope = cfg.get("default_scope")
    counted: Counter[str] = Counter()
    for loader, dataset in datasets_of(cfg):
        counted[loader] += 1
        where = f"the {DATA[loader]} data" + (f" {counted[loader]}" if counted[loader] > 1 else "")
        if (names := known_classes(dataset, scope)) is not None:
            yield Classes(where, len(names), names)
    for part in parts_of(cfg):
        if part.path[:1] == ("model",) and (number := _number(part)) is not None:
            yield Classes(part.where, number)


def known_classes(dataset: Any, scope: str | None) -> tuple[str, ...] | None:
    """The classes of a data set; None where its type or its folders would have to be asked."""
    metainfo = dataset.get("metainfo") or {}
    if "Panoptic" in type_name(dataset):
        return None  # things and stuff have heads of their own
    try:
        return classes_of(dataset, scope)
    except UserError:
        if isinstance(metainfo.get("classes"), str) or "CLASSES" in metainfo:
            raise
        return None


def _number(part: Part) -> int | None:
    """The number of classes of a head, where that is the number of the data's."""
    if not (part.key == "head" or part.key.endswith("_head")) or set(part.path) & set(
        OTHER_CLASSES
    ):
        return None
    given = part.given
    if given.get("class_agnostic") or part.bases() & set(OTHER_HEADS):
        return None  # one mask for all classes
    number = given.get("num_classes")
    if number is None and (found := part.found()) is not None:
        number = arguments_of(found)[0].get("num_classes")
    return number if type(number) is int and number > 0 else None


def check_classes(cfg: Config) -> None:
    """Compares the classes of the data with those of the evaluation and of the heads.

    Raises:
        UserError: Two places disagree; a class more in a classifier or a segmentor is logged.
    """
    bases = {base for part in parts_of(cfg) if part.path[:1] == ("model",) for base in part.bases()}
    if bases & OUT_OF_REACH.keys():
        return  # classes are told by a text, or there are none
    places = list(classes_in(cfg))
    heads = [one for one in places if not one.names]
    if "BaseClassifier" in bases and heads:
        _check_classifier(cfg, heads[0].number)
    named = {one.where: one for one in places if one.names}
    train = [one for one in named.values() if one.where.startswith("the training")]
    if train:
        most = max(train, key=lambda one: one.number)
        for other in train:
            if most.names[: other.number] != other.names:
                raise UserError(_differ(most, other))
        others = [one for one in named.values() if one.where.startswith("the validation")]
        for other in others:
            if other.names != most.names:
                raise UserError(_differ(most, other))
    reference = max(train or named.values(), key=lambda one: one.number, default=None)
    if reference is None:
        return
    for head in heads:
        _compare(cfg, head, reference)


def _check_classifier(cfg: Config, classes: int) -> None:
    """What has to fit the number of classes of a classifier, beside its head."""
    for part in parts_of(cfg):
        node, is_model = part.node, part.path[:1] == ("model",)
        number, topk = node.get("num_classes"), part.given.get("topk")
        mixes = node.get("batch_augments") or (cfg.model.get("train_cfg") or {}).get("augments")
        if part.key == "data_preprocessor" and mixes and number not in (None, classes):
            raise UserError(
                f"{part.where}: num_classes={number}, which mixes labels, but model.head has "
                f"{classes} classes. Set {part.where}.num_classes={classes}."
            )
        counts = node.get("cal_acc") if is_model else type_name(node) == "Accuracy"
        if counts and topk and max([topk] if isinstance(topk, int) else topk) > classes:
            raise UserError(
                f"{part.where}: topk={topk}, but model.head has {classes} classes. Set "
                f"{part.where}.topk to numbers up to {classes}."
            )


def trained_on(address: str) -> dict[str, Any]:
    """Classes, palette and category ids that a checkpoint says it was trained on, if it says any.

    mmdet 2 and mmseg 0 save the two by themselves, in capitals; the first of mmdet 3 both ways.
    """
    content = read_address(address, "meta")
    meta = content.get("meta") if isinstance(content, dict) else None
    saved = meta.get("dataset_meta") or meta if isinstance(meta, dict) else None
    if not isinstance(saved, dict):
        return {}
    saved = {key.lower(): value for key, value in saved.items() if isinstance(key, str)}
    types = dict(classes=(list, tuple), palette=(list, tuple, str), category_ids=(list, tuple))
    return {k: saved[k] for k, of in types.items() if isinstance(saved.get(k), of) and saved[k]}


def check_checkpoint(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Compares the classes that the weights of ``load_from`` know with those of the data.

    Other classes are logged: training learns them.

    Raises:
        UserError: The data to test on have the same classes in another order.
    """
    address = cfg.get("load_from")
    known = [known_classes(one, cfg.get("default_scope")) for _, one in datasets_of(cfg, loaders)]
    if not address or "://" in address or not known or not known[0]:
        return
    try:
        names, data = tuple(trained_on(address).get("classes") or ()), known[0]
    except (CheckpointError, OSError):
        return  # whoever loads it says so
    if not names or names == data or len(names) != len(data):
        return  # of another number the layers of the classes are left new, and that is said
    place = next(i for i, pair in enumerate(zip(names, data, strict=True)) if pair[0] != pair[1])
    told = (
        f"{address} was trained on other classes than {DATA[loaders[0]]} has: number {place} is "
        f"{names[place]!r} there and {data[place]!r} here"
    )
    if loaders == ("test_dataloader",) and set(names) == set(data):
        raise UserError(f"{told}. Give the data its order, metainfo=dict(classes=[...])")
    print_log(told, logger="current", level=logging.WARNING)


def _differ(one: Classes, other: Classes) -> str:
    pairs = enumerate(zip_longest(one.names, other.names))
    place = next((i for i, (first, second) in pairs if first != second), 0)
    return (
        f"{one.where} has {one.number} classes and {other.where} {other.number}; number {place} is "
        f"{[*one.names[place : place + 1]]} in one and {[*other.names[place : place + 1]]} in the "
        "other. A label is the place of a class in its list: give both the same "
        "metainfo=dict(classes=[...])"
    )


def _compare(cfg: Config, head: Classes, data: Classes) -> None:
    if head.number == data.number:
        return
    told = f"{head.where}: num_classes={head.number}, but {data.where} has {data.number} classes"
    if head.number < data.number or cfg.get("default_scope") == "mmdet":
        raise UserError(
            f"{told}. Set {head.where}.num_classes={data.number}, or name the classes to train in "
            "the dataset's metainfo=dict(classes=[...])."
        )
    print_log(told, logger="current", level=logging.WARNING)
