"""What a checkpoint says of itself, so that a tool needs no CONFIG beside it.

MMEngine saves its config as a text and reads it back by executing that. Saved here, as
``meta["mmhybrid"]``, is the same config as plain data, with the classes, palette and sizes of the
images, the task, the origin of the weights and the versions of the packages. Nothing of it is
executed: a ``type`` must be the name of a registered class, and of modules only OpenMMLab's and
this package's are imported.
"""

import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils.misc import get_object_from_string

from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.engine.runner.results import training_origin
from mmhybrid.engine.runner.run_config import PACKAGES, check_package, existing_file, with_options
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name
from mmhybrid.weights import CheckpointError, get_weights
from mmhybrid.weights.catalogue import SCHEME
from mmhybrid.weights.loading import read_address

KEY = "mmhybrid"  # in a checkpoint's meta
TASKS = {"mmdet": "detection", "mmseg": "segmentation", "mmpretrain": "classification"}
SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "stride")
CONFIG_ENDINGS = (".py", ".json", ".yaml", ".yml")
CHECKPOINT_ENDINGS = (".pth", ".pt", ".safetensors")

# What names a class, and what is of training alone.
TYPE_KEYS = ("type", "runner_type", "constructor")
OF_TRAINING = (
    *("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"),
    *("val_dataloader", "val_cfg", "val_evaluator"),
    *("load_from", "resume", "work_dir", "launcher", "custom_imports"),
)
IMPORTED = (*PACKAGES, "mmhybrid", "mmengine", "mmcv")
# Registered classes that evaluate a text among their arguments.
EVALUATING = ("RFSearchHook", "CameraMotionCompensation")


def describe(runner: Runner) -> dict[str, Any]:
    """What a checkpoint of this training run says of itself: dicts, lists, text and numbers.

    Nothing, which is logged, where the config holds something else.
    """
    cfg = runner.cfg
    metainfo = getattr(runner.train_dataloader.dataset, "metainfo", {})
    loaded = [name for name in ("torch", *IMPORTED) if name in sys.modules]
    content = dict(
        **_of_config(cfg, cfg.filename or runner.experiment_name),
        classes=metainfo.get("classes"),
        palette=metainfo.get("palette"),
        origin=training_origin(runner),
        versions={name: str(sys.modules[name].__version__) for name in loaded},
    )
    try:
        return plain(content)
    except TypeError as error:
        print_log(f"Checkpoints of this run will not hold its config: {error}", logger="current")
        return {}


def describe_config(cfg: Config) -> dict[str, Any]:
    """The part of :func:`describe` that a config says; TypeError where it holds something else."""
    return plain(_of_config(cfg, cfg.filename or "config"))


def _of_config(cfg: Config, name: str) -> dict[str, Any]:
    name = f"{Path(name).stem}.py"
    return dict(name=name, task=_task(cfg), config=cfg.to_dict(), sizes=pipeline_sizes(cfg))


def _task(cfg: Config) -> str | None:
    evaluators = cfg.get("val_evaluator") or []
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    if any("segm" in (one.get("metric") or ()) for one in evaluators):
        return "instances"
    return TASKS.get(cfg.get("default_scope"))


def pipeline_sizes(cfg: Config) -> dict[str, Any]:
    """The sizes of the test pipeline and of sliding windows: ``{'Resize.scale': (1333, 800)}``."""
    parts = [
        (type_name(step), step)
        for _, dataset in datasets_of(cfg, ("test_dataloader",))
        for step in dataset.get("pipeline") or []
    ]
    parts.append(("test_cfg", (cfg.get("model") or {}).get("test_cfg") or {}))
    return {f"{name}.{key}": part[key] for name, part in parts for key in SIZE_KEYS if key in part}


def plain(value: Any, key: str = "") -> Any:
    """A part of a config as plain data, classes by their registered names.

    Raises:
        TypeError: It holds something else, such as a function that is not registered.
    """
    if isinstance(value, dict):
        return {str(name): plain(one, name) for name, one in dict.items(value)}
    if isinstance(value, list):
        return [plain(one, key) for one in value]
    if isinstance(value, tuple):
        return tuple(plain(one, key) for one in value)
    if isclass(value) or isfunction(value):
        return _registered_name(value)
    if key in TYPE_KEYS and isinstance(value, str) and "." in value:
        if _is_registered(value):
            return value
        found = get_object_from_string(value)  # module.Class, of a config in pure Python
        return value if found is None else _registered_name(found)
    if isinstance(value, str | Path):
        return str(value)
    if hasattr(value, "tolist"):  # of NumPy and PyTorch
        return value.tolist()
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"{key} is {value!r}, which is neither text nor a number")


def _registries() -> list[Registry]:
    """MMEngine's registries with their children, and those that a package has besides."""
    modules = [sys.modules.get(f"{name}.registry") for name in ("mmengine", *PACKAGES)]
    found = [one for module in modules if module for one in vars(module).values()]
    found = [one for one in found if isinstance(one, Registry)]
    for registry in found:  # which grows
        found += [child for child in registry.children.values() if child not in found]
    return found


def _is_registered(name: str) -> bool:
    """Whether a registry has the class, with or without a scope, which inherits its parent's."""
    registries = _registries()
    scope, _, rest = name.partition(".")
    if rest and scope in {one.scope for one in registries}:
        name = rest
    return any(name in one.module_dict for one in registries)


def _registered_name(value: Any) -> str:
    for registry in _registries():
        for name, registered in registry.module_dict.items():
            if registered is value:
                return name if registry.parent is None else f"{registry.scope}.{name}"
    raise TypeError(f"{value.__module__}.{value.__qualname__} is not registered")


# --- reading --------------------------------------------------------------------------------------


def is_checkpoint(name: str) -> bool:
    """Whether a word of a command line is a checkpoint's: an address, or a file but no config."""
    path = Path(name)
    is_file = path.is_file() and path.suffix not in CONFIG_ENDINGS
    return "://" in name or path.suffix in CHECKPOINT_ENDINGS or is_file


def read_description(checkpoint: str) -> dict[str, Any]:
    """What :func:`describe` wrote into a checkpoint, or an empty dict.

    Raises:
        CheckpointError: The file is damaged or unsafe.
        OSError: It cannot be read.
    """
    content = read_address(checkpoint, "meta")  # all but the bytes of tensors
    meta = content.get("meta") if isinstance(content, dict) else None
    described = meta.get(KEY) if isinstance(meta, dict) else None
    return described if isinstance(described, dict) else {}


def config_of(checkpoint: str, options: dict[str, Any] | None = None) -> Config:
    """The config that a checkpoint carries, without what only training needs.

    Args:
        checkpoint (str): File or address.
        options (dict, optional): Values by the keys of the config (``--cfg-options``).

    Raises:
        UserError: It carries none, or one that would import or run more than registered classes.
    """
    existing_file(checkpoint, "checkpoint")
    if checkpoint.startswith(SCHEME):
        name = get_weights(checkpoint).config
        needed = f"configs/{name}.py" if name else "CONFIG"
        raise UserError(f"published weights do not hold their config: give {needed} {checkpoint}")
    try:
        described = read_description(checkpoint)
    except OSError as error:
        raise UserError(str(error)) from error
    config = described.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(
            f"{checkpoint} does not hold its config as data, as what tools/train.py saves does: "
            f"give CONFIG {checkpoint}"
        )
    imports = (config.get("custom_imports") or {}).get("imports") or []
    config = {key: value for key, value in config.items() if key not in OF_TRAINING}
    try:
        _import([imports] if isinstance(imports, str) else imports, _scopes(config))
        _check_types(config)
    except ImportError as error:
        raise UserError(f"the config in {checkpoint} {error}: give CONFIG {checkpoint}") from error
    name = Path(str(described.get("name"))).name
    cfg = Config(config, cfg_text=f"# from {checkpoint}", filename=name)
    return with_options(cfg, options)


def _nodes(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value, at any depth."""
    values = node.items() if isinstance(node, dict) else ((("", one)) for one in node)
    for key, value in values:
        yield key, value
        if isinstance(value, dict | list | tuple):
            yield from _nodes(value)


def _scopes(config: dict[str, Any]) -> set[str]:
    """The packages whose registries the types are looked up in."""
    nodes = [(key, str(value)) for key, value in _nodes(config) if value]
    scopes = {value for key, value in nodes if key in ("default_scope", "_scope_")}
    return scopes | {v.partition(".")[0] for key, v in nodes if key in TYPE_KEYS and "." in v}


def _import(modules: Iterable[Any], scopes: set[str]) -> None:
    """Imports OpenMMLab's modules and ours; ImportError for others, unless they are there."""
    for name in map(str, (*modules, *scopes)):
        if name not in sys.modules and name.partition(".")[0] not in IMPORTED:
            raise ImportError(f"asks for the module {name}, which no checkpoint may import")
    for name in modules:
        if name not in sys.modules:
            importlib.import_module(name)
    for scope in scopes.intersection((*PACKAGES, "mmhybrid")):
        check_package(scope)
        importlib.import_module(f"{scope}.registry")
        for registry in _registries():
            if registry.scope == scope:
                registry.import_from_location()


def _check_types(config: dict[str, Any]) -> None:
    """MMEngine would import a type that is not registered, and mmcv evaluates the name of NMS."""
    import mmcv.ops

    for key, value in _nodes(config):
        if key in TYPE_KEYS and value is not None:
            known = isinstance(value, str) and (_is_registered(value) or hasattr(mmcv.ops, value))
            if not known or type_name(value) in EVALUATING:
                raise ImportError(f"asks for {value!r}, which is no registered class that it may")
        if key == "trust_remote_code" and value:
            raise ImportError("asks for code of others")
        if key == "dtype" and not str(value).isidentifier():
            raise ImportError(f"has dtype={value!r}, which is no type of numbers")


def size_note(cfg: Config, checkpoint: str) -> str:
    """A sentence on the sizes of a config that are not those in a checkpoint's own; or ``''``."""
    described: dict[str, Any] = {}
    if "://" not in checkpoint:
        with suppress(CheckpointError, OSError):  # reported where its weights are loaded
            described = read_description(checkpoint)
    if not described.get("config"):
        return ""
    mine, theirs = plain(pipeline_sizes(cfg)), described.get("sizes") or {}
    differing = [
        f"{key}={theirs.get(key)} there and {mine.get(key)} in the config"
        for key in sorted({*mine, *theirs})
        if json.dumps(mine.get(key)) != json.dumps(theirs.get(key))
    ]
    if not differing:
        return ""
    return (
        f"{checkpoint} was trained for other sizes of images than those of the config, which are "
        f"taken: {', '.join(differing)}. Leave out the config to take the checkpoint's."
    )
