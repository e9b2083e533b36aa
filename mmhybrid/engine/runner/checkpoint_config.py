"""What a checkpoint says of itself, so that a tool needs no CONFIG beside it.

MMEngine saves its config as a text and reads it back by executing that. Saved here, as
``meta["mmhybrid"]``, is the same config as plain data, with the classes, palette and sizes of the
images, the task, the origin of the weights and the versions of the packages. Nothing of it is
executed: a ``type`` must be the name of a registered class, and of modules only OpenMMLab's and
this package's are imported.
"""

import json
import sys
from contextlib import suppress
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils.misc import get_object_from_string

from mmhybrid.datasets.data_paths import datasets_of, metrics_of
from mmhybrid.engine.runner.results import training_origin
from mmhybrid.engine.runner.run_config import (
    CONFIG_ENDINGS,
    check_package,
    existing_file,
    with_options,
)
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name
from mmhybrid.weights import CheckpointError, get_weights
from mmhybrid.weights.catalogue import SCHEME
from mmhybrid.weights.config_data import (
    IMPORTED,
    PACKAGES,
    TYPE_KEYS,
    checked_config,
    is_registered,
    registries,
    scopes_of,
)
from mmhybrid.weights.loading import read_address

KEY = "mmhybrid"  # in a checkpoint's meta
TASKS = {"mmdet": "detection", "mmseg": "segmentation", "mmpretrain": "classification"}
SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "stride")
CHECKPOINT_ENDINGS = (".pth", ".pt", ".safetensors")

# What is of training alone.
OF_TRAINING = (
    *("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"),
    *("val_dataloader", "val_cfg", "val_evaluator"),
    *("load_from", "resume", "work_dir", "launcher", "custom_imports"),
)
# What a test, a prediction and an export read. Other names in a config may hold anything.
PUBLISHED = (
    *("default_scope", "model", "data_preprocessor", "data_root"),
    *("test_dataloader", "test_cfg", "test_evaluator", "tta_model", "tta_pipeline"),
    *("env_cfg", "log_processor", "log_level", "randomness", "is_quick"),
)


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
    """The part of :func:`describe` that a config says, with what is published of it.

    Raises:
        TypeError: That holds something else than plain data and registered classes.
    """
    about = _of_config(cfg, cfg.filename or "config")
    return plain(about | dict(config=published_config(about["config"])))


def published_config(config: dict[str, Any]) -> dict[str, Any]:
    """What others need of a config, whose logging services, hooks and variables are not theirs."""
    kept = {key: value for key, value in config.items() if key in PUBLISHED}
    if visualizer := config.get("visualizer"):
        local = [dict(type="LocalVisBackend")]  # by which mmseg saves images
        kept["visualizer"] = dict(type=visualizer["type"], vis_backends=local)
    if hook := (config.get("default_hooks") or {}).get("visualization"):
        kept["default_hooks"] = dict(visualization=dict(type=hook["type"]))
    return kept


def _of_config(cfg: Config, name: str) -> dict[str, Any]:
    name = f"{Path(name).stem}.py"
    return dict(name=name, task=_task(cfg), config=cfg.to_dict(), sizes=pipeline_sizes(cfg))


def _task(cfg: Config) -> str | None:
    if any("segm" in (one.get("metric") or ()) for one in metrics_of(cfg, "val_evaluator")):
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
        if is_registered(value):
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


def _registered_name(value: Any) -> str:
    for registry in registries():
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
        for scope in scopes_of(config).intersection(PACKAGES):
            check_package(scope)
        config = checked_config(config, [imports] if isinstance(imports, str) else imports)
    except ImportError as error:
        raise UserError(f"the config in {checkpoint} {error}: give CONFIG {checkpoint}") from error
    name = Path(str(described.get("name"))).name
    cfg = Config(config, cfg_text=f"# from {checkpoint}", filename=name)
    return with_options(cfg, options)


def size_note(cfg: Config, checkpoint: str) -> str:
    """A sentence on the sizes of a config that are not those in a checkpoint's own; or ``''``."""
    described: dict[str, Any] = {}
    if "://" not in checkpoint:
        with suppress(CheckpointError, OSError):  # reported where its weights are loaded
            described = read_description(checkpoint)
    if not described.get("config"):
        return ""
    mine, theirs = plain(pipeline_sizes(cfg)), described.get("sizes")
    theirs = theirs if isinstance(theirs, dict) else {}
    differing = [
        f"{key}={theirs.get(key)} there and {mine.get(key)} in the config"
        for key in sorted({*mine, *theirs})
        if json.dumps(mine.get(key)) != json.dumps(theirs.get(key), default=str)
    ]
    if not differing:
        return ""
    return (
        f"{checkpoint} was trained for other sizes of images than those of the config, which are "
        f"taken: {', '.join(differing)}. Leave out the config to take the checkpoint's."
    )
