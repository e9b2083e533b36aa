"""``--quick``: a config made small enough to watch it learn on a CPU, without data of one's own.

What changes:

* Data: images of coloured shapes, drawn in the format that the config reads, unless
  ``--data`` or ``--data-root`` names real data. Loaders read in the main process.
* Size: every size in pixels shrinks by one factor, so that the config's image size is ``size``.
* Classes: those of the shapes, unless the data are real. Boxes of one class that overlap by a fifth
  are taken for one shape.
* Boxes: a second stage trains on 32 of an image's proposals instead of 512, and looks at 100
  instead of 1000 to predict. Its cost does not shrink with the image, and would be most of the run.
* Schedule: ``iterations`` steps of ``batch_size`` images in each process; a linear warm-up to
  ``lr`` over a tenth of the run, then a cosine down to nothing. AdamW in the place of SGD, whose
  rate depends on the model and which learns too slowly from nothing.
* Start: no pretrained weights, unless ``--weights`` names some. LayerScale starts at 0.1, since
  from 1e-5 the residuals would be silent for the whole of so short a run.
* Hooks: log, evaluation and checkpoints more often; an average of weights (EMA) forgets faster.

All else stays. A config may hold its own settings, ``quick = dict(iterations=200)``, and so may the
command line: ``--cfg-options quick.iterations=200``.
"""

import inspect
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS

from mmhybrid.datasets.data_paths import (
    LOADERS,
    check_data,
    classes_of,
    datasets_of,
    with_data_root,
)
from mmhybrid.datasets.synthetic import draw_data, drawn_classes
from mmhybrid.deprecation import warn_renamed
from mmhybrid.engine.runner.checkpoint_config import SIZE_KEYS
from mmhybrid.engine.runner.classes import task_of, with_classes
from mmhybrid.engine.runner.config_parts import arguments_of
from mmhybrid.engine.runner.run_config import connect_processes, map_values, without_pretrained
from mmhybrid.engine.runner.schedule import averages_of, set_length, set_rates
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of

RENAMED = {"train_pictures": "train_images", "val_pictures": "val_images"}


@dataclass
class QuickSettings:
    """How small a quick run is."""

    iterations: int = 100  # steps of the optimiser; whole epochs where the config counts epochs
    batch_size: int = 4
    train_images: int = 80
    val_images: int = 24  # none of them is trained on
    size: int = 128  # short side of the images that the model sees, in pixels
    lr: float = 5e-4  # the highest
    seed: int = 0  # of the images, the weights and the order


# A classifier sees one shape in a small image, so more of them pass in the same time.
CLASSIFIER = QuickSettings(iterations=150, batch_size=16, train_images=480, val_images=160, size=64)


def settings_of(cfg: Config) -> QuickSettings:
    values = asdict(CLASSIFIER if cfg.get("default_scope") == "mmpretrain" else QuickSettings())
    for key, value in (cfg.get("quick") or {}).items():
        if key in RENAMED:
            warn_renamed(f"quick.{key}", f"quick.{RENAMED[key]}")
            key = RENAMED[key]
        if key not in values:
            raise UserError(f"quick.{key} is no setting of --quick; those are {', '.join(values)}")
        values[key] = type(values[key])(value)
    return QuickSettings(**values)


def make_quick(cfg: Config, data_root: str | None = None, is_own: bool = False) -> Config:
    """A config changed as this file's first lines say.

    Data is drawn into the folder ``data`` of ``work_dir``; all real images are evaluated on. Those
    of a config that ``is_own``, of ``--data``, stay.
    """
    connect_processes(cfg)  # which are counted
    quick = settings_of(cfg)
    if data_root is None and not is_own:
        folder = Path(cfg.work_dir) / "data"
        roots = {dataset.get("data_root") or "" for _, dataset in datasets_of(cfg)}
        for root in sorted(one for one in roots if one and Path(one).is_dir()):
            print_log(
                f"--quick trains on shapes that it draws, not on {root}, which the config names. "
                f"To train on these: --data-root {root}",
                logger="current",
            )
        cfg = _with_drawn_classes(with_data_root(cfg, str(folder)))
        draw_data(cfg, folder, quick.train_images, quick.val_images, quick.seed)
        _allow_any_classes(cfg)
        _keep_one_box_a_shape(cfg)
    else:
        cfg = deepcopy(cfg) if is_own else with_data_root(cfg, data_root)
        check_data(cfg, LOADERS)
        quick.train_images = _take_some_images(cfg, quick.train_images)
    cfg = without_pretrained(cfg)
    cfg.update(load_from=None, randomness=dict(seed=quick.seed), is_quick=True)
    _shrink_loaders(cfg, quick.batch_size)
    _shrink_images(cfg, quick.size)
    _shorten(cfg, quick)
    if backbone := cfg.model.get("backbone"):
        found = type_of(backbone, MODELS, cfg.get("default_scope"))
        if found and "layer_scale_init" in inspect.signature(found).parameters:
            backbone.layer_scale_init = 0.1
    return cfg


def _with_drawn_classes(cfg: Config) -> Config:
    """A config that learns what is drawn, by its own names."""
    try:
        return with_classes(cfg, *drawn_classes(task_of(cfg)))
    except UserError as error:  # RPN, which tells no classes apart
        print_log(
            f"The shapes are called by names of the config's classes: {error}", logger="current"
        )
        return cfg


def _allow_any_classes(cfg: Config) -> None:
    """Reads label maps by the base of mmseg's data sets: the others refuse classes not theirs."""
    for _, dataset in datasets_of(cfg):
        if cfg.get("default_scope") == "mmseg" and dataset.get("metainfo"):
            defaults, _ = arguments_of(type_of(dataset, DATASETS, "mmseg"))
            for key in ("img_suffix", "seg_map_suffix", "reduce_zero_label"):
                dataset.setdefault(key, defaults[key])
            dataset["type"] = "BaseSegDataset"


def _keep_one_box_a_shape(cfg: Config) -> None:
    """Has boxes suppress each other sooner than in COCO: drawn shapes do not touch."""
    test_cfg = cfg.model.get("test_cfg") or {}
    for stage in (test_cfg, test_cfg.get("rcnn") or {}):
        if stage.get("nms"):
            stage.nms.iou_threshold = min(stage.nms.iou_threshold, 0.2)


def _take_some_images(cfg: Config, most: int) -> int:
    """Train on some images of each data set, ``most`` in all; returns how many there are.

    They are spread evenly, for folders of classes are read one after the other.
    """
    datasets = [dataset for _, dataset in datasets_of(cfg, ("train_dataloader",))]
    share = most // len(datasets)
    total = 0
    for dataset in datasets:
        with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
            # Of no images MMEngine can serialize nothing.
            length = len(registry.build(dict(dataset, serialize_data=False)))
        if length > share:
            dataset["indices"] = [i * length // share for i in range(share)]
        total += min(length, share)
    if not total:
        named = ", ".join(classes_of(datasets[0], cfg.get("default_scope"))[:5])
        raise UserError(
            f"no image of {datasets[0].get('data_root')} shows one of the config's classes ({named}"
            ", ...). To learn the classes that are there: --data FOLDER"
        )
    return total


def _shrink_loaders(cfg: Config, batch_size: int) -> None:
    """Load in the main process, and each image once in an epoch, as the schedule counts."""
    for loader in filter(None, map(cfg.get, LOADERS)):
        loader.update(num_workers=0, persistent_workers=False, batch_size=batch_size)
        loader.pop("prefetch_factor", None)
        dataset = loader.dataset
        while "dataset" in dataset:
            if type_name(dataset) == "RepeatDataset":  # long epochs save reloading
                dataset["times"] = 1
            dataset = dataset["dataset"]


def _shrink_images(cfg: Config, size: int) -> None:
    """Bring the training size of a config to ``size`` pixels; one that is smaller stays."""
    sizes: list[int] = []
    factor = 1.0

    def scaled(key: str, value: Any) -> Any:
        if key not in SIZE_KEYS or type(value) is not int or value < 16:  # less is no image's size
            return value
        sizes.append(value)
        return round(value * factor)

    loaders = list(filter(None, map(cfg.get, LOADERS)))
    map_values(loaders[0].dataset, scaled)
    factor = min(1.0, size / min(sizes, default=size))
    parts = [(loader, "dataset") for loader in loaders]
    parts += [(cfg.model, "data_preprocessor"), (cfg.model, "test_cfg")]
    for parent, key in [*parts, (cfg, "data_preprocessor"), (cfg, "tta_pipeline")]:
        if parent.get(key):
            parent[key] = map_values(parent[key], scaled)
    second_stages = (cfg.model.get("train_cfg") or {}).get("rcnn") or []
    for stage in second_stages if isinstance(second_stages, list) else [second_stages]:
        stage.sampler.num = min(stage.sampler.num, 32)
    proposals = (cfg.model.get("test_cfg") or {}).get("rpn") or {}
    if "max_per_img" in proposals:
        proposals.max_per_img = min(proposals.max_per_img, 100)


def _shorten(cfg: Config, quick: QuickSettings) -> None:
    by_epoch = "max_iters" not in cfg.train_cfg
    steps_per_epoch = -(-quick.train_images // (quick.batch_size * get_world_size()))
    length, iterations = set_length(cfg, quick.iterations, steps_per_epoch)
    cfg.train_cfg.val_interval = interval = -(-length // 3)  # so many evaluations
    warm_up = set_rates(cfg, iterations)
    if type_name(cfg.optim_wrapper.optimizer) == "SGD":
        cfg.optim_wrapper.optimizer = dict(type="AdamW", weight_decay=0.05)
    cfg.optim_wrapper.optimizer.lr = quick.lr

    cfg.setdefault("default_hooks", ConfigDict())
    logger = dict(type="LoggerHook", interval=min(10, max(1, warm_up)), log_metric_by_epoch=False)
    cfg.default_hooks.logger = logger
    checkpoint = cfg.default_hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    if checkpoint:
        checkpoint.update(interval=interval, by_epoch=by_epoch, max_keep_ckpts=1)
    cfg.setdefault("log_processor", ConfigDict(by_epoch=by_epoch)).window_size = 10
    for hook in averages_of(cfg):
        if hook.get("ema_type") != "StochasticWeightAverage":  # which has no momentum
            hook["momentum"] = max(hook.get("momentum", 0.0), min(0.5, 10 / iterations))
