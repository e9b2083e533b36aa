"""Losses and gradients that are infinite or not a number."""

import functools
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
    (``AmpOptimWrapper``) the scaler leaves out updates whose gradients overflow, so that the loss
    alone is checked. Where gradients are accumulated, a loss that is not finite leaves out the
    update that it would have been part of.

    Args:
        policy (str): ``'stop'`` ends the run by a UserError; ``'skip'`` leaves the update out, puts
            the statistics of normalisations back, and counts (``skipped_updates``).
        most_skips (int): With ``'skip'``, so many updates left out one after the other end the run.
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
            self._guard(runner, wrapper)

    def _guard(self, runner: Runner, wrapper: OptimWrapper) -> None:
        update_params, step = wrapper.update_params, wrapper.step
        leave_out = False  # a loss of those that are being accumulated was not finite

        @functools.wraps(update_params)
        def watched_update(loss: Tensor, *args: Any, **options: Any) -> None:
            nonlocal leave_out
            bad = not _all_finite([loss], loss.device)
            leave_out |= bad
            # Backwards it goes all the same, for DistributedDataParallel waits for gradients.
            update_params(loss, *args, **options)
            if bad and not self.handled:
                self._handle(runner, "the loss")

        @functools.wraps(step)  # with the mark that a schedule looks for
        def watched_step(**options: Any) -> None:
            nonlocal leave_out
            left_out, leave_out = leave_out, False
            if left_out:
                return
            parameters = [p for group in wrapper.param_groups for p in group["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None]
            if isinstance(wrapper, AmpOptimWrapper) or _all_finite(gradients, parameters[0].device):
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
        samples = self.batch.get("data_samples") if isinstance(self.batch, dict) else None
        names = [str(s.get("img_path") or s.get("sample_idx") or "?") for s in samples or []]
        message = (
            f"{what} of iteration {runner.iter + 1} is not finite. {where} "
            f"Images of the batch: {', '.join(names) or 'unknown'}."
        )
        if self.policy == "stop":
            raise UserError(
                f"{message} To leave such updates out: "
                "--cfg-options default_hooks.non_finite.policy=skip; otherwise try a lower "
                "learning rate, a longer warm-up or optim_wrapper.clip_grad."
            )
        _restore(runner.model, self.buffers)
        count = 1 + runner.message_hub.runtime_info.get(SKIPPED, 0)
        runner.message_hub.update_info(SKIPPED, count)
        runner.logger.warning(f"Update left out ({count} so far): {message}")
        if self.in_a_row >= self.most_skips:
            several = f"{self.in_a_row} updates one after the other were not finite"
            raise UserError(f"{several}; the last: {message}")


def _restore(model: nn.Module, buffers: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _all_finite(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether all values are finite, in all processes; one may have none and is asked, too."""
    # A sum of absolute values is finite only if each is: one transfer from the GPU for all of them.
    # Large ones may overflow, so that a second look is needed.
    finite = True
    if tensors:
        norms = torch._foreach_norm([t.detach().float() for t in tensors], 1)
        finite = bool(torch.isfinite(torch.stack(norms).sum()))

    def in_any_process(flag: bool) -> bool:
        value = torch.tensor(int(flag), device=device)
        all_reduce(value, op="max")
        return bool(value)

    return not in_any_process(not finite) or not in_any_process(not _finite(tensors))


def find_non_finite(runner: Runner, batch: Any) -> str:
    """Compute a batch again, for a sentence that names the first module that is not finite.

    Model and gradients are left as they are. All processes of a run call it together, for their
    normalisations may wait for each other.
    """
    model = getattr(runner.model, "module", runner.model)
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"The weights {name} were not finite before already."
    buffers = [buffer.clone() for buffer in model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()  # not added to
    found: list[str] = []
    handles: list[Any] = []
    try:
        seed_iteration(runner)
        data = model.data_preprocessor(batch, True)
        if not _finite(data["inputs"]):
            found.append("none; the images themselves are so, after the data preprocessor")
        _watch(model, found, handles)
        losses = model(**data, mode="loss")
        found += [f"none; but {name} is so" for name in losses if not _finite(losses[name])]
        model.parse_losses(losses)[0].backward()
    except Exception as error:  # some losses cannot be computed from such values
        found.append(f"unknown ({type(error).__name__}: {error})")
    finally:
        for handle in handles:
            handle.remove()
        _restore(model, buffers)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
    if not found:
        return "Computed again, everything is finite."
    return f"The first module that gives such a value: {found[0]}."


def _watch(model: nn.Module, found: list[str], handles: list[Any]) -> None:
    """Have modules note when they make a value that is not finite, forwards or backwards."""

    def note(value: Any, what: str) -> None:
        if not found and not _finite(value):
            found.append(what)

    def see_output(module: nn.Module, inputs: Any, output: Any, what: str) -> None:
        note(output, what)
        if isinstance(output, Tensor) and output.requires_grad:
            follows = f"what follows {what}: the gradient that comes back to it is so"
            output.register_hook(functools.partial(note, what=follows))

    for name, module in model.named_modules():
        if name:  # a module within another is done first, so that the innermost is named
            see = functools.partial(see_output, what=f"{name} ({type(module).__name__})")
            handles.append(module.register_forward_hook(see))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            see = functools.partial(note, what=f"{name}: its gradient is so")
            handles.append(weight.register_hook(see))


def _finite(value: Any) -> bool:
    """Whether all tensors in a value are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    parts = value.values() if isinstance(value, dict) else value
    return not isinstance(value, dict | list | tuple) or all(map(_finite, parts))
