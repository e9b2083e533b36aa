"""From a config file to a config, and from a complete config to a Runner."""

import difflib
import importlib
import os
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, init_dist, is_distributed, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from mmhybrid.backbones.family import Backbone
from mmhybrid.datasets.check_data.samples import why_unreadable
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.datasets.sample_loading import EvaluationDataHook
from mmhybrid.engine.hooks.sharded_clip_hook import ShardedClipHook
from mmhybrid.engine.runner.launchers import set_process_variables
from mmhybrid.engine.runner.strategies import PACKAGES as PACKAGES_OF_STRATEGIES
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights.catalogue import SCHEME, get_weights
from mmhybrid.weights.config_data import PACKAGES

FILES = "-r requirements/runtime.txt -r requirements/openmmlab.txt -c requirements/constraints.txt"
IS_CHECKOUT = (Path(__file__).parents[3] / "requirements").is_dir()
INSTALL = f"pip install {FILES}" if IS_CHECKOUT else 'pip install "mmhybrid[det,seg,cls]"'
OF_MIM = Path(__file__).parents[2] / ".mim"  # made by an installation, of a checkout too
CONFIG_ENDINGS = (".py", ".json", ".yaml", ".yml")
T = TypeVar("T")


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, of either of MMEngine's styles, and change it by ``--cfg-options``.

    Where it names no ``default_scope``, that is the package of the model.
    """
    if not Path(path).is_file():
        neighbours = [str(other) for other in sorted(Path(path).parent.glob("*.py"))]
        close = difflib.get_close_matches(str(Path(path)), neighbours, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"there is no config file {path}.{hint}")
    if Path(path).suffix not in CONFIG_ENDINGS:
        raise UserError(f"{path} is no config: the name of one ends in {', '.join(CONFIG_ENDINGS)}")
    try:
        cfg = Config.fromfile(path)
        scope = cfg.get("default_scope") or _package_of(cfg.get("model") or {})
    except ModuleNotFoundError as error:
        reason = f"{path} cannot be read: {error}. Install what is missing: {INSTALL}"
        raise UserError(reason) from error
    except SyntaxError as error:
        raise UserError(f"{path}, or a config it inherits from, is no Python: {error}") from error
    except FileNotFoundError as error:
        missing = error.filename or error
        told = f"{path} inherits from a config that does not exist: {missing}"
        if str(OF_MIM) in str(missing) and not OF_MIM.exists():
            told += ". Names as mmhybrid::_base_/... need an installed mmhybrid: pip install -e ."
        raise UserError(told) from error
    if isinstance(cfg.get("data"), dict) and not cfg.get("train_dataloader"):
        raise UserError(
            f"{path} is written for mmdet 2, mmseg 0 or mmcls 0: what was `data`, `optimizer` and "
            "`runner` is now train_dataloader, optim_wrapper and train_cfg. Inherit from the "
            "config of the same name of today's package, as in _base_ = 'mmdet::...'"
        )
    cfg = with_options(cfg, options)
    if scope and not cfg.get("default_scope"):
        cfg.default_scope = scope
    check_package(cfg.get("default_scope"))
    return cfg


def _package_of(model: Any) -> str | None:
    """The package of a model without ``default_scope``: that of its class or of a base of it."""
    given = model.get("type")
    if isinstance(given, str) and MODELS.get(given) is None:
        for package in PACKAGES:
            check_package(package)
            if MODELS.get(f"{package}.{given}") is not None:
                return package
    packages = [base.__module__.partition(".")[0] for base in getattr(given, "__mro__", ())]
    return next((package for package in packages if package in PACKAGES), None)


def with_options(cfg: Config, options: dict[str, Any] | None) -> Config:
    """A config changed by ``--cfg-options``, which must fit it and not replace a dictionary."""
    cfg, options = deepcopy(cfg), options or {}
    for key, value in options.items():
        if key.startswith("backbone.") and "backbone" in (cfg.get("model") or {}):
            raise UserError(
                f"--cfg-options {key}={value} changes nothing: `backbone` is what the model of the "
                f"config was made of, which has its own. Set model.{key}={value}"
            )
        node: Any = cfg
        for part in key.split("."):
            node = node.get(part) if hasattr(node, "get") else None
        if isinstance(node, dict) and not isinstance(value, dict | None):
            raise UserError(
                f"--cfg-options {key}=... would put {value!r} in the place of a dictionary. "
                f"Set its keys one by one: {key}.KEY=VALUE"
            )
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError) as error:
        raise UserError(f"--cfg-options do not fit {cfg.filename}: {error}") from error
    return cfg


def map_values(node: Any, change: Callable[[str, Any], Any], key: str = "") -> Any:
    """A part of a config with ``change(key, value)`` for each value that is no dict and no list.

    Values in a list have the key of the list.
    """
    if isinstance(node, dict):
        # dict's own items(): a ConfigDict's would replace types by classes, which no log can show.
        return type(node)({name: map_values(one, change, name) for name, one in dict.items(node)})
    if isinstance(node, list | tuple):
        return type(node)(map_values(one, change, key) for one in node)
    return change(key, node)


def check_package(scope: str | None) -> None:
    """Import the package whose classes the config uses, to report at once that it is missing."""
    if scope in (None, "mmengine"):
        return
    try:
        importlib.import_module(scope)
    except ImportError as error:
        missing = getattr(error, "name", None) or scope
        told = f"which cannot be imported: {error}. Install {missing}"
        raise UserError(f"the config needs {scope}, {told}: {INSTALL}") from error
    except AssertionError as error:  # the packages' own check of mmcv's version
        told = f"which does not accept what is installed: {error} Versions that fit together"
        raise UserError(f"the config needs {scope}, {told}: {INSTALL}") from error


def existing_file(path: str, what: str) -> str:
    """Reports a file that is missing, or a name that the catalogue lacks, before the run."""
    if path.startswith(SCHEME):
        get_weights(path)
    elif "://" not in path and not Path(path).is_file():
        raise UserError(f"there is no {what} {path}")
    return path


def has_our_backbone(cfg: Config) -> bool:
    """Whether the backbone of the model is of mmhybrid or written for it."""
    backbone = (cfg.get("model") or {}).get("backbone")
    found = backbone and type_of(backbone, MODELS, cfg.get("default_scope"))
    return isinstance(found, type) and issubclass(found, Backbone)


def without_pretrained(cfg: Config) -> Config:
    """A config that fetches no weights for its backbone."""
    cfg = deepcopy(cfg)
    cfg.model.pop("pretrained", None)
    node = cfg.model
    while "backbone" in node:  # one may wrap another
        node = node.backbone
        node.init_cfg = None
        node.pop("pretrained", None)  # of mmpretrain's TIMMBackbone
    return cfg


def build_runner(cfg: Config) -> Runner:
    connect_processes(cfg)
    name = None
    if cfg.get("visualizer"):
        cfg = deepcopy(cfg)
        name = cfg.visualizer.pop("name", None)  # by which MMEngine would take an earlier run's
    try:
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    except ImportError as error:  # such as that of a visualizer
        raise UserError(f"the config needs what is not installed: {error}") from error
    if name:  # which OpenMMLab's tools need in the config that a run leaves
        runner.cfg.visualizer.name = name
        runner.dump_config()
    runner.register_hook(EvaluationDataHook())
    if "runner_type" in cfg:
        runner.register_hook(ShardedClipHook())
    return runner


def build_loops(runner: Runner, loops: tuple[str, ...]) -> None:
    """Builds the data sets and metrics of ``"train"``, ``"val"`` or ``"test"``.

    A Runner builds them when it trains, each with errors of its own.

    Raises:
        UserError: A data set cannot be read, a metric not be made, or a package is missing.
    """
    for loop in loops:
        if getattr(runner, f"_{loop}_loop", None) is None:
            continue
        try:
            dataset = getattr(runner, f"{loop}_loop").dataloader.dataset
            if isinstance(getattr(dataset, "metainfo", None), list):
                # mmdet's ConcatDataset of parts that know more and fewer classes: check_config has
                # made sure that the longest list holds for all.
                dataset._metainfo = max(dataset.metainfo, key=lambda one: len(one["classes"]))
                runner.visualizer.dataset_meta = dataset.metainfo
        except UserError:
            raise
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            makers = [type(frame.f_locals.get("self")) for frame in reversed(frames)]
            bases = (torch.utils.data.Dataset, BaseMetric)
            made = next((one for one in makers if issubclass(one, bases)), None)
            if made is None and not isinstance(error, ImportError):
                raise
            loader = runner.cfg.get(f"{loop}_dataloader") or {}
            if made is None or issubclass(made, BaseMetric):
                name = made.__name__ if made else "a part"
                raise UserError(f"{name} of {loop}ing cannot be made: {error}") from error
            parts = [one for _, one in datasets_of(runner.cfg, (f"{loop}_dataloader",))]
            part = next((one for one in parts if type_name(one) == made.__name__), loader)
            raise why_unreadable(part if part is not loader else {"type": made}, error) from error


def connect_processes(cfg: Config) -> None:
    """Connects the processes of a run, unless they are connected or it has one."""
    if cfg.get("launcher", "none") == "none" or is_distributed():
        return
    set_process_variables(cfg.launcher)
    gpus = torch.cuda.is_available()
    if gpus and type_name(cfg.get("strategy") or {}) in PACKAGES_OF_STRATEGIES:
        return
    env_cfg = cfg.get("env_cfg", {})
    set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=True)
    try:
        if gpus:
            init_dist(cfg.launcher, **env_cfg.get("dist_cfg", {}))
        else:  # MMEngine's own start of several processes takes a GPU for each for granted
            torch.distributed.init_process_group("gloo")
    except torch.distributed.DistNetworkError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"the processes cannot meet at {where}, set by MASTER_ADDR and MASTER_PORT: {error}"
        ) from error


def by_first_process(make: Callable[[], T]) -> T:
    """What the first of the connected processes makes; the others wait for it, and get a copy.

    Raises:
        UserError: In all of them, where it is raised in the first.
    """
    answers: list[Any] = [None]
    if is_main_process():
        try:
            answers = [make()]
        except UserError as error:
            answers = [error]
    broadcast_object_list(answers)
    (answer,) = answers
    if isinstance(answer, UserError):
        raise answer
    return answer
