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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from mmhybrid.datasets.data_paths import LOADERS, check_data, datasets_of, set_data_root
from mmhybrid.datasets.synthetic import draw_data
from mmhybrid.engine.runner.run_config import forget_pretrained
from mmhybrid.errors import UserError

EVALUATIONS = 3  # in a run
SAMPLED_BOXES = 128
SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "stride")


@dataclass
class QuickSettings:
    """How small a quick run is.

    Attributes:
        iterations: Steps of the optimiser; whole epochs where the config counts epochs.
        batch_size: Images a step.
        train_images: Drawn to train on.
        val_images: Drawn to evaluate on; none of them is trained on.
        size: Short side of the images that the model sees, in pixels.
        lr: Highest learning rate.
        seed: Of the images, the weights and the order.
    """

    iterations: int = 100
    batch_size: int = 4
    train_images: int = 80
    val_images: int = 24
    size: int = 128
    lr: float = 5e-4
    seed: int = 0


# A classifier sees one shape in a small image, so more of them pass in the same time.
DEFAULTS = {
    "mmdet": QuickSettings(),
    "mmseg": QuickSettings(),
    "mmpretrain": QuickSettings(
        iterations=150, batch_size=16, train_images=480, val_images=160, size=64
    ),
}


def settings_of(cfg: Config) -> QuickSettings:
    """The settings for a config's task, with what ``cfg.quick`` changes."""
    values = asdict(DEFAULTS.get(cfg.get("default_scope"), QuickSettings()))
    known = [field.name for field in fields(QuickSettings)]
    for key, value in (cfg.get("quick") or {}).items():
        if key not in known:
            raise UserError(f"quick.{key} is no setting of --quick; those are {', '.join(known)}")
        values[key] = type(values[key])(value)
    return QuickSettings(**values)


def make_quick(cfg: Config, data_root: str | None = None) -> None:
    """Change a config, in place, as this file's first lines say.

    Args:
        cfg: Complete, with ``work_dir``; drawn data goes into the folder ``data`` there.
        data_root: Real data to use instead of drawn data, the first ``train_images`` of it for
            training and all of it for evaluation.
    """
    quick = settings_of(cfg)
    if data_root is None:
        folder = Path(cfg.work_dir) / "data"
        set_data_root(cfg, str(folder))
        draw_data(cfg, folder, quick.train_images, quick.val_images, quick.seed)
    else:
        set_data_root(cfg, data_root)
        check_data(cfg, LOADERS)
        quick.train_images = _take_some(cfg, quick.train_images)
    for name in LOADERS:
        if cfg.get(name):
            cfg[name].update(num_workers=0, persistent_workers=False, batch_size=quick.batch_size)
            cfg[name].pop("prefetch_factor", None)
            _repeat_once(cfg[name].dataset)
    cfg.randomness = dict(seed=quick.seed)
    _shrink(cfg, quick.size)
    _start_anew(cfg)
    _shorten(cfg, quick)


def _repeat_once(dataset: Any) -> None:
    """Let an epoch see each image once, as the schedule counts; long epochs save reloading."""
    if dataset["type"].rsplit(".", 1)[-1] == "RepeatDataset":
        dataset["times"] = 1
    if "dataset" in dataset:
        _repeat_once(dataset["dataset"])


def _take_some(cfg: Config, most: int) -> int:
    """Train on some images of each data set, ``most`` in all; return how many there are.

    They are spread evenly, for folders of classes are read one after the other.
    """
    datasets = [dataset for _, dataset in datasets_of(cfg, ("train_dataloader",))]
    total = 0
    for dataset in datasets:
        with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
            length = len(registry.build(dataset))
        share = most // len(datasets)
        if length > share:
            dataset["indices"] = [i * length // share for i in range(share)]
        total += min(length, share)
    return total


def silence(runner: Runner) -> None:
    """Leave MMEngine's two lines for each parameter out of the log of a run to watch."""
    runner.logger.addFilter(lambda record: "paramwise_options" not in record.getMessage())


def _shrink(cfg: Config, size: int) -> None:
    """Bring the training size of a config to ``size``; one that is smaller stays."""
    pipelines = [cfg[name].dataset for name in LOADERS if cfg.get(name)]
    sizes = list(_pixel_sizes(pipelines[0]))
    factor = min(1.0, size / min(sizes)) if sizes else 1.0
    others = [cfg.model.get("data_preprocessor"), cfg.model.get("test_cfg")]
    for node in [*pipelines, *others, cfg.get("data_preprocessor"), cfg.get("tta_pipeline")]:
        _scale_sizes(node, factor)
    second_stages = (cfg.model.get("train_cfg") or {}).get("rcnn") or []
    for stage in second_stages if isinstance(second_stages, list) else [second_stages]:
        stage.sampler.num = min(stage.sampler.num, SAMPLED_BOXES)


def _pixel_sizes(node: Any):
    """Every size in pixels below a node of a config: integers of 16 and more under a size key."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SIZE_KEYS:
                yield from (one for one in _flat(value) if _is_pixels(one))
            else:
                yield from _pixel_sizes(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _pixel_sizes(value)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return [value]


def _is_pixels(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 16


def _scale_sizes(node: Any, factor: float) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SIZE_KEYS:
                node[key] = _scaled(value, factor)
            else:
                _scale_sizes(value, factor)
    elif isinstance(node, list | tuple):
        for value in node:
            _scale_sizes(value, factor)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_scaled(one, factor) for one in value)
    return round(value * factor) if _is_pixels(value) else value


def _start_anew(cfg: Config) -> None:
    """Start from random weights, with LayerScale large enough for a short run."""
    cfg.load_from = None
    forget_pretrained(cfg)
    backbone = cfg.model.get("backbone")
    if backbone is not None:
        with MODELS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
            arguments = inspect.signature(registry.get(backbone.type)).parameters
        if "layer_scale_init" in arguments:
            backbone.layer_scale_init = 0.1


def _shorten(cfg: Config, quick: QuickSettings) -> None:
    """Shorten the schedule, and let the hooks keep pace."""
    loop = cfg.train_cfg
    by_epoch = loop.get("by_epoch", loop.get("type") != "IterBasedTrainLoop")
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
        if hook["type"].endswith("EMAHook"):
            hook["momentum"] = max(hook.get("momentum", 0.0), min(0.5, 10 / iterations))
