"""Whether a run can go on from a checkpoint exactly, said before it starts."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmhybrid.weights import CheckpointError
from mmhybrid.weights.entries import unwrapped, without_wrappers

SHOWN = 3  # names of each type of difference


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
    if runner.param_schedulers:
        names["param_schedulers"] = "schedule"
    if any(isinstance(hook, EMAHook) for hook in runner.hooks):
        names["ema_state_dict"] = "averaged weights (EMA)"
    absent = [told for key, told in names.items() if key not in checkpoint]
    return [f"it holds no {', no '.join(absent)}"] if absent else []


def _differing(runner: Runner, checkpoint: Mapping[str, Any]) -> list[str]:
    problems = []
    theirs = {without_wrappers(key): value for key, value in checkpoint["state_dict"].items()}
    ours = {
        without_wrappers(key): value for key, value in unwrapped(runner.model).state_dict().items()
    }
    for told, keys in (
        ("its weights lack", ours.keys() - theirs.keys()),
        ("the model lacks", theirs.keys() - ours.keys()),
        ("of other shapes are", [key for key in ours if _shapes_differ(theirs, ours, key)]),
    ):
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            problems.append(f"{told} {', '.join(one[:80] for one in sorted(keys)[:SHOWN])}{more}")
    saved, wrapper = checkpoint["optimizer"], runner.optim_wrapper
    groups = [saved.get("param_groups")] if isinstance(saved, Mapping) else [None]
    if hasattr(wrapper, "optimizer") and groups[0] is not None:
        (given,) = groups
        sizes = [len(one.get("params", ())) for one in given if isinstance(one, Mapping)]
        own = [len(one["params"]) for one in wrapper.param_groups]
        if sizes != own:
            problems.append(f"its optimizer has groups of {sizes[:9]} parameters and not {own[:9]}")
    schedulers = checkpoint.get("param_schedulers") or []
    if runner.param_schedulers and len(schedulers) != len(runner.param_schedulers):
        problems.append(
            f"its schedule has {len(schedulers)} parts and not {len(runner.param_schedulers)}"
        )
    return problems


def _shapes_differ(theirs: Mapping[str, Any], ours: Mapping[str, Any], key: str) -> bool:
    return key in theirs and getattr(theirs[key], "shape", None) != ours[key].shape
