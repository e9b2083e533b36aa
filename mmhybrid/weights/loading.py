"""Loading weights into a model that holds one of our backbones, whoever saved them."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmhybrid.weights.comparing import compare
from mmhybrid.weights.downloading import DOWNLOADED, check_sha256, load_url
from mmhybrid.weights.entries import find_weights, unwrapped, without_wrappers
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import describe
from mmhybrid.weights.matching import backbones_of
from mmhybrid.weights.reading import read_checkpoint
from mmhybrid.weights.report import LoadReport
from mmhybrid.weights.rule import Verdict, modules
from mmhybrid.weights.suggesting import suggestion

OF_TRAINING = re.compile(r"(.+\.)?auxiliary_head\.")  # what predictions do without
_heads_are_needed: ContextVar[bool] = ContextVar("heads_are_needed", default=False)


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    map_location: Any = "cpu",
    ema: bool | None = None,
    allow_partial: bool = False,
    sha256: str | None = None,
    logger: Any = "current",
) -> LoadReport:
    """Loads a checkpoint into a model that holds, or is, one of our backbones.

    Ours and the authors' files load, of a backbone or a whole model, into a backbone or a whole
    model. A stem with other than three input channels gets the sum (one channel) or a scaled
    repetition of the pretrained one.

    Args:
        model: receives the weights.
        path: a file, ``mmhybrid://NAME`` of :func:`mmhybrid.list_weights`, or any address that
            MMEngine takes.
        ema: take the averaged weights (True) or the others (False); by default the averaged ones
            where the file has both.
        allow_partial: load what fits of a checkpoint that is refused otherwise. By default, all of
            a backbone must come from the file but the parts that its class names as allowed to be
            new (:attr:`mmhybrid.backbones.family.Backbone.may_be_new`), and a neck or head that
            the file has must come whole, but for class layers of other classes.
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
        model, checkpoint, source=path, ema=ema, allow_partial=allow_partial, logger=logger
    )


def read_address(path: str, map_location: Any, sha256: str | None = None) -> Any:
    """Reads a file, downloads ``mmhybrid://`` and HTTP, and leaves other addresses to MMEngine."""
    if path.startswith(DOWNLOADED):
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
    allow_partial: bool = False,
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
    entry, weights, _ = find_weights(checkpoint, ema, source)
    return load_tensors(
        model,
        weights,
        source=source,
        entry=entry,
        allow_partial=allow_partial,
        ema=ema,
        logger=logger,
    )


def load_tensors(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str = "the checkpoint",
    entry: str = "state_dict",
    allow_partial: bool = False,
    ema: bool | None = None,
    strict: bool = False,
    logger: Any = "current",
) -> LoadReport:
    """Loads tensors by their names; see :func:`load_checkpoint`.

    Args:
        ema: False takes the student of a file that holds a teacher's tensors too.
        strict: raise CheckpointError where there are missing, unexpected or mismatched keys.
    """
    model = unwrapped(model)
    given, weights = weights, {without_wrappers(key): value for key, value in weights.items()}
    if len(weights) < len(given):
        raise CheckpointError(f"{source} has two tensors whose names differ in `module.` alone")
    # Compiled parts of a model have `_orig_mod.` in their names.
    full_names = {without_wrappers(key): key for key in model.state_dict()}
    report, fitted, verdict = compare(model, weights, source=source, entry=entry, ema=ema)
    if verdict.refusals and not allow_partial:
        raise CheckpointError(refused(verdict, report, model, weights))
    differs = report.missing_keys or report.unexpected_keys or report.mismatched or report.new
    if strict and differs:
        raise CheckpointError(f"the checkpoint does not match exactly: {report}")
    if _heads_are_needed.get() and (told := new_heads(model, report)):
        raise CheckpointError(f"{told} Give weights of a whole model, with the same classes.")

    model.load_state_dict({full_names[key]: fitted[key] for key in report.loaded}, strict=False)
    print_log(str(report), logger, logging.WARNING if report.is_partial else logging.INFO)
    return report


@contextmanager
def whole_models() -> Iterator[None]:
    """Inside, what leaves a neck or head as it was made is refused: training alone starts so.

    Example:
        >>> from mmhybrid.weights.loading import whole_models
        >>> with whole_models():
        ...     pass  # runner.test()
    """
    token = _heads_are_needed.set(True)
    try:
        yield
    finally:
        _heads_are_needed.reset(token)


def new_heads(model: nn.Module, report: LoadReport) -> str:
    """Says what of a model is as it was made, outside of its backbones; ``''`` for nothing."""
    inside = tuple(backbones_of(model) or [""])
    new = [key for key in report.new if not (key.startswith(inside) or OF_TRAINING.match(key))]
    if not new:
        return ""
    notes = f" ({'; '.join(report.notes)})" if report.notes else ""
    named = ", ".join(modules(new, report.loaded))
    return f"{report.source} leaves {named} of the model random{notes}."


def refused(
    verdict: Verdict, report: LoadReport, model: nn.Module, weights: Mapping[str, Tensor]
) -> str:
    """Says what does not fit, whose the file seems to be, and what takes it."""
    of_backbones = [one for one in verdict.refusals if one.of_backbone]
    told = of_backbones or verdict.refusals
    parts = "; ".join(f"{one.part}: {one.reason}" for one in told)
    text = f"{report.source} does not fit {parts}. It seems to hold {describe(weights)}."
    if of_backbones:
        if call := suggestion(model, weights):
            text += f" {call} takes it whole."
    else:
        text += (
            " The backbone alone is loaded by model.backbone.init_cfg=dict(type='Pretrained', "
            "checkpoint=...)."
        )
    return f"{text} allow_partial=True loads what fits all the same."
