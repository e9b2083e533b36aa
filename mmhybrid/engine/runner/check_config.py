"""What can be wrong with a config, told before anything large is built, and not in a traceback."""

import difflib
import logging
from collections.abc import Iterable
from pathlib import Path

from mmengine import registry as root
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, Registry

from mmhybrid.datasets.data_paths import LOADERS, datasets_of
from mmhybrid.engine.runner.check_channels import check_channels
from mmhybrid.engine.runner.check_classes import check_classes
from mmhybrid.engine.runner.config_parts import Part, arguments_of, ends_closed, parts_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name
from mmhybrid.weights.catalogue import SCHEME, get_weights

# Parts of a model that are built with all that stands in them, by their keys; nothing else is.
MODULES = ("model", "backbone", "neck", "data_preprocessor", "head", "detector", "module")
ENDINGS = ("_head", "_roi_extractor")
# The registries of what is not in the model, by keys.
REGISTRIES = {
    "dataset": root.DATASETS,
    "datasets": root.DATASETS,
    "pipeline": root.TRANSFORMS,
    "transforms": root.TRANSFORMS,
    "sampler": root.DATA_SAMPLERS,
    "batch_sampler": root.DATA_SAMPLERS,
    "val_evaluator": root.METRICS,
    "test_evaluator": root.METRICS,
    "optim_wrapper": root.OPTIM_WRAPPERS,
    "optimizer": root.OPTIMIZERS,
    "param_scheduler": root.PARAM_SCHEDULERS,
    "custom_hooks": root.HOOKS,
    "visualizer": root.VISUALIZERS,
    "vis_backends": root.VISBACKENDS,
    "train_cfg": root.LOOPS,
    "val_cfg": root.LOOPS,
    "test_cfg": root.LOOPS,
}
ROOTS = {*LOADERS, "val_evaluator", "test_evaluator", "optim_wrapper", "param_scheduler"}
ROOTS |= {"default_hooks", "custom_hooks", "visualizer", "train_cfg", "val_cfg", "test_cfg"}
# What MMEngine takes out of an argument list before it calls the class.
TAKEN_OUT = {
    root.OPTIM_WRAPPERS: ("constructor", "paramwise_cfg"),
    root.PARAM_SCHEDULERS: ("convert_to_iter_based",),
    root.HOOKS: ("priority",),
    root.LOOPS: ("by_epoch",),
}
SWALLOWED = ("keep_results",)  # mmseg's own tools/test.py gives it to IoUMetric, which drops it
CLOSE = 0.85  # likeness of a name that can only be a slip of the pen


def check_config(cfg: Config) -> None:
    """Raise a UserError where a name does not exist or two parts do not fit together."""
    if not cfg.get("model"):
        raise UserError("the config has no model")
    _check_run(cfg)
    for part in parts_of(cfg):
        if (registry := _registry_of(part)) is not None:
            _check_names(part, registry)
        if cfg.get("train_dataloader"):
            _check_file(part)
    check_pretrained(cfg)
    check_channels(cfg)
    check_classes(cfg)
    _check_start(cfg.get("load_from"), cfg.get("resume"))
    _check_crops(cfg)


def check_pretrained(cfg: Config) -> None:
    """Raise a UserError where mmseg would give a backbone weights in a way that it does not know.

    That is part of :func:`check_config`, and asked before ``--quick`` drops the weights.
    """
    for part in parts_of(cfg):
        if not part.node.get("pretrained") or "EncoderDecoder" not in part.bases():
            continue
        node = part.node.get("backbone") or {}
        found = Part((*part.path, "backbone"), node, node.get("_scope_", part.scope)).found()
        known, is_open = arguments_of(found) if found else ({}, True)
        if "pretrained" not in known and not is_open:
            raise UserError(
                f"{part.where}.pretrained: {type_name(found)} takes weights by "
                f"{part.where}.backbone.init_cfg. Set {part.where}.pretrained=None"
            )


def check_model(cfg: Config) -> None:
    """The same of the model alone: it need not fit data that nobody reads."""
    check_config(Config(dict(model=cfg.model, default_scope=cfg.get("default_scope"))))


def _check_run(cfg: Config) -> None:
    """Whether there is all that a run needs; of a model alone nothing is asked."""
    for names in (
        ("train_dataloader", "train_cfg", "optim_wrapper"),
        ("val_dataloader", "val_cfg", "val_evaluator"),
        ("test_dataloader", "test_cfg", "test_evaluator"),
    ):
        lacking = [name for name in names if cfg.get(name) is None]
        if lacking and len(lacking) < len(names):
            raise UserError(
                f"{' and '.join(lacking)} is None or missing: of {', '.join(names)} a config needs "
                "all or none"
            )
    for name in filter(cfg.get, LOADERS):
        for key in ("dataset", "sampler"):
            if not cfg[name].get(key):
                raise UserError(f"{name}.{key} is empty or missing")


def _check_start(address: str | None, resume: bool | None) -> None:
    if not address:
        return
    if "://" not in address and not Path(address).expanduser().is_file():
        raise UserError(f"load_from: there is no checkpoint {address}")
    if not address.startswith(SCHEME):
        return
    get_weights(address)
    if resume:
        raise UserError(
            f"{address} holds weights alone, of which no run can be resumed: start a new one from "
            f"them with --cfg-options load_from={address}"
        )


def _check_file(part: Part) -> None:
    """Whether the weights that a part of the model names are there."""
    node = part.node
    file = node.get("checkpoint") if type_name(node) == "Pretrained" else None
    if part.path[:1] != ("model",) or not isinstance(file, str) or "://" in file:
        return
    if not Path(file).expanduser().is_file():
        raise UserError(f"{part.where}: there is no checkpoint {file!r}")


def _registry_of(part: Part) -> Registry | None:
    """The registry that a part is built from, as far as it is built from what stands there."""
    first, key = part.path[0] if part.path else "", part.key
    if "type" not in part.node or "Albu" in part.around:
        return None
    if first in ("model", "data_preprocessor"):
        return MODELS if key in MODULES or key.endswith(ENDINGS) else None
    if first not in ROOTS:
        return None
    if first == "default_hooks":
        return root.HOOKS if len(part.path) == 2 else None
    return REGISTRIES.get(key)


def _check_names(part: Part, registry: Registry) -> None:
    found, name = part.found(registry), type_name(part.node)
    if found is None and registry is root.METRICS:
        found = part.found(root.EVALUATOR)
    if found is None:
        with registry.switch_scope_and_registry(part.scope) as here:
            known = [*here.module_dict, *registry.module_dict]
        hint = _suggestion(name, known)
        if _lacks_multimodal(part.scope):
            hint += ". Some of mmpretrain's are there only beside packages that are not installed: "
            hint += 'pip install "mmpretrain[multimodal]"'
        raise UserError(f"{part.where}: there is no type {name!r}{hint}")
    known, is_open = arguments_of(found)
    taken = ("type", "_scope_", *TAKEN_OUT.get(registry, ()), *(SWALLOWED if is_open else ()))
    for name in (one for one in part.node if one not in (*known, *taken)):
        told = f"{part.where}: {type_name(found)} has no argument {name!r}"
        if not is_open or (registry not in (MODELS, root.TRANSFORMS) and ends_closed(found)):
            hint = _suggestion(name, known)
            raise UserError(f"{told}{hint}. It takes {', '.join(sorted(known))}.")
        # Of what it hands on as **kwargs nothing is known but that this is nearly one of its own.
        if hint := _suggestion(name, known, CLOSE):
            print_log(told + hint, logger="current", level=logging.WARNING)


def _lacks_multimodal(scope: str | None) -> bool:
    if scope != "mmpretrain":
        return False
    from mmpretrain.utils.dependency import WITH_MULTIMODAL

    return not WITH_MULTIMODAL


def _suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_crops(cfg: Config) -> None:
    """Whether mmseg can stack the images that it trains on."""
    node = cfg.model.get("data_preprocessor") or {}
    if type_name(node) != "SegDataPreProcessor" or not cfg.get("train_dataloader"):
        return
    size, divisor = node.get("size"), node.get("size_divisor")
    _, dataset = next(datasets_of(cfg, ("train_dataloader",)))
    steps = [step for step in dataset.get("pipeline") or [] if type_name(step) == "RandomCrop"]
    crop = steps[-1]["crop_size"] if steps else None
    crop = (crop, crop) if isinstance(crop, int) else crop and tuple(crop)
    where = "model.data_preprocessor"
    if (size is None) == (divisor is None):
        example = f"size={crop}" if crop else "size=(HEIGHT, WIDTH)"
        raise UserError(
            f"{where}: one of size and size_divisor must say to what training pads images, as in "
            f"{example}; the config has {'neither' if size is None else 'both'}"
        )
    if size and crop and tuple(size) != crop:
        print_log(
            f"{where}: size={tuple(size)}, but training crops to {crop}: smaller images are "
            f"padded, and larger ones cannot be stacked with small ones. Set {where}.size={crop}.",
            logger="current",
            level=logging.WARNING,
        )
