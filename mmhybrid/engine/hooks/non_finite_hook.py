"""Losses and gradients that are infinite or not a number."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmhybrid.engine.runner.accumulation import wrappers_of
from mmhybrid.engine.runner.resumable_loops import seed_iteration
from mmhybrid.errors import ArgumentError, UserError

SKIPPED = "skipped_updates"  # in the message hub, and so in logs and checkpoints


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Catches a loss or a gradient that is not finite before it reaches the weights.

    The message names the iteration, the images of the batch and the first module whose output is
    not finite; the batch goes through the model once more to find it. With a scaled loss
    (``AmpOptimWrapper``) the scaler leaves out updates whose gradients overflow, as it should, so
    that the loss alone is checked. Where gradients are accumulated, a loss that is not finite
    leaves out the update that it would have been part of.

    Args:
        policy (str): ``'stop'`` ends the run; ``'skip'`` leaves the update out, puts the statistics
            of normalisations back, and counts (``skipped_updates`` in checkpoints). Defaults to
            ``'stop'``.
        most_skips (int): With ``'skip'``, so many updates left out one after the other end the run.
            Defaults to 20.

    Raises:
        ArgumentError: An unknown policy.
        UserError: While training, as the policy says.
    """

    priority = "VERY_LOW"  # after the hooks that log

    def __init__(self, policy: str = "stop", most_skips: int = 20) -> None:
        if policy not in ("stop", "skip"):
            raise ArgumentError(f"policy={policy!r} of NonFiniteHook is neither 'stop' nor 'skip'")
        self.policy = policy
        self.most_skips = most_skips
        self.in_a_row = 0

    def before_train(self, runner: Runner) -> None:
        for wrapper in wrappers_of(runner.optim_wrapper):
            self._watch(runner, wrapper)

    def _watch(self, runner: Runner, wrapper: OptimWrapper) -> None:
        update_params, step = wrapper.update_params, wrapper.step
        leave_out = False  # a loss of those that are being accumulated was not finite

        @functools.wraps(update_params)
        def watched_update(loss: Tensor, *args: Any, **options: Any) -> None:
            nonlocal leave_out
            bad = not _all_finite([loss], loss.device)
            leave_out = leave_out or bad
            # Backwards it goes all the same, for DistributedDataParallel waits for gradients.
            update_params(loss, *args, **options)
            if bad and not self.handled:
                self._handle(runner, "the loss")

        @functools.wraps(step)
        def watched_step(**options: Any) -> None:
            nonlocal leave_out
            left_out, leave_out = leave_out, False
            if left_out:
                return
            if isinstance(wrapper, AmpOptimWrapper) or _gradients_are_finite(wrapper):
                step(**options)
            else:
                self._handle(runner, "a gradient")

        wrapper.update_params, wrapper.step = watched_update, watched_step

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batch = data_batch
        self.handled = False
        if self.policy == "skip":
            self.buffers = [buffer.clone() for buffer in runner.model.buffers()]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not self.handled:
            self.in_a_row = 0
        self.batch = None  # let its memory go

    def _handle(self, runner: Runner, what: str) -> None:
        self.handled = True
        self.in_a_row += 1
        where = find_non_finite(runner, self.batch)
        images = ", ".join(_images(self.batch)) or "unknown"
        message = (
            f"{what} of iteration {runner.iter + 1} is not finite. {where} "
            f"Images of the batch: {images}."
        )
        if self.policy == "stop":
            raise UserError(
                f"{message} To leave such updates out: "
                "--cfg-options default_hooks.non_finite.policy=skip; otherwise try a lower "
                "learning rate, a longer warm-up or optim_wrapper.clip_grad."
            )
        with torch.no_grad():
            for buffer, before in zip(runner.model.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
        hub = runner.message_hub
        count = 1 + (hub.get_info(SKIPPED) if SKIPPED in hub.runtime_info else 0)
        hub.update_info(SKIPPED, count)
        runner.logger.warning(f"Update left out ({count} so far): {message}")
        if self.in_a_row >= self.most_skips:
            raise UserError(
                f"{self.in_a_row} updates one after the other were not finite; the last: {message}"
            )


def _gradients_are_finite(wrapper: OptimWrapper) -> bool:
    parameters = [p for group in wrapper.param_groups for p in group["params"]]
    return _all_finite([p.grad for p in parameters if p.grad is not None], parameters[0].device)


def _all_finite(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether all values are finite, in all processes; one may have none and is asked, too."""
    # A sum of absolute values is finite only if each is: one transfer from the GPU for all of them.
    # Large ones may overflow, so that a second look is needed.
    finite = True
    if tensors:
        norms = torch._foreach_norm([t.detach().float() for t in tensors], 1)
        finite = bool(torch.isfinite(torch.stack(norms).sum()))
    if not _any_process(not finite, device):
        return True
    return not _any_process(not _finite(tensors), device)


def _any_process(flag: bool, device: torch.device) -> bool:
    value = torch.tensor(int(flag), device=device)
    all_reduce(value, op="max")
    return bool(value)


def find_non_finite(runner: Runner, batch: Any) -> str:
    """A sentence that names the first module with an output that is not finite.

    Computes the batch again; the runner's model and gradients are left as they are. All processes
    of a run must call it together, for their normalisations may wait for each other.
    """
    model = getattr(runner.model, "module", runner.model)
    bad = [name for name, p in model.named_parameters() if not _finite(p)]
    if bad:
        return f"The weights {bad[0]} were not finite before already."
    buffers = [buffer.clone() for buffer in model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None  # not added to
    found: list[str] = []
    handles: list[Any] = []
    try:
        seed_iteration(runner)
        data = model.data_preprocessor(batch, True)
        if not _finite(data["inputs"]):
            found.append("none; the images themselves are so, after the data preprocessor")
        handles += _watch(model, found)
        losses = model(**data, mode="loss")
        found += [f"none; but {name} is so" for name in losses if not _finite(losses[name])]
        model.parse_losses(losses)[0].backward()
    except Exception as error:  # some losses cannot be computed from such values
        found.append(f"unknown ({type(error).__name__}: {error})")
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
    if not found:
        return "Computed again, everything is finite."
    return f"The first module that gives such a value: {found[0]}."


def _watch(model: nn.Module, found: list[str]) -> Iterator[Any]:
    """Have modules note when they make a value that is not finite, forwards or backwards.

    Yields:
        Handles, to remove what was installed.
    """

    def note(value: Any, what: str) -> None:
        if not found and not _finite(value):
            found.append(what)

    def watch_module(what: str, module: nn.Module) -> Any:
        follows = f"what follows {what}: the gradient that comes back to it is so"

        def see_output(module: nn.Module, inputs: Any, output: Any) -> None:
            note(output, what)
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(functools.partial(note, what=follows))

        return module.register_forward_hook(see_output)

    for name, module in model.named_modules():
        if name:  # a module within another is done first, so that the innermost is named
            yield watch_module(f"{name} ({type(module).__name__})", module)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield weight.register_hook(functools.partial(note, what=f"{name}: its gradient is so"))


def _finite(value: Any) -> bool:
    """Whether all tensors in a value are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True


def _images(batch: Any) -> list[str]:
    """Paths of the images of a batch."""
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    return [str(one.get("img_path") or one.get("sample_idx") or "?") for one in samples or []]
