"""Loading weights into a model that holds one of our backbones, whoever saved them."""

import logging
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmhybrid.backbones.base import is_backbone
from mmhybrid.weights.downloading import check_sha256, load_url
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import describe, rename
from mmhybrid.weights.reading import read_checkpoint

MIN_COVERAGE = 0.5
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN = ("state_dict", "model", "model_state_dict", "net", "network", "module")
# Where a backbone is found inside other models.
SOURCE_PREFIXES = ("", "backbone.", "encoder.", "model.", "net.", "model.backbone.")
Mismatch = tuple[tuple[int, ...], tuple[int, ...]]

RENAMED = {"missing": "missing_keys", "left_over": "unexpected_keys"}  # of a report


@dataclass
class LoadReport:
    """What became of the tensors of a checkpoint and of a model.

    Names are those in the model, but for ``unexpected_keys``: those are in the file.

    Attributes:
        source: where the checkpoint came from.
        entry: the part of it that was taken, e.g. ``state_dict_ema``.
        renamed: for those loaded that have another name in the file, that name.
        adapted: what was resized or summed to fit.
        mismatched: the shapes in file and model of what does not fit.
    """

    source: str
    entry: str = "state_dict"
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched: dict[str, Mismatch] = field(default_factory=dict)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing_keys) + len(self.mismatched)
        lines = [f"loaded {len(self.loaded)} of {total} tensors from {self.entry} of {self.source}"]
        for what, names in (
            ("adapted in shape", self.adapted),
            ("missing keys", self.missing_keys),
            ("unexpected keys", self.unexpected_keys),
        ):
            if names:
                more = f", ... ({len(names)} in all)" if len(names) > 6 else ""
                lines.append(f"{what}: {', '.join(names[:6])}{more}")
        for key, (theirs, ours) in list(self.mismatched.items())[:8]:
            lines.append(f"does not fit: {key} is {theirs} in the file and {ours} in the model")
        if len(self.mismatched) > 8:
            lines.append(f"... and {len(self.mismatched) - 8} more that do not fit")
        return "\n  ".join(lines)

    def __getattr__(self, old: str) -> list[str]:
        if old not in RENAMED:
            raise AttributeError(f"LoadReport has no attribute {old}")
        warnings.warn(
            f"LoadReport.{old} is now LoadReport.{RENAMED[old]}; the old name goes in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(self, RENAMED[old])


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    map_location: Any = "cpu",
    ema: bool | None = None,
    min_coverage: float = MIN_COVERAGE,
    sha256: str | None = None,
    logger: Any = "current",
) -> LoadReport:
    """Loads a checkpoint into a model that holds, or is, one of our backbones.

    Ours and the authors' files load, of a backbone or a whole model, into a backbone or a whole
    model. A stem with other than three input channels gets the sum (one channel) or a scaled
    repetition of the pretrained one.

    Args:
        model: receives the weights.
        path: a file, or any address that MMEngine takes.
        ema: take the averaged weights (True) or the others (False); by default the averaged ones
            where the file has both.
        min_coverage: the least part of the backbone's tensors that must be loaded.
        sha256: what the file's SHA-256 starts with, at least eight digits.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or unsafe, or holds other weights; the message says
            whose they seem to be.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from mmhybrid.backbones import XFormer
        >>> from mmhybrid.weights import load_checkpoint, write_checkpoint
        >>> detector = nn.ModuleDict(dict(backbone=XFormer(), head=nn.Linear(2, 3)))
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     write_checkpoint(dict(state_dict=detector.state_dict()), file.name)
        ...     report = load_checkpoint(XFormer(), file.name, logger='silent')
        >>> report.unexpected_keys, report.missing_keys
        (['head.weight', 'head.bias'], [])
    """
    path = os.fspath(path)
    checkpoint = read_address(path, map_location, sha256)
    return load_weights(
        model, checkpoint, source=path, ema=ema, min_coverage=min_coverage, logger=logger
    )


def read_address(path: str, map_location: Any, sha256: str | None = None) -> Any:
    """Reads a checkpoint from a file, by HTTP, or as MMEngine does from where it alone can."""
    if path.startswith(("http://", "https://")):
        return load_url(path, map_location=map_location, sha256=sha256)
    if "://" in path and sha256 is None:
        from mmengine.runner.checkpoint import CheckpointLoader

        return CheckpointLoader.load_checkpoint(path, map_location)
    if sha256 is not None:
        if "://" in path:
            raise CheckpointError(f"sha256 is compared of files and downloads, not of {path}")
        path = os.path.expanduser(path)
        check_sha256(path, sha256)
    return read_checkpoint(path, map_location)


def load_weights(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    *,
    source: str = "the checkpoint",
    ema: bool | None = None,
    min_coverage: float = MIN_COVERAGE,
    logger: Any = "current",
) -> LoadReport:
    """Loads what was read already; see :func:`load_checkpoint`.

    Example:
        >>> from mmhybrid.backbones import XFormer
        >>> from mmhybrid.weights import load_weights
        >>> model = XFormer()
        >>> report = load_weights(model, dict(model=model.state_dict()), logger='silent')
        >>> report.entry, len(report.loaded) == len(model.state_dict())
        ('model', True)
    """
    entry, weights = find_weights(checkpoint, ema, source)
    return load_tensors(
        model, weights, source=source, entry=entry, min_coverage=min_coverage, logger=logger
    )


def load_tensors(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str = "the checkpoint",
    entry: str = "state_dict",
    min_coverage: float = MIN_COVERAGE,
    strict: bool = False,
    logger: Any = "current",
) -> LoadReport:
    """Loads tensors by their names; see :func:`load_checkpoint`.

    Args:
        strict: raise CheckpointError where there are missing, unexpected or mismatched keys.
    """
    model = unwrapped(model)
    given, weights = weights, {without_wrappers(key): value for key, value in weights.items()}
    if len(weights) < len(given):
        raise CheckpointError(f"{source} has two tensors whose names differ in `module.` alone")
    # Compiled parts of a model have `_orig_mod.` in their names.
    target = {without_wrappers(key): tensor for key, tensor in model.state_dict().items()}
    full_names = {without_wrappers(key): key for key in model.state_dict()}
    report = LoadReport(source, entry)
    names = _match_names(weights, target, model)
    ours = {new: weights[old] for new, old in names.items()}

    fitted = dict(ours)
    for prefix, backbone in backbones_of(model).items():
        fitted = backbone.adapt_state_dict(fitted, prefix)
    for key, own in target.items():
        if key not in fitted:
            report.missing_keys.append(key)
            continue
        tensor = _fit(fitted[key], own)
        if tensor.shape != own.shape:
            report.mismatched[key] = (tuple(tensor.shape), tuple(own.shape))
            continue
        fitted[key] = tensor
        report.loaded.append(key)
        if key in ours and tensor.shape != ours[key].shape:
            report.adapted.append(key)
        if names.get(key, key) != key:
            report.renamed[key] = names[key]
    # What a backbone's adapt_state_dict takes out is used up, not unexpected.
    used = {old for new, old in names.items() if new in target or new not in fitted}
    report.unexpected_keys = [old for old in weights if old not in used]
    _check(report, model, target, weights, min_coverage)
    if strict and (report.missing_keys or report.unexpected_keys or report.mismatched):
        raise CheckpointError(f"the checkpoint does not match exactly: {report}")

    model.load_state_dict({full_names[key]: fitted[key] for key in report.loaded}, strict=False)
    incomplete = report.mismatched or [k for k in report.missing_keys if "num_batches" not in k]
    print_log(str(report), logger, logging.WARNING if incomplete else logging.INFO)
    return report


def backbones_of(model: nn.Module) -> dict[str, nn.Module]:
    """Our backbones in a model, by their prefix (``''``, ``'backbone.'``)."""
    return {
        without_wrappers(f"{name}." if name else ""): module
        for name, module in model.named_modules()
        if is_backbone(module)
    }


def _pretrained_parts(model: nn.Module) -> dict[str, nn.Module]:
    """:func:`backbones_of`, those that wrap another by the prefix of the wrapped one."""
    return {
        prefix + getattr(backbone, "wrapped_prefix", ""): backbone
        for prefix, backbone in backbones_of(model).items()
    }


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside data parallel and compiled ones."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        else:
            return model


def without_wrappers(key: str) -> str:
    """A name without what data parallel and compiled models put in."""
    key = key.replace("_orig_mod.", "")
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def find_weights(
    checkpoint: Any, ema: bool | None = None, source: str = "the checkpoint"
) -> tuple[str, dict[str, Tensor]]:
    """The name of the entry that holds the weights, and its tensors; ``ema`` as above."""
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{source} holds no weights but a {type(checkpoint).__name__}")
    plain = _entry(checkpoint, PLAIN)
    averaged = _entry(checkpoint, AVERAGED)
    if averaged and plain and averaged[0] == "ema_state_dict" and "meta" in checkpoint:
        # MMEngine's EMAHook saves the averaged weights as `state_dict` and the others here.
        others = {without_wrappers(key): tensor for key, tensor in averaged[1].items()}
        kept = {key: others.get(key, tensor) for key, tensor in plain[1].items()}
        averaged, plain = plain, ("ema_state_dict", kept)
    if ema and not averaged:
        raise CheckpointError(f"{source} holds no averaged (EMA) weights")
    if ema is False and averaged and not plain:
        raise CheckpointError(f"{source} holds averaged (EMA) weights only")
    if found := plain if ema is False else averaged or plain:
        return found
    if tensors := _tensors(checkpoint):
        return "the root", tensors
    raise CheckpointError(f"{source} holds no weights; its entries are {list(checkpoint)[:10]}")


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    return {k: v for k, v in values.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _entry(
    checkpoint: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[str, dict[str, Tensor]] | None:
    """The first of these entries that holds tensors, maybe one level deeper."""
    for name in names:
        inner = checkpoint.get(name)
        if tensors := _tensors(inner):
            return name, tensors
        if isinstance(inner, Mapping) and (found := _entry(inner, PLAIN)):
            return f"{name}.{found[0]}", found[1]
    return None


def _match_names(
    weights: dict[str, Tensor], target: dict[str, Tensor], model: nn.Module
) -> dict[str, str]:
    """Maps names in the model to names in the file.

    Each backbone is matched by itself: mmdet's semi-supervised detectors hold two, and a file of
    one detector fills both.
    """
    renamed = rename(weights, target, map(type, backbones_of(model).values()))

    def placed(strip: str, add: str) -> dict[str, str]:
        return {
            add + new.removeprefix(strip)
            if new not in target and new.startswith(strip)
            else new: old
            for old, new in renamed.items()
        }

    def fitting(names: dict[str, str]) -> int:
        if len(names) < len(renamed):
            return -1  # two tensors for one name
        return sum(
            new in target and _fit(weights[old], target[new]).shape == target[new].shape
            for new, old in names.items()
        )

    names: dict[str, str] = {}
    for prefix in _pretrained_parts(model) or [""]:
        # Outside in: '', 'student.', 'student.backbone.'
        places = ["", *accumulate(f"{part}." for part in prefix.split(".")[:-1])]
        names |= max((placed(*one) for one in product(SOURCE_PREFIXES, places)), key=fitting)
    return names


def _fit(tensor: Tensor, own: Tensor) -> Tensor:
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


def _check(
    report: LoadReport,
    model: nn.Module,
    target: Collection[str],
    weights: Collection[str],
    min_coverage: float,
) -> None:
    """Raises CheckpointError if too little of a backbone was loaded."""
    for prefix, backbone in (_pretrained_parts(model) or {"": model}).items():
        own = {key for key in target if key.startswith(prefix) and "num_batches" not in key}
        covered = len(own.intersection(report.loaded))
        if covered >= min_coverage * len(own):
            continue
        name = f"{type(backbone).__name__} ({prefix.removesuffix('.') or 'the model'})"
        problem = (
            f"{report.source} does not fit {name}: it has {covered} of the {len(own)} tensors, and "
            f"at least {min_coverage:.0%} must be there. It seems to hold {describe(weights)}."
        )
        if report.mismatched:
            key, (theirs, ours) = next(iter(report.mismatched.items()))
            problem += f" {len(report.mismatched)} have other shapes: {key} is {theirs} in the "
            problem += f"file and {ours} in the model; is it another `arch`?"
        raise CheckpointError(problem)
