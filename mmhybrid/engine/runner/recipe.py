"""A recipe for few images: how a config trains on data of one's own."""

import re
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS

from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.engine.runner.config_parts import arguments_of
from mmhybrid.engine.runner.schedule import averages_of, set_length, set_rates
from mmhybrid.engine.runner.starting_weights import own_checkpoint
from mmhybrid.registry import type_name, type_of

# Times that each image is seen, within these numbers of iterations.
EPOCHS = {"mmdet": 50, "mmseg": 100, "mmpretrain": 50}
FEWEST, MOST = 300, 20_000
EVALUATIONS = 10  # at most
PATIENCE = 4  # evaluations without progress
FEW_FOR_NORM = 8  # images in a step
FROM_NOTHING = 5e-4  # least learning rate of Adam and the like from random weights
JITTERS = ("RandomCrop", "MinIoURandomCrop", "Expand", "RandomAffine", "RandomResizedCrop")
SIDED = re.compile(r"(^|[^a-z])(left|right)([^a-z]|$)", re.IGNORECASE)


def images_an_epoch(cfg: Config) -> int:
    """How many the training data set gives: without what it filters, with what it repeats."""
    cfg = deepcopy(cfg)
    for _, dataset in datasets_of(cfg, ("train_dataloader",)):
        dataset.update(pipeline=[], serialize_data=False)  # of no images that cannot be done
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        return max(1, len(registry.build(cfg.train_dataloader.dataset)))


def with_recipe(cfg: Config, num_images: int, metric: str) -> Config:
    """A config with a schedule, an average of weights and augmentation for so many images.

    ``recipe = dict(iterations=1000)`` in the config sets their number.
    Each choice is logged with its reason. ``results/recipe.md`` has what it gains, from random
    weights; what it does from pretrained ones was not measured.

    Args:
        cfg (Config): Of one's own data, as :func:`mmhybrid.engine.runner.own_data.with_own_data`
            returns it, with the weights that it starts from. It stays as it is.
        num_images (int): What :func:`images_an_epoch` says of it.
        metric (str): What the best checkpoint is chosen by.
    """
    cfg = deepcopy(cfg)
    loader, optimizer = cfg.train_dataloader, cfg.optim_wrapper.optimizer
    is_pretrained = bool(cfg.get("load_from") or own_checkpoint(cfg))
    old_batch = loader.get("batch_size") or loader.batch_sampler.batch_size
    processes = get_world_size()
    # Of one, some norms have nothing to measure.
    own_batch = min(old_batch, max(2, num_images // (8 * processes)))
    batch = own_batch * processes
    if loader.get("batch_size"):
        loader.batch_size = own_batch
    if own_batch < old_batch:
        told = f"{batch} images a step, not {old_batch * processes}"
        _say(f"{told}: of {num_images}, for more and finer steps")

    epochs = EPOCHS.get(cfg.get("default_scope"), 50)
    iterations = (cfg.get("recipe") or {}).get("iterations")
    told = "as told" if iterations else f"each image {epochs} times, within {FEWEST} and {MOST}"
    iterations = iterations or min(max(epochs * num_images // batch, FEWEST), MOST)
    steps_per_epoch = -(-num_images // batch)
    by_epoch = "max_iters" not in cfg.train_cfg
    length, iterations = set_length(cfg, iterations, steps_per_epoch)
    interval = cfg.train_cfg.val_interval = -(-length // EVALUATIONS)
    unit = "epochs" if by_epoch else "iterations"
    _say(f"{iterations} iterations: {told}; evaluated every {interval} {unit}")
    _fit_rate(cfg, optimizer, batch, is_pretrained)
    warm_up = set_rates(cfg, iterations, longest=500)
    told = f"warm-up of {warm_up} iterations, then" if warm_up else "no warm-up in so short a run:"
    _say(f"{told} a cosine down to 0")
    _fit_norms(cfg, own_batch, is_pretrained)
    _fit_hooks(cfg, metric, interval, iterations, by_epoch, is_pretrained)
    _fit_augmentation(cfg)
    seed = (cfg.get("randomness") or {}).get("seed")
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=0 if seed is None else seed)
    _say(f"seed {cfg.randomness.seed}, so that the same command trains the same")
    return cfg


def _say(text: str) -> None:
    print_log(f"recipe: {text}", logger="current")


def _fit_rate(cfg: Config, optimizer: Any, batch: int, is_pretrained: bool) -> None:
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    old, is_adam = optimizer.lr, type_name(optimizer) != "SGD"
    if base:
        ratio = batch / base
        optimizer.lr = old * (ratio**0.5 if is_adam else ratio)
        rule = "by the root of the batch, as for Adam" if is_adam else "by the batch, as for SGD"
        told = f"the config's {old:g} for {base} images a step, scaled {rule}"
    else:
        told = "the config's"
    if is_adam and not is_pretrained:
        optimizer.lr = max(2 * optimizer.lr, FROM_NOTHING)
        told += (
            f"; twice that, as a cosine's mean is half, and at least {FROM_NOTHING} from nothing"
        )
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=batch)
    if "clip_grad" not in cfg.optim_wrapper:
        cfg.optim_wrapper.clip_grad = dict(max_norm=5.0 if is_adam else 35.0)
    _say(f"learning rate {optimizer.lr:.3g}: {told}")


def _fit_norms(cfg: Config, batch: int, is_pretrained: bool) -> None:
    backbone = cfg.model.get("backbone")
    found = backbone and type_of(backbone, MODELS, cfg.get("default_scope"))
    if batch >= FEW_FOR_NORM or not found or "norm_eval" not in arguments_of(found)[0]:
        return
    backbone.norm_eval = is_pretrained
    if is_pretrained:
        _say(f"norm_eval: {batch} images a step are too few to measure means and variances by")
    else:
        _say("no norm_eval: random weights have no means and variances to keep")


def _fit_hooks(
    cfg: Config, metric: str, interval: int, iterations: int, by_epoch: bool, is_pretrained: bool
) -> None:
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.get("checkpoint") or ConfigDict(type="CheckpointHook")
    checkpoint.update(interval=interval, by_epoch=by_epoch, max_keep_ckpts=1)
    checkpoint.update(save_best=metric, rule="greater")
    hooks.checkpoint = checkpoint
    _say(f"the best checkpoint by {metric} is kept beside the last")
    others = [one for one in cfg.get("custom_hooks") or [] if "EarlyStopping" not in type_name(one)]
    averages = averages_of(cfg)
    if not averages:
        averages = [ConfigDict(type="EMAHook")]
        others += averages
    for hook in averages:
        hook.update(
            ema_type="ExponentialMovingAverage",
            momentum=min(0.5, 10 / iterations),
            update_buffers=True,
        )
    _say("EMA: evaluated and saved is the average of about the last tenth of the run")
    if is_pretrained:
        delta = 0.001 if metric.startswith("coco/") else 0.1
        stop = dict(monitor=metric, rule="greater", min_delta=delta, patience=PATIENCE)
        others.append(ConfigDict(type="EarlyStoppingHook", **stop))
        _say(f"stopped early where {metric} has not risen by {delta} in {PATIENCE} evaluations")
    else:
        _say("never stopped early: from random weights a metric may stay at 0 for long")
    cfg.custom_hooks = others


def _fit_augmentation(cfg: Config) -> None:
    """Flips, unless classes have a side, and scale jitter, where training has none."""
    for _, dataset in datasets_of(cfg, ("train_dataloader",)):
        steps = dataset.get("pipeline") or []
        names = [type_name(step) for step in steps]
        if not names or not names[-1].startswith("Pack"):  # a wrapper around it goes on
            continue
        sided = [
            one for one in (dataset.get("metainfo") or {}).get("classes", ()) if SIDED.search(one)
        ]
        if sided:
            dataset["pipeline"] = [step for step in steps if type_name(step) != "RandomFlip"]
            _say(f"no flips: {sided[0]!r} would become its opposite")
        elif "RandomFlip" not in names:
            flip = ConfigDict(type="RandomFlip", prob=0.5)
            steps.insert(len(steps) - 1, flip)
            _say("half of the images are flipped")
        plain = [step for step in dataset["pipeline"] if type_name(step) == "Resize"]
        scale = plain[0].get("scale") if len(plain) == 1 else None
        if scale and plain[0].get("keep_ratio") and not set(names) & set(JITTERS):
            plain[0].update(type="RandomResize", ratio_range=(0.75, 1.25))
            _say("images are resized by 0.75 to 1.25 times the size of the config")
