"""Layer-wise learning rate decay, under each type of model and for each family."""

import importlib
from collections.abc import Callable

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmhybrid
from mmhybrid import backbones

OURS = "mmhybrid.LayerwiseDecayOptimWrapperConstructor"
ADAMW = dict(type="AdamW", lr=1.0, weight_decay=0.1)
CONFIGS = {
    "Mask R-CNN": "mask_rcnn_transxnet_t_coco",
    "UperNet": "upernet_transxnet_t_ade20k",
    "classifier": "transxnet_t_imagenet",
}


@pytest.fixture
def build(read_config) -> Callable[[str], nn.Module]:
    """Builds the model of one of ``CONFIGS``, without memory."""

    def build(name: str) -> nn.Module:
        cfg = read_config(CONFIGS[name])
        init_default_scope(cfg.default_scope)
        with torch.device("meta"):
            return MODELS.build(cfg.model)

    return build


def tiny(backbone: type[nn.Module]) -> nn.Module:
    return with_head(backbone(**backbone.test_options))


def with_head(backbone: nn.Module) -> nn.Module:
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(8, 2)))


def build_wrapper(model: nn.Module, constructor: str = OURS, optimizer=ADAMW, **paramwise):
    if constructor == OURS:
        paramwise = dict(layer_decay_rate=0.5) | paramwise
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise)
    return build_optim_wrapper(model, cfg)


def groups(model: nn.Module, *constructor: str, **paramwise) -> dict[str, dict]:
    """The settings of each parameter that the optimizer has, by name; each is there once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    param_groups = build_wrapper(model, *constructor, **paramwise).optimizer.param_groups
    found = [(names[id(p)], group) for group in param_groups for p in group["params"]]
    assert len(found) == len({name for name, _ in found})
    return dict(found)


def depth_in_transxnet_tiny(name: str) -> int:
    """Written down from the model's structure: a stem, then 3, 3, 9 and 3 blocks, then the rest."""
    if name.startswith("backbone.patch_embed."):
        return 0
    first_block = {0: 1, 2: 4, 4: 7, 6: 16}
    _, part, place, block, *_ = [*name.split("."), "", "", ""]
    if part == "network":
        stage = int(place)
        return first_block[stage] + int(block) if stage in first_block else first_block[stage + 1]
    return first_block[2 * int(place)] if part == "relative_pos_enc" else 19


@pytest.mark.parametrize("name", CONFIGS)
def test_transxnet_tiny_under_each_type_of_model(name: str, build) -> None:
    model = build(name)
    found = groups(model, norm_decay_mult=0.0)
    norms = {
        f"{prefix}.{parameter}"
        for prefix, module in model.named_modules()
        for parameter in ("weight", "bias")
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm)
    }
    assert set(found) == {name for name, _ in model.named_parameters()}
    for parameter, group in found.items():
        assert group["layer_depth"] == depth_in_transxnet_tiny(parameter), parameter
        assert group["lr"] == 0.5 ** (19 - group["layer_depth"]), parameter
        assert group["weight_decay"] == (0 if parameter in norms else 0.1), parameter
    # The stem and each of the 18 blocks, and heads: one group with weight decay, one without.
    assert len({id(group) for group in found.values()}) == 2 * 20


def test_the_groups_are_printed(build, read_config, run_tool, root, capsys) -> None:
    path = root / "configs" / f"{CONFIGS['UperNet']}.py"
    options = ["--cfg-options", f"optim_wrapper.constructor={OURS}"]
    run_tool("print_groups.py", path, *options, "optim_wrapper.paramwise_cfg.layer_decay_rate=0.5")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["group", "depth", "lr", "weight", "decay", "values", "name"]
    lr = read_config(CONFIGS["UperNet"]).optim_wrapper.optimizer.lr
    printed = {line.split()[-1]: line.split() for line in lines}
    assert list(printed) == [name for name, _ in build("UperNet").named_parameters()]
    for name, (_, depth, rate, _, _, _) in printed.items():
        assert int(depth) == depth_in_transxnet_tiny(name)
        assert float(rate) == pytest.approx(lr * 0.5 ** (19 - int(depth)), rel=1e-3)
    assert printed["backbone.relative_pos_enc.0"][4] == "153,664"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TransXNet", {}),
        ("mmpretrain.ConvNeXt", dict(arch="atto")),
        ("mmpretrain.SwinTransformer", {}),
        ("mmpretrain.VisionTransformer", dict(arch="deit-t")),
        ("mmpretrain.BEiTViT", dict(arch="deit-t")),
        ("mmpretrain.ResNet", dict(depth=50)),
    ],
)
def test_classifiers_get_what_mmpretrain_gives_them(name: str, options: dict) -> None:
    init_default_scope("mmpretrain")
    backbone = dict(type=name, **options)
    model = MODELS.build(dict(type="mmpretrain.ImageClassifier", backbone=backbone))
    rules = dict(norm_decay_mult=0.0, bias_decay_mult=0.5, flat_decay_mult=0.25)
    rules["custom_keys"] = {"norm": dict(decay_mult=2.0)}
    theirs = "mmpretrain.LearningRateDecayOptimWrapperConstructor"
    expected = groups(model, theirs, layer_decay_rate=0.5, **rules)
    for name, group in groups(model, **rules).items():
        for key in ("lr", "weight_decay"):
            assert group[key] == expected[name][key], (name, key)
        assert group["layer_depth"] == expected[name]["layer_id"]


@pytest.mark.parametrize("family", backbones.backbone_classes(), ids=lambda family: family.__name__)
def test_every_family(family: type[nn.Module]) -> None:
    model = tiny(family)
    found = groups(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    rates = {group["lr"] for group in found.values()}
    assert max(rates) == found["head.weight"]["lr"] == 1
    # From the stem on, every depth halves the learning rate.
    assert rates - {1.0} == {min(rates) * 2**i for i in range(len(rates - {1.0}))}


def test_a_backbone_of_mmpretrain_with_shortcuts() -> None:
    inner = dict(type="mmpretrain.VisionTransformer", arch="deit-t", out_type="featmap")
    init_default_scope("mmpretrain")
    model = with_head(MODELS.build(dict(type="mmhybrid.DepthwiseShortcutBackbone", backbone=inner)))
    found = groups(model)
    assert found["backbone.backbone.layers.3.ln1.weight"]["layer_depth"] == 4
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_rules_of_the_default_constructor() -> None:
    with torch.device("meta"):
        model = with_head(backbones.TransXNet("tiny"))
    rules = dict(norm_decay_mult=0.0, flat_decay_mult=0.5, bias_decay_mult=0.25)
    block = dict(lr_mult=0.1, decay_mult=3.0)
    rules["custom_keys"] = {"network.6.2": block, "head": dict(lr_mult=10.0)}
    found = groups(model, **rules)
    plain = groups(model, "DefaultOptimWrapperConstructor", **rules)
    for name, group in found.items():
        assert group["weight_decay"] == plain[name]["weight_decay"], name
        decay = 0.5 ** (19 - depth_in_transxnet_tiny(name))
        assert group["lr"] == pytest.approx(plain[name]["lr"] * decay), name
    assert found["head.bias"]["lr"] == 10
    last_block = found["backbone.network.6.2.pos_embed.weight"]
    assert (last_block["lr"], last_block["weight_decay"]) == pytest.approx((0.05, 0.3))


def test_frozen_parameters_are_left_out() -> None:
    with torch.device("meta"):
        model = with_head(backbones.TransXNet("tiny", frozen_stages=2))
    found = groups(model)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert min(group["layer_depth"] for group in found.values()) == 7


def test_a_teacher_and_a_student() -> None:
    """Two backbones in one model each keep their own depths."""
    parts = {name: tiny(backbones.XFormer) for name in ("teacher", "student")}
    found = groups(nn.ModuleDict(parts))
    for name, group in found.items():
        twin = name.replace("teacher", "student")
        assert group["layer_depth"] == found[twin]["layer_depth"]


def test_a_step_moves_deep_layers_more() -> None:
    model = tiny(backbones.XFormer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optim_wrapper = build_wrapper(model, optimizer=dict(type="SGD", lr=1.0))
    optim_wrapper.update_params(sum(p.sum() for p in model.parameters()))  # all gradients are 1
    rates = groups(model)
    for name, parameter in model.named_parameters():
        step = (before[name] - parameter.detach()).mean().item()
        assert step == pytest.approx(rates[name]["lr"], rel=1e-2, abs=1e-5), name


@pytest.mark.parametrize("rate", [None, 0, -0.5, 1.5, "0.75"])
def test_a_bad_rate_is_told(rate: object) -> None:
    with pytest.raises(ValueError, match=r"layer_decay_rate=0\.75"):
        groups(tiny(backbones.XFormer), layer_decay_rate=rate)


def test_no_learning_rate_is_told() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        build_wrapper(tiny(backbones.XFormer), optimizer=dict(type="SGD"))


def test_a_backbone_that_knows_no_depths_is_told() -> None:
    with pytest.raises(ValueError, match="Conv2d has no get_layer_depth"):
        groups(with_head(nn.Conv2d(3, 8, 3)))
    swin = dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    inner = dict(type="mmdet.SwinTransformer", **swin)
    with pytest.raises(ValueError, match=r"mmdet\.SwinTransformer.* has no get_layer_depth.* wrap"):
        groups(with_head(backbones.DepthwiseShortcutBackbone(inner)))


def test_no_openmmlab_package_has_this_name() -> None:
    """Another class of the same name would win, or refuse ours, without a word."""
    name = OURS.removeprefix("mmhybrid.")
    for package in ("mmdet", "mmseg", "mmpretrain"):
        importlib.import_module(f"{package}.engine")
        registry = importlib.import_module(f"{package}.registry")
        assert name not in registry.OPTIM_WRAPPER_CONSTRUCTORS.module_dict
    assert mmhybrid.registry.OPTIM_WRAPPER_CONSTRUCTORS.get(name).__module__.startswith("mmhybrid.")
