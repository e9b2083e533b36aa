"""The configs of segmentation and classification hold the published recipes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmhybrid  # noqa: F401  (MMEngine reads 'mmseg::...' through it)
from mmhybrid.engine.runner.run_config import without_pretrained

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Parameters of the whole segmentor, from the published backbone and mmseg's heads.
SEMANTIC_FPN_PARAMETERS = {"t": 16_599_942, "s": 30_618_738, "b": 51_658_048}
CLASSIFIER_PARAMETERS = {"t": 12_834_808, "s": 26_864_068, "b": 48_009_002}


def read(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    init_default_scope(cfg.default_scope)
    cfg = without_pretrained(cfg)
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    with torch.device("meta"):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize("size", ["t", "s", "b"])
def test_semantic_fpn(size: str) -> None:
    cfg = read(f"semantic_fpn_transxnet_{size}_ade20k")
    assert sum(p.numel() for p in build(cfg).parameters()) == SEMANTIC_FPN_PARAMETERS[size]
    assert cfg.model.backbone.drop_path_rate == dict(t=0.1, s=0.2, b=0.3)[size]
    assert cfg.optim_wrapper == dict(
        type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-4, weight_decay=1e-4)
    )
    assert cfg.train_dataloader.batch_size * 8 == 32
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (80_000, 4_000)
    transforms = [step.type for step in cfg.test_dataloader.dataset.pipeline]
    assert "ResizeToMultiple" in transforms


def test_semantic_fpn_schedule() -> None:
    """A tenth at first, all after 1000 iterations, half in the middle, nothing at the end."""
    cfg = read("semantic_fpn_transxnet_t_ade20k")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    from mmengine.registry import PARAM_SCHEDULERS

    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in cfg.param_scheduler]
    rates = []
    for _ in range(80_000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(2e-5)
    assert rates[1000] == pytest.approx(2e-4, rel=1e-3)
    assert rates[40_000] == pytest.approx(1e-4, rel=1e-3)
    assert 0 < rates[-1] < 1e-9


@pytest.mark.parametrize("size", ["t", "s", "b"])
def test_imagenet(size: str) -> None:
    cfg = read(f"transxnet_{size}_imagenet")
    model = build(cfg)
    assert sum(p.numel() for p in model.parameters()) == CLASSIFIER_PARAMETERS[size]
    assert cfg.model.backbone.drop_path_rate == dict(t=0.1, s=0.2, b=0.4)[size]
    assert cfg.custom_hooks[0].momentum == pytest.approx(dict(t=2e-4, s=1.5e-4, b=1.5e-4)[size])
    resized = cfg.test_dataloader.dataset.pipeline[1]
    assert resized.scale == int(224 / dict(t=0.9, s=0.9, b=0.95)[size])
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.train_cfg.max_epochs == 310
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {id(g["params"][0]): g["weight_decay"] > 0 for g in optimizer.param_groups}
    for name, parameter in model.named_parameters():
        free = parameter.ndim <= 1 or name.endswith(".bias")
        assert decayed[id(parameter)] != free, name


def test_upernet_and_all_mlp() -> None:
    upernet = read("upernet_transxnet_t_ade20k")
    assert upernet.train_dataloader.batch_size * 8 == 16
    segformer = read("segformer_transxnet_t_cityscapes")
    assert segformer.optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult == 10
    for cfg in (upernet, segformer):
        assert cfg.train_cfg.max_iters == 160_000
        assert cfg.optim_wrapper.optimizer.lr == 6e-5
        assert cfg.optim_wrapper.optimizer.weight_decay == 0.01
