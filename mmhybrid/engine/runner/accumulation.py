"""Gradients that are being accumulated when a run is saved: a part of its state."""

from mmengine.dist import all_reduce
from mmengine.optim import BaseOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mmhybrid.weights.entries import unwrapped


def wrappers_of(optim_wrapper: BaseOptimWrapper) -> list[OptimWrapper]:
    """Those that step: several where a model has several optimizers, none of DeepSpeed's."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return list(optim_wrapper.values())
    return [optim_wrapper] if isinstance(optim_wrapper, OptimWrapper) else []


def is_accumulating(runner: Runner) -> bool:
    """Whether there are gradients that no update has used."""
    return not all(wrapper.should_update() for wrapper in wrappers_of(runner.optim_wrapper))


def average_accumulated(runner: Runner) -> None:
    """Give all processes the mean of their gradients, before the first saves; all call it.

    While DistributedDataParallel accumulates, each has its own; the mean at the end is the same.
    """
    if isinstance(runner.model, DistributedDataParallel) and is_accumulating(runner):
        for parameter in runner.model.parameters():
            if parameter.grad is not None:
                all_reduce(parameter.grad, op="mean")


def accumulated_gradients(runner: Runner) -> dict[str, Tensor]:
    """Those of all parameters that have one, on the CPU."""
    return {
        name: parameter.grad.cpu()
        for name, parameter in unwrapped(runner.model).named_parameters()
        if parameter.grad is not None
    }


def load_accumulated_gradients(runner: Runner, gradients: dict[str, Tensor]) -> None:
    """Put back what :func:`accumulated_gradients` gave."""
    for name, parameter in unwrapped(runner.model).named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device)
