"""``--quick``: a config made small enough to watch it learn on a CPU, without data of one's own.

What changes, and all that changes:

* Data: images of coloured shapes, drawn in the format that the config reads, take the place of
  its data set, unless ``--data-root`` names real data. Loaders read in the main process.
* Size: every size in pixels in the pipelines, the data preprocessor and the test settings shrinks
  by one factor, the one that brings the config's own image size to ``size``.
* Boxes: a second stage trains on 128 of an image's proposals instead of 512. Its cost does not
  shrink with the image, and would be most of the run.
* Schedule: ``iterations`` steps of ``batch_size`` images; the learning rate is ``lr``, after a
  linear warm-up over a tenth of the run a cosine down to nothing.
* Start: no pretrained weights. LayerScale starts at 0.1, since from 1e-5 the residuals would be
  silent for the whole of so short a run.
* Hooks: log, evaluation and checkpoints more often; an average of weights (EMA) forgets faster.

Model, heads, losses, transforms, optimiser and evaluation stay as the config has them. A config may
hold its own values for the settings, ``quick = dict(iterations=200)``, and so may the command line:
``--cfg-options quick.iterations=200``.
"""

import inspect
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from mmhybrid.datasets.data_paths import LOADERS, check_data, datasets_of, with_data_root
from mmhybrid.datasets.synthetic import draw_data
from mmhybrid.engine.runner.run_config import without_pretrained
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of

EVALUATIONS = 3  # in a run
SAMPLED_BOXES = 128
SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "stride")
RENAMED = {"train_pictures": "train_images", "val_pictures": "val_images"}


@dataclass
class QuickSettings:
    """How small a quick run is.

    Attributes:
        iterations (int): Steps of the optimiser; whole epochs where the config counts epochs.
        batch_size (int): Images a step.
        train_images (int): Drawn to train on.
        val_images (int): Drawn to evaluate on; none of them is trained on.
        size (int): Short side of the images that the model sees, in pixels.
        lr (float): Highest learning rate.
        seed (int): Of the images, the weights and the order.
    """

    iterations: int = 100
    batch_size: int = 4
    train_images: int = 80
    val_images: int = 24
    size: int = 128
    lr: float = 5e-4
    seed: int = 0


# A classifier sees one shape in a small image, so more of them pass in the same time.
CLASSIFIER = QuickSettings(iterations=150, batch_size=16, train_images=480, val_images=160, size=64)


def settings_of(cfg: Config) -> QuickSettings:
    """The settings for a config's task, with what ``cfg.quick`` changes."""
    defaults = CLASSIFIER if cfg.get("default_scope") == "mmpretrain" else QuickSettings()
    values = asdict(defaults)
    known = [field.name for field in fields(QuickSettings)]
    for key, value in (cfg.get("quick") or {}).items():
        if key in RENAMED:
            warnings.warn(
                f"quick.{key} is now quick.{RENAMED[key]}; the old name goes in version 0.3",
                DeprecationWarning,
                stacklevel=2,
            )
            key = RENAMED[key]
        if key not in known:
            raise UserError(f"quick.{key} is no setting of --quick; those are {', '.join(known)}")
        values[key] = type(values[key])(value)
    return QuickSettings(**values)


def make_quick(cfg: Config, data_root: str | None = None) -> Config:
    """A config changed as this file's first lines say.

    Args:
        cfg (Config): Complete, with ``work_dir``; drawn data goes into the folder ``data`` there.
        data_root (str, optional): Real data to use instead of drawn data, the first
            ``train_images`` of it for training and all of it for evaluation.
    """
    quick = settings_of(cfg)
    if data_root is None:
        folder = Path(cfg.work_dir) / "data"
        cfg = with_data_root(cfg, str(folder))
        draw_data(cfg, folder, quick.train_images, quick.val_images, quick.seed)
    else:
        cfg = with_data_root(cfg, data_root)
        check_data(cfg, LOADERS)
        cfg, quick.train_images = _with_some_images(cfg, quick.train_images)
    cfg = _with_small_loaders(cfg, quick.batch_size)
    cfg = _with_small_images(cfg, quick.size)
    cfg = _from_random_weights(cfg, quick.seed)
    return _with_short_schedule(cfg, quick)


def silence(runner: Runner) -> None:
    """Leave MMEngine's two lines for each parameter out of the log of a run to watch."""
    runner.logger.addFilter(lambda record: "paramwise_options" not in record.getMessage())


def _with_some_images(cfg: Config, most: int) -> tuple[Config, int]:
    """Train on some images of each data set, ``most`` in all; also returns how many there are.

    They are spread evenly, for folders of classes are read one after the other.
    """
    cfg = deepcopy(cfg)
    datasets = [dataset for _, dataset in datasets_of(cfg, ("train_dataloader",))]
    share = most // len(datasets)
    total = 0
    for dataset in datasets:
        with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
            length = len(registry.build(dataset))
        if length > share:
            dataset["indices"] = [i * length // share for i in range(share)]
        total += min(length, share)
    return cfg, total


def _with_small_loaders(cfg: Config, batch_size: int) -> Config:
    """Load in the main process, and each image once in an epoch, as the schedule counts."""
    cfg = deepcopy(cfg)
    for loader in (cfg[name] for name in LOADERS if cfg.get(name)):
        loader.update(num_workers=0, persistent_workers=False, batch_size=batch_size)
        loader.pop("prefetch_factor", None)
        dataset = loader.dataset
        while "dataset" in dataset:
            if type_name(dataset) == "RepeatDataset":  # long epochs save reloading
                dataset["times"] = 1
            dataset = dataset["dataset"]
    return cfg


def _with_small_images(cfg: Config, size: int) -> Config:
    """Bring the training size of a config to ``size`` pixels; one that is smaller stays."""
    cfg = deepcopy(cfg)
    datasets = [(cfg[name], "dataset") for name in LOADERS if cfg.get(name)]
    others = [(cfg.model, "data_preprocessor"), (cfg.model, "test_cfg")]
    others += [(cfg, "data_preprocessor"), (cfg, "tta_pipeline")]
    loader, key = datasets[0]
    sizes = list(_pixel_sizes(loader[key]))
    factor = min(1.0, size / min(sizes)) if sizes else 1.0
    for parent, key in datasets + others:
        if parent.get(key):
            parent[key] = _scaled(parent[key], factor)
    second_stages = (cfg.model.get("train_cfg") or {}).get("rcnn") or []
    for stage in second_stages if isinstance(second_stages, list) else [second_stages]:
        stage.sampler.num = min(stage.sampler.num, SAMPLED_BOXES)
    return cfg


def _pixel_sizes(node: Any, is_size: bool = False) -> Iterator[int]:
    """Every size in pixels below a part of a config: integers of 16 and more under a size key."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _pixel_sizes(value, key in SIZE_KEYS)
    elif isinstance(node, list | tuple):
        for one in node:
            yield from _pixel_sizes(one, is_size)
    elif is_size and _is_pixels(node):
        yield node


def _scaled(node: Any, factor: float, is_size: bool = False) -> Any:
    """A part of a config with every size in pixels multiplied by a factor."""
    if isinstance(node, dict):
        # dict's own items(): a ConfigDict's would replace types by classes, which no log can show.
        items = dict.items(node)
        return type(node)({k: _scaled(v, factor, k in SIZE_KEYS) for k, v in items})
    if isinstance(node, list | tuple):
        return type(node)(_scaled(one, factor, is_size) for one in node)
    return round(node * factor) if is_size and _is_pixels(node) else node


def _is_pixels(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 16


def _from_random_weights(cfg: Config, seed: int) -> Config:
    """Start from random weights, with LayerScale large enough for a short run."""
    cfg = without_pretrained(cfg)
    cfg.load_from = None
    cfg.randomness = dict(seed=seed)
    backbone = cfg.model.get("backbone")
    if backbone is not None:
        backbone_class = type_of(backbone, MODELS, cfg.get("default_scope"))
        if "layer_scale_init" in inspect.signature(backbone_class).parameters:
            backbone.layer_scale_init = 0.1
    return cfg


def _with_short_schedule(cfg: Config, quick: QuickSettings) -> Config:
    """Shorten the schedule, and let the hooks keep pace."""
    cfg = deepcopy(cfg)
    loop = cfg.train_cfg
    by_epoch = loop.get("by_epoch", type_name(loop) != "IterBasedTrainLoop")
    if by_epoch:
        steps_per_epoch = -(-quick.train_images // quick.batch_size)
        length = -(-quick.iterations // steps_per_epoch)
        iterations = length * steps_per_epoch
        loop.max_epochs = length
    else:
        length = iterations = loop.max_iters = quick.iterations
    interval = -(-length // EVALUATIONS)
    loop.val_interval = interval
    loop.pop("val_begin", None)
    loop.pop("dynamic_intervals", None)

    warm_up = max(1, iterations // 10)
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=warm_up),
        dict(
            type="CosineAnnealingLR",
            by_epoch=False,
            begin=warm_up,
            end=iterations,
            T_max=max(1, iterations - warm_up),
        ),
    ]
    cfg.optim_wrapper.optimizer.lr = quick.lr
    cfg.optim_wrapper.pop("accumulative_counts", None)

    cfg.setdefault("default_hooks", ConfigDict())
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=min(10, max(1, iterations // 10)))
    cfg.default_hooks.logger.log_metric_by_epoch = False
    checkpoint = cfg.default_hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    checkpoint.update(interval=interval, by_epoch=by_epoch, max_keep_ckpts=2)
    cfg.setdefault("log_processor", ConfigDict(by_epoch=by_epoch)).window_size = 10
    for hook in cfg.get("custom_hooks") or []:
        if type_name(hook).endswith("EMAHook"):
            hook["momentum"] = max(hook.get("momentum", 0.0), min(0.5, 10 / iterations))
    return cfg
