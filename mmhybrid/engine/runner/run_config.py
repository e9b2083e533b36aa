"""From the arguments of a command line to a config that a Runner takes."""

import difflib
import importlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.datasets.sample_loading import EvaluationDataHook
from mmhybrid.engine.runner.check_config import check_config
from mmhybrid.errors import UserError

INSTALL = (
    "pip install -r requirements/runtime.txt -r requirements/openmmlab.txt "
    "-c requirements/constraints.txt"
)


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and change it by ``--cfg-options``.

    Args:
        path: Of the file.
        options: Keys with dots, and values.

    Raises:
        UserError: There is no such file, or a package that it needs is missing.
    """
    file = Path(path)
    if not file.is_file():
        neighbours = [str(other) for other in sorted(file.parent.glob("*.py"))]
        close = difflib.get_close_matches(str(file), neighbours, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"there is no config file {path}.{hint}")
    try:
        cfg = Config.fromfile(path)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} cannot be read: {error}. Install what is missing: {INSTALL}"
        ) from error
    except SyntaxError as error:
        raise UserError(f"{path}, or a config it inherits from, is no Python: {error}") from error
    except FileNotFoundError as error:
        raise UserError(
            f"{path} inherits from a config that does not exist: {error.filename or error}"
        ) from error
    options = options or {}
    replaced = [key for key, value in options.items() if _is_dictionary_replaced(cfg, key, value)]
    if replaced:
        raise UserError(
            f"--cfg-options {replaced[0]}=... would put {options[replaced[0]]!r} in the place of a "
            f"dictionary. Set its keys one by one: {replaced[0]}.KEY=VALUE"
        )
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError) as error:
        raise UserError(f"--cfg-options do not fit {path}: {error}") from error
    check_package(cfg)
    return cfg


def _is_dictionary_replaced(cfg: Config, key: str, value: Any) -> bool:
    """Whether an option puts something else than None or a dictionary where there is one."""
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return isinstance(node, dict) and not isinstance(value, dict | None)


def check_package(cfg: Config) -> None:
    """Import the package whose classes the config uses, so that a missing one is told at once."""
    scope = cfg.get("default_scope")
    if scope in (None, "mmengine"):
        return
    try:
        importlib.import_module(scope)
    except ImportError as error:
        missing = getattr(error, "name", None) or scope
        raise UserError(
            f"the config needs {scope}, which cannot be imported: {error}. "
            f"Install {missing}: {INSTALL}"
        ) from error
    except AssertionError as error:  # the packages' own check of mmcv's version
        raise UserError(
            f"the config needs {scope}, which does not accept what is installed: {error} "
            f"Versions that fit together: {INSTALL}"
        ) from error


def set_run(cfg: Config, path: str, work_dir: str | None, launcher: str, suffix: str = "") -> None:
    """Set where the run writes and how its processes find each other.

    Args:
        cfg: Changed in place.
        path: Of the config file; names the folder under ``work_dirs`` when nothing else does.
        work_dir: From the command line, or None.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        suffix: Of that name.
    """
    cfg.launcher = launcher
    default = str(Path("work_dirs") / (Path(path).stem + suffix))
    cfg.work_dir = work_dir or cfg.get("work_dir") or default
    if cfg.get("default_scope") == "mmpretrain":
        # mmpretrain's configs count on its tools for these.
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if cfg.get(loader):
                cfg[loader].setdefault("collate_fn", dict(type="default_collate"))
                cfg[loader].setdefault("pin_memory", torch.cuda.is_available())
                cfg[loader].setdefault("persistent_workers", cfg[loader].get("num_workers", 0) > 0)


def _replace_sync_batch_norm(node: Any, by: str) -> int:
    """Change every SyncBN below a config node into another type, and count them."""
    count = 0
    if isinstance(node, dict):
        if node.get("type") in ("SyncBN", "MMSyncBN", "NaiveSyncBN"):
            node["type"] = by
            count += 1
        count += sum(_replace_sync_batch_norm(value, by) for value in node.values())
    elif isinstance(node, list | tuple):
        count += sum(_replace_sync_batch_norm(value, by) for value in node)
    return count


def set_mixed_precision(cfg: Config, dtype: str) -> None:
    """Train with automatic mixed precision.

    Args:
        cfg: Changed in place.
        dtype: ``'float16'`` or ``'bfloat16'``.
    """
    if not torch.cuda.is_available():
        raise UserError("--amp needs a GPU, and PyTorch sees none")
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp works with type='OptimWrapper'; the config has {kind!r}")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.dtype = dtype
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def set_half_precision_test(cfg: Config) -> None:
    """Test in half precision."""
    if not torch.cuda.is_available():
        raise UserError("--amp needs a GPU, and PyTorch sees none")
    cfg.test_cfg.fp16 = True


def forget_pretrained(cfg: Config) -> None:
    """Fetch no weights to start from: a checkpoint follows that holds all of them."""
    cfg.model.pop("pretrained", None)
    node = cfg.model
    while "backbone" in node:  # one may wrap another
        node = node.backbone
        node.init_cfg = None


def build_runner(cfg: Config) -> Runner:
    """The runner of a config: MMEngine's, unless ``runner_type`` names another.

    SyncBN, which works between GPUs only, becomes BN in a run of one process, and between
    processes without GPUs :class:`mmhybrid.layers.gloo_sync_batch_norm.GlooSyncBatchNorm`.
    """
    if cfg.launcher == "pytorch" and not torch.cuda.is_available():
        # MMEngine's own start of several processes takes a GPU for each for granted.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        cfg.setdefault("model_wrapper_cfg", dict(broadcast_buffers=False))
        cfg.model_wrapper_cfg.update(type="MMDistributedDataParallel", device_ids=None)
    if cfg.launcher == "none" or not torch.cuda.is_available():
        by = "BN" if cfg.launcher == "none" else "mmhybrid.GlooSyncBatchNorm"
        replaced = _replace_sync_batch_norm(cfg.model, by)
        if replaced:
            print_log(
                f"SyncBN works between GPUs only: {replaced} norm_cfg use {by} in this run",
                logger="current",
            )
    check_config(cfg)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.register_hook(EvaluationDataHook())
    return runner


def set_resume(cfg: Config, resume: str | None) -> None:
    """Continue from a checkpoint.

    Args:
        cfg: Changed in place.
        resume: ``'auto'`` for the newest checkpoint in the work folder that is whole, a path, or
            None.
    """
    if resume is None:
        return
    if resume != "auto":
        cfg.resume = True
        cfg.load_from = existing_file(resume, "checkpoint")
        return
    from mmhybrid.engine.hooks.durable_checkpoint_hook import newest_whole_checkpoint

    newest = newest_whole_checkpoint(cfg.work_dir)
    if newest is None:
        print_log(f"No checkpoint in {cfg.work_dir} yet: starting anew", logger="current")
    else:
        cfg.resume = True
        cfg.load_from = newest


def _plain_name(kind: Any) -> str:
    """The name of a class that a config gives as a name, with or without scope, or as itself."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def set_safeguards(cfg: Config) -> None:
    """Have a training run lose nothing: what MMEngine's own hooks and loops lack.

    In are durable checkpoints, exact resumption, signals and the check of losses and gradients; see
    ``docs/recovery.md``. Hooks, loops and samplers of one's own stay as they are. ``None`` in the
    config leaves a safeguard out: ``default_hooks = dict(non_finite=None)``.

    Args:
        cfg: Complete; changed in place.
    """
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    if checkpoint and _plain_name(checkpoint.type) == "CheckpointHook":
        checkpoint.type = "mmhybrid.DurableCheckpointHook"
    for name, kind in (("signals", "SignalHook"), ("non_finite", "NonFiniteHook")):
        hooks.setdefault(name, ConfigDict())
        if hooks[name] is None:
            del hooks[name]
        else:
            hooks[name].setdefault("type", f"mmhybrid.{kind}")

    loop, loader = cfg.train_cfg, cfg.train_dataloader
    kind = "EpochBasedTrainLoop" if loop.get("by_epoch") else "IterBasedTrainLoop"
    kind = _plain_name(loop.get("type", kind))
    batches = loader.get("batch_sampler")
    known = (
        kind in ("EpochBasedTrainLoop", "IterBasedTrainLoop")
        and _plain_name(loader.sampler.type) in ("DefaultSampler", "InfiniteSampler")
        and (not batches or _plain_name(batches.type) == "AspectRatioBatchSampler")
    )
    if not known:
        print_log(
            "The loop or the samplers of this config are not those of MMEngine: --resume goes on "
            "from the checkpoint, but not with the very same images",
            logger="current",
        )
        return
    loop.pop("by_epoch", None)
    loop.type = f"mmhybrid.Resumable{kind}"
    loader.batch_sampler = ConfigDict(
        type="mmhybrid.ResumableBatchSampler", drop_last=loader.pop("drop_last", False)
    )
    if batches:
        batches.setdefault("drop_last", loader.batch_sampler.pop("drop_last"))
        loader.batch_sampler.batch_sampler = batches


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by (batch of all GPUs) / ``auto_scale_lr.base_batch_size``."""
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise UserError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config"
        )
    cfg.auto_scale_lr.enable = True


def existing_file(path: str, what: str) -> str:
    """The path, if it is a file here or an address elsewhere; otherwise an error."""
    if "://" not in path and not Path(path).is_file():
        raise UserError(f"there is no {what} {path}")
    return path


def set_drawing(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draw the predictions of a test run, in a window or into files."""
    hook = cfg.default_hooks.get("visualization")
    if hook is None:
        raise UserError("--show and --show-dir need default_hooks.visualization in the config")
    hook.show = show
    hook.wait_time = wait_time
    hook["enable" if cfg.default_scope == "mmpretrain" else "draw"] = True
    if show_dir is None:
        return
    # Absolute, for mmdet puts a relative folder under the run's time stamp once for each image.
    folder = str(Path(show_dir).absolute())
    if cfg.default_scope == "mmdet":
        hook.test_out_dir = folder
    elif cfg.default_scope == "mmpretrain":
        hook.out_dir = folder
        hook.interval = 1
    else:
        cfg.visualizer.save_dir = folder
        hook.interval = 1


def set_output(cfg: Config, out: str) -> None:
    """Keep the predictions of a test run: a pickle file, or for segmentation a folder of maps."""
    scope = cfg.get("default_scope")
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, list | tuple) else [evaluators]
    if scope == "mmseg":
        evaluators[0] = dict(evaluators[0], output_dir=out, keep_results=True)
    elif not out.endswith((".pkl", ".pickle")):
        raise UserError(f"--out writes a pickle file: its name must end in .pkl, not {out}")
    else:
        dump = "DumpDetResults" if scope == "mmdet" else "DumpResults"
        evaluators.append(dict(type=dump, out_file_path=out))
    cfg.test_evaluator = evaluators


def set_test_time_augmentation(cfg: Config) -> None:
    """Predict on each image and its mirror image, or as ``tta_pipeline`` says, and merge."""
    scope = cfg.get("default_scope")
    if scope == "mmdet" and "mask_head" in cfg.model.get("roi_head", cfg.model):
        raise UserError("--tta merges boxes alone, as mmdet does; this model predicts masks too")
    if "tta_model" not in cfg:
        if scope == "mmdet":
            nms = dict(type="nms", iou_threshold=0.5)
            cfg.tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
        else:
            kind = "AverageClsScoreTTA" if scope == "mmpretrain" else "SegTTAModel"
            cfg.tta_model = dict(type=kind)
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    if "tta_pipeline" not in cfg:
        *before, pack = deepcopy(dataset.pipeline)
        if scope == "mmdet":
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack = dict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
        flips = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [*before, dict(type="TestTimeAug", transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
