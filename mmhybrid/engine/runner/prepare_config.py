"""From the arguments of a command line to a config; no step changes the one that it is given."""

import logging
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmhybrid.datasets.check_data import check_before_training
from mmhybrid.datasets.contact_sheet import draw_contact_sheet
from mmhybrid.datasets.data_paths import (
    LOADERS,
    check_data,
    check_metrics,
    datasets_of,
    metrics_of,
    with_data_root,
)
from mmhybrid.deploy.fuse import check_bfloat16
from mmhybrid.engine.hooks.durable_checkpoint_hook import newest_whole_checkpoint
from mmhybrid.engine.runner.check_channels import check_unused_maps
from mmhybrid.engine.runner.check_classes import check_checkpoint
from mmhybrid.engine.runner.check_config import check_config, check_pretrained
from mmhybrid.engine.runner.checkpoint_config import config_of, size_note
from mmhybrid.engine.runner.data_folder import with_folder
from mmhybrid.engine.runner.mended_annotations import with_mended_annotations
from mmhybrid.engine.runner.own_data import best_metric
from mmhybrid.engine.runner.quick import make_quick
from mmhybrid.engine.runner.recipe import images_an_epoch, with_recipe
from mmhybrid.engine.runner.run_config import (
    by_first_process,
    connect_processes,
    existing_file,
    has_our_backbone,
    load_config,
    map_values,
    with_options,
    without_pretrained,
)
from mmhybrid.engine.runner.short_config import write_short_config
from mmhybrid.engine.runner.starting_weights import with_weights
from mmhybrid.engine.runner.strategies import with_strategy
from mmhybrid.engine.runner.work_dir_lock import lock_work_dir, unlock_work_dir
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

SYNC_NORMS = ("SyncBN", "MMSyncBN", "NaiveSyncBN", "SyncBatchNorm")


def prepare_config(args: Namespace) -> Config:
    """The config of a training run, from the arguments of ``tools/train.py``."""
    if args.quick and args.no_validate:
        raise UserError("--quick evaluates what it trained: leave out --no-validate")
    if args.quick and args.weights == "auto":
        raise UserError(
            "--quick starts from random weights: name those to start from instead of auto"
        )
    cfg = _load(args, is_training=True)
    if args.no_validate:
        cfg = with_options(cfg, dict.fromkeys(["val_cfg", "val_dataloader", "val_evaluator"]))
    if args.amp:
        on_gpu = torch.cuda.is_available()
        cfg = with_mixed_precision(cfg, args.amp_dtype) if on_gpu else with_bfloat16(cfg)
    if args.auto_scale_lr:
        cfg = with_scaled_lr(cfg)
    if args.resume:
        cfg = with_resume(cfg, args.resume)
    if cfg.get("load_from") and has_our_backbone(cfg):
        cfg = without_pretrained(cfg)  # all of the backbone comes from load_from, or it is refused
    read = ("train_dataloader", "val_dataloader")
    check_config(cfg)
    check_unused_maps(cfg)
    check_data(cfg, read)
    check_metrics(cfg, read)
    check_checkpoint(cfg, read[:1])
    if not args.data:  # those of --data are written by this package
        cfg = with_mended_annotations(cfg, read)
    return for_its_processes(with_best(with_safeguards(cfg)))


def prepare_test_config(args: Namespace) -> Config:
    """The same of a test run, from the arguments of ``tools/test.py``."""
    if args.quick and args.config is None:
        raise UserError(
            "a checkpoint has its own data and sizes: leave out --quick, or give CONFIG"
        )
    cfg = with_options(without_pretrained(_load(args)), dict(load_from=args.checkpoint))
    # It fails where there is no training loop, and a checkpoint's own config has none.
    hooks = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [hook for hook in hooks if "EarlyStopping" not in type_name(hook)]
    if args.show or args.show_dir:
        cfg = with_drawing(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        cfg = with_test_time_augmentation(cfg)
    if args.out and args.out_item == "pred":
        cfg = with_output(cfg, args.out)
    if args.amp:
        cfg = with_options(cfg, {"test_cfg.fp16": True})
    if args.config and (note := size_note(cfg, args.checkpoint)):
        print_log(note, logger="current", level=logging.WARNING)
    check_config(cfg)
    check_data(cfg, ("test_dataloader",))
    check_metrics(cfg, ("test_dataloader",))
    check_checkpoint(cfg, ("test_dataloader",))
    return for_its_processes(with_mended_annotations(cfg, ("test_dataloader",)))


def _load(args: Namespace, is_training: bool = False) -> Config:
    """The config with its options, launcher, work folder and data, drawn if need be."""
    if args.config is None:
        cfg = config_of(args.checkpoint, args.cfg_options)
    else:
        cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.data and args.data_root:
        raise UserError(
            "--data is a folder in any format, --data-root one in the config's: give one of them"
        )
    name = run_name(cfg.filename, args.data, args.quick)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / name)
    if cfg.get("default_scope") == "mmpretrain":
        # mmpretrain's configs count on its tools for these.
        for loader in filter(None, map(cfg.get, LOADERS)):
            loader.setdefault("collate_fn", dict(type="default_collate"))
            loader.setdefault("pin_memory", torch.cuda.is_available())
            loader.setdefault("persistent_workers", loader.get("num_workers", 0) > 0)
    if "checkpoint" in args:
        existing_file(args.checkpoint, "checkpoint")
    if args.amp and not torch.cuda.is_available():
        if not is_training:
            raise UserError("--amp needs a GPU, and PyTorch sees none")
        if args.amp_dtype != "bfloat16":
            raise UserError(
                "--amp needs a GPU, and PyTorch sees none; a CPU trains with --amp-dtype bfloat16"
            )
        check_bfloat16()
    if is_training and cfg.launcher == "none" and Path(cfg.work_dir).is_dir():
        # Before anything is written there; the run itself takes the lock when it begins.
        lock_work_dir(cfg.work_dir)
        unlock_work_dir(cfg.work_dir)
    if is_training and args.quick and not args.weights and not cfg.get("load_from"):
        check_pretrained(cfg)  # of the run without --quick, which has no pretrained weights
    if args.data:
        return _with_own_folder(cfg, args, is_training)
    if args.quick:
        cfg = make_quick(cfg, args.data_root)
    elif args.data_root:
        cfg = with_data_root(cfg, args.data_root)
    if is_training and args.weights:
        cfg = with_weights(cfg, args.weights, Path(args.config).stem)
    # The options have the last word.
    return with_options(cfg, args.cfg_options) if args.quick else cfg


def run_name(config: str, data: str | None, is_quick: bool) -> str:
    """The folder of a run in ``work_dirs``; RUN_config of ``RUN/config.py``."""
    path = Path(config)
    run = f"{path.resolve().parent.name}_" if path.name == "config.py" else ""
    folder = f"_{Path(data).resolve().name}" if data else ""
    return run + path.stem + folder + ("_quick" if is_quick else "")


def _with_own_folder(cfg: Config, args: Namespace, is_training: bool) -> Config:
    """The config of ``--data``, which a training leaves as ``WORK_DIR/config.py``."""
    connect_processes(cfg)
    cfg, _ = with_folder(cfg, args.data, args.ignore)
    if args.quick:
        cfg = make_quick(cfg, is_own=True)
    if not is_training:
        return with_options(cfg, args.cfg_options)
    if args.weights or not args.quick:
        cfg = with_weights(cfg, args.weights or "auto", Path(args.config).stem)
    if not args.quick:
        cfg = with_recipe(cfg, images_an_epoch(cfg), best_metric(cfg))
    cfg = with_options(cfg, args.cfg_options)  # which have the last word
    by_first_process(lambda: _check_and_write(cfg, args))
    return cfg


def _check_and_write(cfg: Config, args: Namespace) -> None:
    """What a training on data of one's own does before it starts."""
    for finding in check_before_training(cfg, args.ignore):
        if finding.severity == "warning":
            print_log(finding.text, "current", logging.WARNING)
    sheet = Path(cfg.work_dir) / "labels.png"
    _, dataset = next(datasets_of(cfg, ("train_dataloader",)))
    draw_contact_sheet(dataset, sheet, scope=cfg.get("default_scope"))
    print_log(f"Images with their labels: {sheet}", logger="current")
    file = Path(cfg.work_dir) / "config.py"
    write_short_config(cfg, args.config, file)
    print_log(f"The config of this run: {file}", logger="current")


def with_mixed_precision(cfg: Config, dtype: str) -> Config:
    cfg = deepcopy(cfg)
    _check_wrapper(cfg)
    cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype=dtype)
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    return cfg


def with_bfloat16(cfg: Config) -> Config:
    """The mixed precision that a CPU has."""
    cfg = deepcopy(cfg)
    _check_wrapper(cfg)
    for name in ("dtype", "loss_scale", "use_fsdp"):  # of AmpOptimWrapper
        cfg.optim_wrapper.pop(name, None)
    cfg.optim_wrapper.type = "mmhybrid.Bfloat16OptimWrapper"
    return cfg


def _check_wrapper(cfg: Config) -> None:
    wrapper = type_name(cfg.optim_wrapper) or "OptimWrapper"
    if wrapper not in ("OptimWrapper", "AmpOptimWrapper", "Bfloat16OptimWrapper"):
        raise UserError(f"--amp works with type='OptimWrapper'; the config has {wrapper!r}")


def with_scaled_lr(cfg: Config) -> Config:
    """Scale the learning rate by (batch of all GPUs) / ``auto_scale_lr.base_batch_size``."""
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        needed = "auto_scale_lr=dict(base_batch_size=...)"
        raise UserError(f"--auto-scale-lr needs {needed} in the config")
    return with_options(cfg, {"auto_scale_lr.enable": True})


def with_resume(cfg: Config, resume: str) -> Config:
    """Continue from a checkpoint: a path, or ``'auto'`` for the newest whole one of the run."""
    if resume == "auto":
        connect_processes(cfg)
        hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
        places = hook.get("out_dir"), hook.get("filename_tmpl")
        checkpoint = newest_whole_checkpoint(cfg.work_dir, *places)
    else:
        checkpoint = existing_file(resume, "checkpoint")
    if checkpoint is None:
        print_log(f"No checkpoint in {cfg.work_dir} yet: starting anew", logger="current")
        return cfg
    return with_options(cfg, dict(resume=True, load_from=checkpoint))


def with_safeguards(cfg: Config) -> Config:
    """Have a training run lose nothing, as ``docs/recovery.md`` says."""
    cfg = deepcopy(cfg)
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    loop, loader = cfg.train_cfg, cfg.train_dataloader
    if "max_iters" in loop:
        _count_iterations(hooks, loop.get("val_interval", 1000))
        cfg.setdefault("log_processor", ConfigDict()).setdefault("by_epoch", False)
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    if checkpoint and type_name(checkpoint) == "CheckpointHook":
        checkpoint.type = "mmhybrid.DurableCheckpointHook"
    for name, hook in (("signals", "SignalHook"), ("non_finite", "NonFiniteHook")):
        if hooks.setdefault(name, ConfigDict()) is None:
            del hooks[name]
        else:
            hooks[name].setdefault("type", f"mmhybrid.{hook}")
    for hook in [*hooks.values(), *(cfg.get("custom_hooks") or [])]:
        if type_name(hook) == "EarlyStoppingHook":
            hook["type"] = "mmhybrid.ResumableEarlyStoppingHook"
    batches = loader.get("batch_sampler")
    default = "EpochBasedTrainLoop" if loop.get("by_epoch") else "IterBasedTrainLoop"
    loop_type = (type_name(loop) or default).removeprefix("Resumable")
    if (
        loop_type not in ("EpochBasedTrainLoop", "IterBasedTrainLoop")
        or type_name(loader.sampler) not in ("DefaultSampler", "InfiniteSampler")
        or type_name(batches) not in ("", "AspectRatioBatchSampler", "ResumableBatchSampler")
    ):
        print_log(
            "The loop or the samplers of this config are not those of MMEngine: --resume goes on "
            "from the checkpoint, but not with the very same images",
            logger="current",
        )
        return cfg
    loop.pop("by_epoch", None)
    loop.type = f"mmhybrid.Resumable{loop_type}"
    if type_name(batches) == "ResumableBatchSampler":
        return cfg
    drop_last = loader.pop("drop_last", False)
    if batches:
        batches.setdefault("drop_last", drop_last)
    inner = dict(batch_sampler=batches) if batches else dict(drop_last=drop_last)
    loader.batch_sampler = dict(type="mmhybrid.ResumableBatchSampler", **inner)
    return cfg


def _count_iterations(hooks: ConfigDict, interval: int) -> None:
    """Fit what counts epochs by default to a run of iterations, which is a single epoch."""
    default = ConfigDict(type="CheckpointHook", by_epoch=False, interval=interval)
    checkpoint = hooks.setdefault("checkpoint", default)
    is_known = type_name(checkpoint) in ("CheckpointHook", "DurableCheckpointHook")
    if is_known and checkpoint.get("by_epoch", True):
        print_log(
            "default_hooks.checkpoint counts epochs, and a run of iterations is one: it saves at "
            "the end alone. With by_epoch=False it saves every `interval` iterations",
            logger="current",
            level=logging.WARNING,
        )
    logger = hooks.setdefault("logger", ConfigDict(type="LoggerHook"))
    if type_name(logger) == "LoggerHook":
        logger.setdefault("log_metric_by_epoch", False)


def with_best(cfg: Config) -> Config:
    """Keep the weights of the best evaluation as ``best.pth``."""
    cfg = deepcopy(cfg)
    checkpoint = cfg.default_hooks.checkpoint
    if cfg.get("val_dataloader") and type_name(checkpoint or {}) == "DurableCheckpointHook":
        checkpoint.setdefault("save_best", "auto")
    return cfg


def for_its_processes(cfg: Config) -> Config:
    """Fit a config to its ``launcher`` and to a machine without GPUs."""
    cfg = deepcopy(with_strategy(cfg))
    gpus = torch.cuda.is_available()
    if cfg.launcher != "none" and not gpus:
        cfg.setdefault("model_wrapper_cfg", dict(broadcast_buffers=False))
        cfg.model_wrapper_cfg.update(type="MMDistributedDataParallel", device_ids=None)
    if cfg.launcher == "none" or not gpus:
        norm = "BN" if cfg.launcher == "none" else "mmhybrid.GlooSyncBatchNorm"

        def replaced(key: str, value: Any) -> Any:
            return norm if key == "type" and type_name(value) in SYNC_NORMS else value

        model = map_values(cfg.model, replaced)
        if model != cfg.model:
            message = f"SyncBN works between GPUs only: its layers use {norm} in this run"
            print_log(message, logger="current")
        cfg.model = model
    return cfg


def with_drawing(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> Config:
    if cfg.default_hooks.get("visualization") is None:
        raise UserError("--show and --show-dir need default_hooks.visualization in the config")
    cfg = deepcopy(cfg)
    hook = cfg.default_hooks.visualization
    hook.update(show=show, wait_time=wait_time)
    hook["enable" if cfg.default_scope == "mmpretrain" else "draw"] = True
    if show_dir is None:
        return cfg
    # Absolute, for mmdet puts a relative folder under the run's time stamp once for each image.
    folder = str(Path(show_dir).absolute())
    if cfg.default_scope == "mmdet":
        hook.test_out_dir = folder
    elif cfg.default_scope == "mmpretrain":
        hook.update(out_dir=folder, interval=1)
    else:
        cfg.visualizer.save_dir = folder
        hook.interval = 1
    return cfg


def with_output(cfg: Config, out: str) -> Config:
    """Keep the predictions of a test run: a pickle file, or for segmentation a folder of maps."""
    cfg = deepcopy(cfg)
    scope, evaluators = cfg.get("default_scope"), metrics_of(cfg, "test_evaluator")
    is_file = out.endswith((".pkl", ".pickle"))
    if scope == "mmseg":
        if is_file or Path(out).is_file():
            raise UserError(
                f"--out writes the label maps of a segmentor to a folder: name one instead of {out}"
            )
        evaluators[0].update(output_dir=out, keep_results=True)
    elif not is_file:
        raise UserError(f"--out writes a pickle file: its name must end in .pkl, not {out}")
    else:
        dump = "DumpDetResults" if scope == "mmdet" else "DumpResults"
        evaluators.append(dict(type=dump, out_file_path=out))
    cfg.test_evaluator = evaluators
    return cfg


def with_test_time_augmentation(cfg: Config) -> Config:
    """Predict on each image and its mirror image, or as ``tta_pipeline`` says, and merge."""
    cfg = deepcopy(cfg)
    scope = cfg.get("default_scope")
    if scope == "mmdet" and "mask_head" in cfg.model.get("roi_head", cfg.model):
        raise UserError("--tta merges boxes alone, as mmdet does; this model predicts masks too")
    if "tta_model" not in cfg:
        nms = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = {
            "mmdet": dict(type="DetTTAModel", tta_cfg=nms),
            "mmpretrain": dict(type="AverageClsScoreTTA"),
        }.get(scope, dict(type="SegTTAModel"))
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)))
    if "tta_pipeline" not in cfg:
        *before, pack = dataset.pipeline
        if scope == "mmdet":
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack = dict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
        flips = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [*before, dict(type="TestTimeAug", transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    model = deepcopy(cfg.tta_model)
    model.module = cfg.model
    cfg.model = model
    return cfg
