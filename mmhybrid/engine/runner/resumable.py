"""Whether a run can go on from a checkpoint exactly, said before it starts."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch.optim import Optimizer

from mmhybrid.weights import CheckpointError
from mmhybrid.weights.entries import unwrapped, without_wrappers

SHOWN = 3  # names of each type of difference
OF_ONE_OPTIMIZER = ("betas", "momentum", "alpha", "rho")  # settings that tell optimizers apart


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Compares a checkpoint with the run that is to go on from it.

    Raises:
        CheckpointError: Its optimizer, schedule, averaged weights or progress are not there, or its
            weights are another model's.
    """
    problems = _missing(runner, checkpoint) or _differing(runner, checkpoint)
    if problems:
        raise CheckpointError(
            f"{runner._load_from} cannot be resumed from exactly: {'; '.join(problems)}. Start "
            "from its weights instead, with --weights FILE or load_from, or resume from the "
            "checkpoint of an epoch or iteration of this config."
        )


def _missing(runner: Runner, checkpoint: Mapping[str, Any]) -> list[str]:
    names = {"state_dict": "weights", "meta": "epoch and iteration", "message_hub": "message hub"}
    names["optimizer"] = "optimizer"
    if any(isinstance(hook, EMAHook) for hook in runner.hooks):
        names["ema_state_dict"] = "averaged weights (EMA)"
    absent = [told for key, told in names.items() if not isinstance(checkpoint.get(key), Mapping)]
    if runner.param_schedulers and not checkpoint.get("param_schedulers"):
        absent.append("schedule")
    return [f"it holds no {', no '.join(absent)}"] if absent else []


def _differing(runner: Runner, checkpoint: Mapping[str, Any]) -> list[str]:
    # Other runners, and models in pieces, save in ways of their own.
    if not isinstance(runner, Runner) or "FullySharded" in type(runner.model).__name__:
        return []
    theirs = {without_wrappers(key): value for key, value in checkpoint["state_dict"].items()}
    own = unwrapped(runner.model).state_dict()
    ours = {without_wrappers(key): value for key, value in own.items()}
    shapes = {key: getattr(value, "shape", None) for key, value in theirs.items()}
    other = [key for key in ours if key in shapes and shapes[key] != ours[key].shape]
    problems = []
    for told, keys in (
        ("its weights lack", ours.keys() - theirs.keys()),
        ("the model lacks", theirs.keys() - ours.keys()),
        ("of other shapes are", other),
    ):
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            shown = ", ".join(str(one)[:80] for one in sorted(keys)[:SHOWN])
            problems.append(f"{told} {shown}{more}")
    if isinstance(optimizer := getattr(runner.optim_wrapper, "optimizer", None), Optimizer):
        problems += _differing_optimizer(optimizer, checkpoint["optimizer"])
    if runner.param_schedulers:
        count, own_count = len(checkpoint["param_schedulers"]), len(runner.param_schedulers)
        if count != own_count:
            problems.append(f"its schedule has {count} parts and not {own_count}")
    return problems


def _differing_optimizer(own: Optimizer, saved: Mapping[str, Any]) -> list[str]:
    groups = saved.get("param_groups")
    groups = groups if isinstance(groups, list) else []
    groups = [one for one in groups if isinstance(one, Mapping) and "params" in one]
    sizes, own_sizes = ([len(one["params"]) for one in each] for each in (groups, own.param_groups))
    if sizes != own_sizes:
        text = f"its optimizer has {sum(sizes)} parameters in {len(sizes)} groups and not "
        return [f"{text}{sum(own_sizes)} in {len(own_sizes)} as here"]
    if any((key in own.defaults) != (key in groups[0]) for key in OF_ONE_OPTIMIZER):
        return [f"its optimizer is no {type(own).__name__}"]
    return []
