"""What a run of MMEngine's FlexibleRunner is told before it starts."""

import pytest
import torch
from mmengine.config import Config

from mmhybrid.engine.runner.strategies import with_strategy
from mmhybrid.errors import UserError


def config(name: str, **more: object) -> Config:
    runs = dict(runner_type="FlexibleRunner", launcher="pytorch", optim_wrapper=dict())
    return Config(runs | dict(strategy=dict(type=name)) | more)


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        (Config(dict(strategy=dict(type="FSDPStrategy"))), "needs runner_type='FlexibleRunner'"),
        (config("FSDPStrategy", launcher="none"), "several processes: tools/dist_train.sh"),
        (
            config("FSDPStrategy", custom_hooks=[dict(type="EMAHook")]),
            "cannot average weights .* leave out runner_type and strategy",
        ),
        (config("FSDPStrategy", optim_wrapper=dict(accumulative_counts=2)), "accumulative_counts"),
        (config("ColossalAIStrategy"), "needs colossalai, which is not installed: leave out"),
    ],
)
def test_what_a_strategy_cannot_do(cfg, told) -> None:
    with pytest.raises(UserError, match=told):
        with_strategy(cfg)


def test_deepspeed_needs_a_gpu(monkeypatch, tmp_path) -> None:
    (tmp_path / "deepspeed.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs GPUs, and PyTorch sees none"):
        with_strategy(config("DeepSpeedStrategy"))


@pytest.mark.parametrize("name", ["FSDPStrategy", "DDPStrategy"])
def test_what_the_config_says_stays(name, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = config(name, strategy=dict(type=name, model_wrapper=dict(broadcast_buffers=True)))
    given = cfg.to_dict()
    found = with_strategy(cfg).strategy
    assert cfg.to_dict() == given
    assert found.model_wrapper.broadcast_buffers
    assert found.model_wrapper.type.startswith("MM")


@pytest.mark.parametrize(
    ("launcher", "name"), [("none", "SingleDeviceStrategy"), ("pytorch", "DDPStrategy")]
)
def test_without_a_strategy_it_is_fitted_to_the_processes(launcher, name, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = Config(dict(runner_type="FlexibleRunner", launcher=launcher))
    found = with_strategy(cfg)
    assert found.strategy.type == name
    assert found.env_cfg == {}
    assert ("model_wrapper" in found.strategy) == (name == "DDPStrategy")
