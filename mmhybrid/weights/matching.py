"""Which tensor of a checkpoint belongs to which of a model, whatever prefixes either has."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn

from mmhybrid.backbones.family import is_backbone
from mmhybrid.weights.entries import AVERAGED_MODULE, without_wrappers
from mmhybrid.weights.families import rename

MOST_PREFIXES = 16  # of a file that are tried; a backbone is among its largest modules


def backbones_of(model: nn.Module) -> dict[str, nn.Module]:
    """Our backbones in a model, by their prefix (``''``, ``'backbone.'``)."""
    return {
        without_wrappers(f"{name}." if name else ""): module
        for name, module in model.named_modules()
        if is_backbone(module)
    }


def frame_of(prefix: str) -> str:
    """The prefix of what holds a module: ``'student.'`` of ``'student.backbone.'``."""
    return prefix.removesuffix(".").rpartition(".")[0] + "." if prefix.count(".") > 1 else ""


def match_names(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    backbones: Mapping[str, nn.Module],
    ema: bool | None = None,
) -> dict[str, str]:
    """Maps names in the model, and names that it would have had, to names in the file.

    Each backbone is matched by itself, and what stands on it with it: mmdet's semi-supervised
    detectors hold two, and a file of one detector fills both.

    Args:
        weights: The file's, without wrappers.
        target: The model's.
        backbones: By their prefix in the model.
        ema: False takes a student, not its teacher, from a file that holds both.
    """
    found: dict[str, str] = {}
    for place, backbone in backbones.items():
        best: tuple = ()
        for source, number in prefixes(weights, place).items():
            if best and number < best[0][0]:
                continue  # it cannot hold as much
            averaged = bool(AVERAGED_MODULE.search(source)) == (ema is not False)
            for inside, names in _namings(weights, target, source, place, backbone):
                there = [(weights[names[new]], target[new]) for new in inside if new in target]
                fits = sum(fit(tensor, own).shape == own.shape for tensor, own in there)
                known = sum(new in target for new in names)
                score = (fits, len(there), source == place, averaged, known, -len(source))
                if not best or score > best[0]:
                    best = score, names
        for new, old in best[1].items() if best else ():
            found.setdefault(new, old)
    for key in weights:
        if key in target:
            found.setdefault(key, key)
    return found


def prefixes(keys: Collection[str], own: str = "") -> dict[str, int]:
    """Where a backbone may be in a file: ``own``, and the modules with most tensors; how many."""
    counts: Counter[str] = Counter()
    for key in keys:
        counts.update(_beginnings(key))
    first = {own: counts[own]} if counts[own] else {}
    largest = sorted(counts.items(), key=lambda one: (-one[1], len(one[0])))
    return first | {"": len(keys)} | dict(largest[:MOST_PREFIXES])


def _beginnings(key: str) -> Iterator[str]:
    """``'model.'``, ``'model.backbone.'``: prefixes without a number."""
    prefix = ""
    for part in key.split(".")[:-1]:
        if part.isdigit():
            return
        prefix += f"{part}."
        yield prefix


def _namings(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    source: str,
    place: str,
    backbone: nn.Module,
) -> Iterator[tuple[set[str], dict[str, str]]]:
    """If the backbone is at ``source`` in the file: its names in the model, those of the file by
    all names in the model.

    Published names are renamed or, for a wrapped backbone that has them itself, kept; weights from
    before a wrapping go into the wrapped backbone.
    """
    outside, frame = _frames(source, place)
    bare = {key.removeprefix(source): key for key in weights if key.startswith(source)}
    beside = {
        key.removeprefix(outside): key
        for key in weights
        if key.startswith(outside) and not key.startswith(source)
    }
    whole = {key.removeprefix(frame) for key in target if key.startswith(frame)}
    ours = rename([*bare, *beside], whole, [type(backbone)])
    kept = {key: key for key in ours}
    wrapped = getattr(backbone, "wrapped_prefix", "")
    for renamed in [ours] if ours == kept else [ours, kept]:
        for at in dict.fromkeys((place, place + wrapped)):
            inside = {at + renamed[key]: old for key, old in bare.items()}
            # A classifier's name is that in the whole model.
            others = {
                frame + renamed[key]: old
                for key, old in bare.items()
                if place and renamed[key] in whole and at + renamed[key] not in target
            }
            names = {frame + renamed[key]: old for key, old in beside.items()} | others | inside
            if len(inside) == len(bare):  # else two tensors have one name
                yield inside.keys() - others.keys(), names


def _frames(source: str, place: str) -> tuple[str, str]:
    """The prefixes, in file and model, of what stands beside a backbone."""
    if not place:
        return source, place
    outside, frame = source, place
    if not source or source.split(".")[-2] != place.split(".")[-2]:
        return frame_of(source), frame_of(place)
    while outside and frame and outside.split(".")[-2] == frame.split(".")[-2]:
        outside, frame = frame_of(outside), frame_of(frame)
    return outside, frame


def fit(tensor: Tensor, own: Tensor) -> Tensor:
    """A tensor in the shape of the model's own, where that changes no meaning."""
    if tensor.shape == own.shape:
        return tensor
    short, long = sorted((tuple(tensor.shape), tuple(own.shape)), key=len)
    if long == short + (1,) * (len(long) - len(short)):
        return tensor.reshape(own.shape)  # a 1x1 convolution is a linear layer
    if own.ndim != 4 or tensor.shape != (own.shape[0], 3, *own.shape[2:]):
        return tensor
    channels = own.shape[1]  # in place of three colours
    if channels == 1:
        return tensor.sum(dim=1, keepdim=True)
    return tensor.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
