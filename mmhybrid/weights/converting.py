"""Weights under other names, for files that others are to read: loading renames by itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mmhybrid.backbones.base import backbone_classes
from mmhybrid.backbones.family import Backbone
from mmhybrid.errors import ArgumentError
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import describe, has_signs, recognise, rename, renamed


@dataclass
class Conversion:
    """Weights under new names."""

    family: str
    weights: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)  # new names by old ones
    changed: list[str] = field(default_factory=list)  # new names of what got another shape
    left_out: list[str] = field(default_factory=list)  # old names of what has no place


def to_ours(weights: Mapping[str, Tensor]) -> Conversion:
    """Gives the authors' weights our names, and the shapes that our models have.

    Those of other families, and those that have our names, stay as they are. Where there is a
    classifier, the names are those of mmpretrain's ``ImageClassifier``.
    """
    family = recognise(weights)
    if family is None or family.host:
        return Conversion(family.name if family else "unknown", dict(weights))
    backbone = family.backbone or Backbone
    classifier = family.published.classifier
    whole = bool(classifier) and all(
        any(renamed(key, {old: new}) != key for key in weights) for old, new in classifier.items()
    )
    names = rename(weights, classifier.values() if whole else ())
    result, ours = Conversion(family.name, {}), {}
    for old, new in names.items():
        if re.search(backbone.one_sided, new):
            result.left_out.append(old)
            continue
        if whole and not new.startswith(("backbone.", "head.")):
            new = f"backbone.{new}"
        ours[new] = weights[old]
        if new != old:
            result.renamed[old] = new
    result.weights = backbone.from_published(dict(ours), "backbone." if whole else "")
    result.changed = _changed(ours, result.weights)
    return result


def to_authors(weights: Mapping[str, Tensor], image_size: int = 224) -> Conversion:
    """Gives our weights the names and shapes of the authors' files.

    Args:
        weights: Of a backbone or a model that holds one; of detectors, the backbone alone is taken.
        image_size: Side of the images, in pixels, for the masks that a file of DW-Swin holds.

    Raises:
        CheckpointError: These are no weights of ours, or there is none of the authors' for them.
    """
    family = recognise(weights)
    if family is None or family.published.names or not getattr(family.backbone, "published", ()):
        classes = ", ".join(c.__name__ for c in backbone_classes() if c.published)
        raise CheckpointError(
            f"there are no names of authors to go back to: this seems to be {describe(weights)}. "
            f"Back go weights of our {classes}."
        )
    backbone = family.backbone
    inside = any(key.startswith("backbone.") for key in weights)
    result, ours = Conversion(backbone.family, {}), {}
    for old, tensor in weights.items():
        bare = old.removeprefix("backbone.")
        outside = inside and bare == old and not old.startswith("head.fc.")
        if outside or re.search(backbone.one_sided, bare):
            result.left_out.append(old)
        else:
            ours[bare] = tensor
    try:
        theirs = backbone.to_published(dict(ours), image_size)
    except ArgumentError as error:
        raise CheckpointError(str(error)) from error
    whole = any(key.startswith("head.fc.") for key in theirs)
    for form in backbone.published:  # the form that has what we have
        back = {new: old for old, new in form.names.items()}
        if whole:
            classifier = form.classifier.items()
            back = {new.removeprefix("backbone."): old for old, new in classifier} | back
        names = {key: renamed(key, back) for key in theirs}
        if has_signs(form.signs, names.values()):
            break
    result.weights = {new: theirs[bare] for bare, new in names.items()}
    result.changed = [names[bare] for bare in _changed(ours, theirs)]
    for old in weights:
        new = names.get(old.removeprefix("backbone."), old)
        if new != old and old not in result.left_out:
            result.renamed[old] = new
    return result


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    return [
        key
        for key, tensor in after.items()
        if key not in before or before[key].shape != tensor.shape
    ]
