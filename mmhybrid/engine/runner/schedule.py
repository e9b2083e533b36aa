"""How long a run trains, and what of a config depends on that."""

from mmengine.config import Config

from mmhybrid.registry import type_name

FEWEST_TO_WARM_UP = 20


def set_length(cfg: Config, iterations: int, steps_per_epoch: int) -> tuple[int, int]:
    """Trains for so many iterations, or, of a config that counts epochs, for whole ones.

    Returns the length, in the loop's own unit, and the iterations.
    """
    loop = cfg.train_cfg
    length = iterations
    if by_epoch := "max_iters" not in loop:
        length = -(-iterations // steps_per_epoch)
        iterations = length * steps_per_epoch
    loop["max_epochs" if by_epoch else "max_iters"] = length
    for key in ("val_begin", "dynamic_intervals"):
        loop.pop(key, None)
    cfg.optim_wrapper.pop("accumulative_counts", None)
    return length, iterations


def set_rates(cfg: Config, iterations: int, longest: int | None = None) -> int:
    """A linear warm-up, of a tenth of the run, and a cosine down to 0; returns the first's length.

    MMEngine's warm-up has its full rate in its last step: one of a single step would never leave
    the low rate that it starts from. So a run of few iterations has none.
    """
    warm_up = iterations // 10 if iterations >= FEWEST_TO_WARM_UP else 0
    warm_up = min(warm_up, longest or warm_up)
    cosine = dict(begin=warm_up, end=iterations, T_max=iterations - warm_up)
    steps = [dict(type="CosineAnnealingLR", by_epoch=False, **cosine)]
    if warm_up:
        steps.insert(0, dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=warm_up))
    cfg.param_scheduler = steps
    return warm_up


def averages_of(cfg: Config) -> list[dict]:
    """The hooks that average weights, without what counts on the whole schedule."""
    found = [one for one in cfg.get("custom_hooks") or [] if type_name(one).endswith("EMAHook")]
    for hook in found:
        for key in ("begin_iter", "begin_epoch", "interval"):
            hook.pop(key, None)
    return found
