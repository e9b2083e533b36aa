"""What of a model may stay as it was made when a checkpoint is loaded: the rule, in one place.

* A backbone comes whole from the file. New may be, as a whole each, the parts that its class names
  in ``may_be_new``. The file has no more blocks than the model, and nothing in a block that the
  model lacks.
* Necks and heads come whole too, or not at all: where the file has none or another one, they stay
  new. Class layers for other classes stay new, and the rest of the head is loaded.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmhybrid.backbones.family import Backbone
from mmhybrid.weights.matching import frame_of

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # in file and model, by name
# Counted or made anew from sizes.
MADE_ANEW = re.compile(
    r"\.(num_batches_tracked|running_(mean|var)|relative_position_index|attn_mask|"
    r"relative_coords_table)$"
)
# The layers of the heads of mmdet, mmseg and mmpretrain that have an output a class.
CLASS_LAYER = re.compile(
    r"cls|classif|logits|heat|pred|seg|\bfc|head|label_embedding|center_prior|mask_iou|se_layer"
)
PART = re.compile(r"(roi_head\.)?[^.]+")


class Refusal(NamedTuple):
    """What does not fit, and of which part of the model."""

    part: str
    reason: str
    of_backbone: bool


class Verdict(NamedTuple):
    """What the rule says of a checkpoint and a model.

    Attributes:
        new (list[str]): Names that may stay as they were made.
        left_out (list[str]): Necks and heads, by their names, that the file has others of.
        notes (list[str]): What is to be said of necks and heads.
        refusals (list[Refusal]): What must not be.
    """

    new: list[str]
    left_out: list[str]
    notes: list[str]
    refusals: list[Refusal]


def judge(
    model: nn.Module,
    backbones: Mapping[str, nn.Module],
    target: Mapping[str, Tensor],
    given: Collection[str],
    mismatched: Shapes,
) -> Verdict:
    """Applies the rule.

    Args:
        model: Without wrappers.
        backbones: Those in it, by their prefix.
        target: Tensors of the model.
        given: Names of what the file has, as they are or would be in the model.
        mismatched: Shapes, in file and model, of what does not fit.
    """
    given = set(given)
    verdict = Verdict([], [], [], [])
    learned = [key for key, tensor in target.items() if _is_learned(tensor)]
    for prefix, backbone in backbones.items():
        own = {key for key in learned if key.startswith(prefix)}
        inside = {key for key in given if key.startswith(prefix)}
        _judge_backbone(backbone, prefix, own, inside, mismatched, verdict)
    for part, own in _parts(learned, backbones).items():
        there = {key for key in given if key.startswith(f"{part}.") or key == part}
        _judge_part(model, part, own, there, mismatched, verdict)
    return verdict


def _is_learned(tensor: Tensor) -> bool:
    """Whether it is no count or index, which models make themselves."""
    return tensor.is_floating_point() or tensor.is_complex()


def _judge_backbone(
    backbone: nn.Module,
    prefix: str,
    own: set[str],
    inside: set[str],
    mismatched: Shapes,
    verdict: Verdict,
) -> None:
    missing = {key for key in own if key not in inside}
    bare, left = ([key.removeprefix(prefix) for key in keys] for keys in (own, inside - own))
    for part in parts_that_may_be_new(backbone, bare):
        names = {prefix + key for key in part}
        if names <= missing:
            verdict.new.extend(names)
            missing -= names
    reasons = []
    if missing:
        named = ", ".join(modules(missing, own - missing))
        reasons.append(f"{len(missing)} of its {len(own)} tensors are not there: {named}")
    if other := {key: shapes for key, shapes in mismatched.items() if key in own}:
        key, (theirs, ours) = next(iter(other.items()))
        named = ", ".join(modules(other, own - other.keys()))
        reasons.append(
            f"{len(other)} have other shapes: {named}; {key} is {theirs} in the file and {ours} in "
            "the model (is it another `arch`?)"
        )
    if more := _without_a_place(backbone, bare, left):
        reasons.append(f"the file has what the model lacks: {', '.join(modules(more, bare))}")
    if reasons:
        refusal = Refusal(told_backbone(backbone, prefix), "; ".join(reasons), True)
        verdict.refusals.append(refusal)


def told_backbone(backbone: nn.Module, prefix: str) -> str:
    """A backbone's class and place, in words."""
    return f"{type(backbone).__name__} ({prefix.removesuffix('.') or 'the model'})"


def parts_that_may_be_new(backbone: nn.Module, names: Iterable[str]) -> list[set[str]]:
    """The names of each part that ``may_be_new`` allows."""
    parts: dict[tuple[Any, ...], set[str]] = {}
    for name in names:
        for expression in getattr(backbone, "may_be_new", ()):
            if match := re.match(expression, name):
                parts.setdefault((expression, *match.groups()), set()).add(name)
    return list(parts.values())


def _without_a_place(backbone: nn.Module, own: Collection[str], left: Iterable[str]) -> list[str]:
    """What is left over of blocks, or of parts that may be new, which the model has otherwise."""
    if not isinstance(backbone, Backbone):
        return []
    blocks = set(backbone.block_names())
    lists = {name.rpartition(".")[0] for name in blocks}
    found = []
    for name in left:
        if MADE_ANEW.search(name) or re.search(backbone.one_sided, name):
            continue
        around = [one.rpartition(".") for one in _modules_around(name)]
        in_block = any(
            (before in lists and last.isdigit()) or f"{before}.{last}" in blocks
            for before, _, last in around
        )
        parts = filter(None, (re.match(expression, name) for expression in backbone.may_be_new))
        if in_block or any(key.startswith(part[0]) for part in parts for key in own):
            found.append(name)
    return found


def _parts(names: Iterable[str], backbones: Mapping[str, nn.Module]) -> dict[str, set[str]]:
    """Names outside of the backbones, by the part that they belong to: ``neck``, ``rpn_head``."""
    frames = {frame_of(prefix) for prefix in backbones} | {""}
    parts: dict[str, set[str]] = {}
    for name in names:
        if name.startswith(tuple(backbones)):
            continue
        frame = max((one for one in frames if name.startswith(one)), key=len)
        part = frame + PART.match(name.removeprefix(frame))[0]
        parts.setdefault(part, set()).add(name)
    return parts


def _judge_part(
    model: nn.Module,
    part: str,
    own: set[str],
    there: set[str],
    mismatched: Shapes,
    verdict: Verdict,
) -> None:
    missing, more = own - there, there - own
    more = {key for key in more if not MADE_ANEW.search(key)}
    differing = {key: shapes for key, shapes in mismatched.items() if key in own}
    of_classes = {
        key: shapes for key, shapes in differing.items() if _is_class_layer(part, key, *shapes)
    }
    others = missing | (differing.keys() - of_classes.keys())
    if not others:
        if of_classes:
            verdict.new.extend(of_classes)
            layers = ", ".join(modules(of_classes, own - of_classes.keys()))
            verdict.notes.append(
                f"class layers left new: {layers}{_told_classes(model, of_classes)}"
            )
    elif missing == own or (more and others):
        verdict.new.extend(own)
        if there:
            verdict.left_out.append(part)
            verdict.notes.append(f"{part} is another one in the file: left new as a whole")
    else:
        reasons = []
        if missing:
            named = ", ".join(modules(missing, own - missing))
            reasons.append(f"{len(missing)} of its {len(own)} tensors are not there: {named}")
        if wrong := {key: differing[key] for key in sorted(others - missing)}:
            key, (theirs, ours) = next(iter(wrong.items()))
            reasons.append(
                f"{len(wrong)} have other shapes, such as {key}: {theirs} in the file and {ours} "
                "in the model"
            )
        verdict.refusals.append(Refusal(part, ". ".join(reasons), False))


def _is_class_layer(part: str, name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether these shapes are those of one output layer, for different classes.

    Where a hidden layer is wider, that behind it differs in its other dimensions.
    """
    layer = name.removeprefix(part).rpartition(".")[0]
    last = part.rpartition(".")[2]
    if not layer and last in ("head", "fc", "classifier"):  # a head that is one layer
        layer = last
    theirs, ours = (tuple(one for one in shape[1:] if one > 1) for shape in (theirs, ours))
    return theirs == ours and bool(CLASS_LAYER.search(layer))


def _told_classes(model: nn.Module, layers: Shapes) -> str:
    """`` (80 classes in the file, 2 in the model)``, where the layers leave no doubt."""
    ours, theirs = set(), []
    for name, shapes in layers.items():
        heads = [model.get_submodule(one) for one in _modules_around(name)]
        heads = [one for one in heads if isinstance(getattr(one, "num_classes", None), int)]
        if heads:
            ours.add(heads[-1].num_classes)
            theirs.append(set(_possible_classes(heads[-1], shapes[0][0], shapes[1][0])))
    possible = set.intersection(*theirs) if theirs else set()
    if len(ours) != 1 or len(possible) != 1:
        return ""
    return f" ({possible.pop()} classes in the file, {ours.pop()} in the model)"


def _possible_classes(head: nn.Module, theirs: int, ours: int) -> Iterator[int]:
    """Number of classes in the file, for a layer of a head with so many outputs."""
    others = (0, 1, 5)  # background; a box and whether there is one
    if hasattr(head, "cls_out_channels"):
        others = (head.cls_out_channels - head.num_classes,)
    for more in others:
        each, rest = divmod(ours, head.num_classes + more)
        if each and not rest and not theirs % each:
            yield theirs // each - more


def modules(names: Iterable[str], others: Collection[str], most: int = 8) -> list[str]:
    """The modules that hold all of ``names`` and none of ``others``, with the number of tensors.

    Modules that differ in a number alone are one: ``blocks.*.attn.q``.
    """
    taken = {prefix for name in others for prefix in _modules_around(name)}
    counts: Counter[str] = Counter()
    for name in sorted(names):
        short = next((one for one in _modules_around(name) if one not in taken), name)
        counts[short] += 1
    groups: dict[str, list[str]] = {}
    for short in counts:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", short), []).append(short)
    told = []
    for members in groups.values():
        parts = zip(*(one.split(".") for one in members), strict=True)
        name = ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts)
        told.append(f"{name} ({sum(counts[one] for one in members)})")
    return told if len(told) <= most else [*told[:most], f"... {len(told) - most} more modules"]


def _modules_around(name: str) -> Iterator[str]:
    """``'a'``, ``'a.b'`` of ``'a.b.weight'``."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])
