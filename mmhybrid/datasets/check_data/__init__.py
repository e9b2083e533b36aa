"""Finds what is wrong with the data of a config, before training.

A file a format (``coco``, ``samples``), one for what all share (``images``), and one with all that
can be found (``problems``).
"""

import random
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from typing import Any

from mmengine.config import Config
from mmengine.utils import track_iter_progress

from mmhybrid.datasets.check_data.coco import is_coco, read_coco
from mmhybrid.datasets.check_data.contents import Contents
from mmhybrid.datasets.check_data.images import check_image, images_in_both
from mmhybrid.datasets.check_data.problems import PROBLEMS, Found, findings_of, shortened
from mmhybrid.datasets.check_data.samples import read_samples
from mmhybrid.datasets.data_paths import LOADERS, classes_of, datasets_of
from mmhybrid.datasets.findings import Finding, errors_first
from mmhybrid.errors import UserError

QUICK_IMAGES, QUICK_MASKS, SEED = 2000, 200, 0
LEAK = 0.01  # share of an evaluation's images that may be training images, too
RARE = 0.1  # share of the classes that may occur in evaluation alone

__all__ = ["PROBLEMS", "Found", "check", "check_before_training", "check_image"]


def check(
    data: Config | Mapping[str, Any],
    quick: bool = False,
    loaders: tuple[str, ...] = LOADERS,
    most: int | None = None,
    workers: int = 4,
) -> list[Finding]:
    """Reads everything that a config trains and evaluates on.

    Args:
        data (Config | Mapping): A complete config, or configs of data sets by split (``"train"``,
            ``"val"``, ``"test"``).
        quick (bool): Of images only the headers, of 2,000 at most, and 200 masks, chosen by a seed.
            What training leaves out is an error only where it is more than a tenth of the images.
            Defaults to False.
        most (int, optional): Images to open of each data set, evenly distributed. Defaults to all.
        workers (int): Threads that open images. Defaults to 4.

    Returns:
        Errors first. ``"class-count"`` is what was counted in each split, by class. A data set
        that two loaders share is checked once.

    Raises:
        UserError: A data set cannot be built.
    """
    if isinstance(data, Config):
        scope = data.get("default_scope")
        parts = [
            (name.removesuffix("_dataloader"), one) for name, one in datasets_of(data, loaders)
        ]
    else:
        scope, parts = None, list(data.items())
    keys = ("type", "data_root", "ann_file", "data_prefix", "split")
    findings: list[Finding] = []
    images: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {}
    read: list[tuple[str, Contents, list[Found]]] = []
    for split, dataset in parts:
        source = repr([dataset.get(key) for key in keys])
        if source not in seen:
            contents = _read(dataset, scope, quick)
            found = _open(contents, quick, most, workers)
            few_are_left_out = quick and split == "train"
            findings += findings_of(found, split, len(contents.images), few_are_left_out)
            read.append((split, contents, found))
            seen[source] = contents.images
        images.setdefault(split, []).extend(seen[source])
    trained = next((one.names for split, one, _ in read if split == "train"), ())
    for split, contents, _ in read:
        findings += _other_classes(trained, contents.names, split)
    evaluated = {name for split, one, _ in read if split != "train" for name in +one.counts}
    for split, contents, found in read:
        findings += _judge_labels(contents, found, split, evaluated)
    findings += _leaks(images, workers, quick)
    return errors_first(findings)


def check_before_training(cfg: Config, ignore: Iterable[str] = ()) -> list[Finding]:
    """The quick check of what a run trains and validates on.

    Args:
        ignore (Iterable[str]): Codes of findings that are left out.

    Raises:
        UserError: There are errors: what would waste the run.
    """
    loaders = ("train_dataloader", "val_dataloader")
    found = [one for one in check(cfg, True, loaders) if one.code not in set(ignore)]
    errors = [one for one in found if one.severity == "error"]
    if errors:
        codes = list(dict.fromkeys(one.code for one in errors))
        told = "\n".join(f"  {one}" for one in errors)
        raise UserError(
            f"the run would be wasted on these data:\n{told}\n"
            f"  If this is as it should be: --ignore {' '.join(codes)}"
        )
    return found


def _read(dataset: Any, scope: str | None, header_only: bool) -> Contents:
    if is_coco(dataset, scope):
        return read_coco(dataset, classes_of(dataset, scope), header_only)
    return read_samples(dataset, scope, header_only)


def _open(contents: Contents, quick: bool, most: int | None, workers: int) -> list[Found]:
    """Opens images and masks: all that is found, and the classes that masks show are counted."""
    checks = contents.checks
    if most is not None and len(checks) > most:
        checks = [checks[i * len(checks) // most] for i in range(most)]
    limit = QUICK_MASKS if contents.unit == "masks" else QUICK_IMAGES
    if quick and len(checks) > limit:
        checks = random.Random(SEED).sample(checks, limit)
    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(lambda check: check(), checks)
        if len(checks) > 500 and not quick:
            checked = track_iter_progress((checked, len(checks)))
        found = [*contents.found, *chain.from_iterable(checked)]
    for labels in contents.shown:
        contents.counts.update(contents.classes[label] for label in labels.tolist())
    return found


def _other_classes(trained: tuple[str, ...], names: tuple[str, ...], split: str) -> list[Finding]:
    """Whether the labels of a split are those of training: a label is a place in the list."""
    places = [i for i, pair in enumerate(zip_longest(trained, names)) if pair[0] != pair[1]]
    # Of several training sets one may know the first classes alone.
    if not trained or not names or not places or (split == "train" and places[0] == len(names)):
        return []
    severity, what, result = PROBLEMS["classes-differ"]
    told = f"{split}: {what} ({result}): label {places[0]} is {names[places[0] :][:1]} here and"
    return [Finding("classes-differ", severity, f"{told} {trained[places[0] :][:1]} in training")]


def _judge_labels(
    contents: Contents, found: list[Found], split: str, evaluated: set[str]
) -> list[Finding]:
    """Counts of the classes, those that never occur, and whether half of the images has none."""
    if contents.unit is None:
        return []
    total, severity = len(contents.images), "error" if split == "train" else "warning"
    sampled = ""
    if contents.unit == "masks":
        if len(contents.shown) < total:
            sampled = f" in the {len(contents.shown):,} masks that were read, of {total:,}"
        total = len(contents.shown)
    classes, counts = contents.classes, contents.counts
    often = [name for name in sorted(classes, key=lambda name: -counts[name]) if counts[name]]
    told = ", ".join(f"{name} {counts[name]:,}" for name in often) or "none"
    told = f"{split}: {contents.unit} of each class{sampled}: {told}"
    findings = [Finding("class-count", "info", told)]
    without = [one.image for one in found if one.code == "image-without-label"]
    if without and 2 * len(without) >= total and split != "test":
        told = f"{split}: {len(without):,} of {total:,} images have no label"
        findings.append(Finding("mostly-unlabelled", severity, told, without))
    unused = [name for name in classes if not counts[name]]
    if unused and (often or contents.shown):
        few = evaluated.issuperset(unused) and len(unused) < RARE * len(classes)
        told = f"{split}: {len(unused):,} of {len(classes):,} classes never occur{sampled}"
        told = f"{told}: {shortened(unused)}"
        for label, masks in contents.ignored.items():
            told += f"; {masks:,} masks have pixels of the label {label}, which is ignored"
        severity = "warning" if sampled or few else severity
        findings.append(Finding("class-without-image", severity, told))
    return findings


def _leaks(images: dict[str, list[str]], workers: int, quick: bool) -> list[Finding]:
    """Images of an evaluation that are trained on: its metric tells nothing of new images.

    Where all are, a config may mean it, as a trial of whether a model learns; before a training on
    data of one's own it is an error.
    """
    findings = []
    for split in sorted(images.keys() - {"train"}):
        common = images_in_both(images.get("train", []), images[split], workers)
        if common:
            severity = "error" if len(common) > LEAK * len(images[split]) else "warning"
            if len(common) == len(images[split]) and not quick:
                severity = "info"
            told = f"{split}: {len(common):,} of {len(images[split]):,} images are training images"
            findings.append(Finding("duplicate-across-splits", severity, told, common))
    return findings
