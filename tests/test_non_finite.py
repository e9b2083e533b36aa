"""Losses and gradients that are infinite or not a number."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmhybrid.engine.hooks import non_finite_hook
from mmhybrid.engine.hooks.non_finite_hook import NonFiniteHook
from mmhybrid.errors import UserError

pytestmark = pytest.mark.train


class Spoil(Hook):
    """Spoils what a module gives, in one iteration."""

    def __init__(self, module: str, how: str, at: tuple[int, ...] = (7,)) -> None:
        self.module, self.how, self.at = module, how, at
        self.handle: Any = None

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 in self.at:
            self.model = runner.model
            self.before = [p.detach().clone() for p in runner.model.parameters()]
            module = runner.model.get_submodule(self.module)
            self.handle = module.register_forward_hook(self.spoil)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.handle is not None:
            self.handle.remove()

    def spoil(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self.how == "infinite":
            return output / 0
        output.register_hook(lambda gradient: gradient * float("nan"))
        return output.clone()


@pytest.mark.parametrize(
    ("module", "how", "told"),
    [
        ("conv", "infinite", r"gives such a value: conv \(Conv2d\)"),
        ("dropout", "infinite", r"gives such a value: dropout \(Dropout\)"),
        ("dropout", "gradient", r"gradient that comes back to it is so|norm.*gradient"),
    ],
)
def test_run_stops_and_says_where(toy_config, train, module, how, told) -> None:
    hook = Spoil(module, how)
    with pytest.raises(UserError, match=told) as error:
        train(toy_config, hook)
    message = str(error.value)
    assert "iteration 7 is not finite" in message
    # Epoch 2 begins with iteration 7; these are its first four images.
    order = torch.randperm(22, generator=torch.Generator().manual_seed(3 + 1)).tolist()
    assert ", ".join(f"{index}.png" for index in order[:4]) in message
    assert "default_hooks.non_finite.policy=skip" in message
    for now, then in zip(hook.model.parameters(), hook.before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("how", ["infinite", "gradient"])
def test_updates_are_left_out_and_counted(toy_config, train, how) -> None:
    toy_config.custom_hooks[0].update_buffers = True  # averages see neither weights nor buffers
    toy_config.default_hooks.non_finite = dict(policy="skip")
    runner = train(toy_config, Spoil("conv", how, at=(3, 7, 8)))
    assert runner.iter == 24
    assert runner.message_hub.get_info("skipped_updates") == 3
    average = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook").ema_model
    values = [*runner.model.state_dict().values(), *average.state_dict().values()]
    assert all(torch.isfinite(value).all() for value in values)


def test_endless_trouble_ends_the_run(toy_config, train) -> None:
    toy_config.default_hooks.non_finite = dict(policy="skip", most_skips=4)
    with pytest.raises(UserError, match=r"4 updates one after the other were not finite"):
        train(toy_config, Spoil("conv", "infinite", at=tuple(range(5, 20))))


def test_images_that_are_not_numbers_are_told(toy_config, train) -> None:
    for record in toy_config.train_dataloader.dataset.data_list:
        record["factor"] = float("nan") if record["img_path"] == "9.png" else 1.0
    with pytest.raises(UserError, match=r"images themselves are so.*9\.png"):
        train(toy_config)


def test_weights_that_were_wrong_before_are_told(toy_config, train) -> None:
    class Spoiled(Hook):
        def before_train(self, runner: Runner) -> None:
            nn.init.constant_(runner.model.linear.bias, float("inf"))

    with pytest.raises(UserError, match=r"The weights linear\.bias were not finite before"):
        train(toy_config, Spoiled())


class SpoilLoss(Hook):
    """Adds what has no gradient to the loss, in some iterations, and keeps what is trained."""

    priority = "VERY_HIGH"

    def __init__(self, *at: int) -> None:
        self.at = at
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        model = runner.model
        self.states[runner.iter + 1] = {k: v.clone() for k, v in model.state_dict().items()}
        if runner.iter + 1 in self.at:
            model.parse_losses = lambda losses: type(model).parse_losses(
                model, losses | dict(loss_more=losses["loss"].detach() / 0)
            )
        else:
            vars(model).pop("parse_losses", None)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_infinite_loss_without_a_gradient_changes_nothing(toy_config, train, policy) -> None:
    hook = SpoilLoss(3, 7)
    toy_config.default_hooks.non_finite = dict(policy=policy)
    if policy == "stop":
        with pytest.raises(UserError, match=r"the loss of iteration 3 is not finite"):
            train(toy_config, hook)
        assert list(hook.states) == [1, 2, 3]
        return
    runner = train(toy_config, hook)
    assert runner.message_hub.get_info("skipped_updates") == 2
    for number in hook.at:
        before, after = hook.states[number], hook.states[number + 1]
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_accumulated_gradients_are_left_out_together_and_not_added_to(toy_config, train) -> None:
    toy_config.optim_wrapper.accumulative_counts = 2
    toy_config.default_hooks.non_finite = dict(policy="skip")
    hook = SpoilLoss(3)
    runner = train(toy_config, hook)
    assert runner.message_hub.get_info("skipped_updates") == 1
    names = [name for name, _ in runner.model.named_parameters()]
    for a, b, same in ((3, 4, True), (4, 5, True), (6, 7, False)):
        kept = all(torch.equal(hook.states[a][n], hook.states[b][n]) for n in names)
        assert kept == same, (a, b)


def test_run_without_trouble_is_the_same_with_and_without(toy_config, train, tmp_path) -> None:
    toy_config.default_hooks.non_finite = dict(policy="skip")
    watched = train(toy_config)
    toy_config.default_hooks.non_finite = None
    toy_config.work_dir = str(tmp_path / "unwatched")
    for a, b in zip(watched.model.parameters(), train(toy_config).model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_process_without_gradients_hears_of_those_of_others(monkeypatch) -> None:
    # As if another process had found a gradient that is not finite.
    monkeypatch.setattr(non_finite_hook, "all_reduce", lambda value, op: value.fill_(1))
    parameter = nn.Parameter(torch.ones(2))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=1.0))
    hook, found = NonFiniteHook(), []
    monkeypatch.setattr(hook, "_handle", lambda runner, what: found.append(what))
    hook.before_train(SimpleNamespace(optim_wrapper=wrapper))
    wrapper.step()
    assert found == ["a gradient"]


def test_unknown_policy_is_told() -> None:
    with pytest.raises(ValueError, match=r"'ignore' of NonFiniteHook is neither 'stop' nor 'skip'"):
        NonFiniteHook(policy="ignore")
