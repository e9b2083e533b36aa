"""Every backbone under every head: the channels fit, one step trains it, and it can be fused."""

import functools
import itertools
import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

import mmhybrid
from mmhybrid.backbones import backbone_classes
from mmhybrid.deploy import fuse
from mmhybrid.engine.runner.run_config import without_pretrained
from mmhybrid.errors import ArgumentError

BASES = Path(__file__).resolve().parents[1] / "configs" / "_base_"
# Bases with a head, and what makes it small.
HEADS = {
    "mask_rcnn_coco_1x": {
        "roi_head.bbox_head.fc_out_channels": 32,
        "roi_head.mask_head.num_convs": 1,
        "train_cfg.rcnn.sampler.num": 32,
        "train_cfg.rpn_proposal.max_per_img": 60,
    },
    "retinanet_coco_1x": {"bbox_head.stacked_convs": 1},
    "yolov3_coco_300e": {},
    "upernet_ade20k_160k": {"decode_head.channels": 32, "auxiliary_head.channels": 32},
    "segformer_cityscapes_160k": {"decode_head.channels": 32},
}
# Constructor arguments of tiny models, by class name.
TINY = {backbone.__name__: backbone.test_options for backbone in backbone_classes()}
SWIN = dict(embed_dims=24, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 6))
TINY["DepthwiseShortcutBackbone"] = dict(backbone=dict(type="mmdet.SwinTransformer", **SWIN))
HEIGHT, WIDTH = 64, 96


# Models of timm by name: what makes them small, and channels of the maps of strides 4, 8, 16, 32.
TIMM = {
    "resnet18": (dict(zero_init_last=False), [64, 128, 256, 512]),
    "swin_tiny_patch4_window7_224": (
        dict(depths=(1, 1, 2, 1), embed_dim=24, num_heads=(1, 2, 3, 6)),
        [24, 48, 96, 192],
    ),
    "mambaout_femto": (dict(depths=(1, 1, 1, 1)), [48, 96, 192, 288]),
    "convnext_atto": (dict(depths=(1, 1, 1, 1)), [40, 80, 160, 320]),
    "mobilevit_s": ({}, [64, 96, 128, 640]),
    "efficientnet_b0": ({}, [24, 40, 112, 320]),
}


@functools.cache
def head_config(head: str) -> Config:
    return Config.fromfile(BASES / f"{head}.py")


def annotated_images(detects: bool) -> dict:
    if detects:
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(2, (3, HEIGHT, WIDTH), num_items=[2, 2], with_mask=True)
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, HEIGHT, WIDTH)))
    images = list(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8))
    return dict(inputs=images, data_samples=[sample, sample.clone()])


def pair(head: str, backbone: dict) -> Config:
    """The config of a small head with a backbone."""
    base = head_config(head)
    init_default_scope(base.default_scope)
    model, optim_wrapper = base.model.to_dict(), base.optim_wrapper
    cfg = Config(dict(model=model, optim_wrapper=optim_wrapper, default_scope=base.default_scope))
    changes = mmhybrid.replace_backbone(cfg.model, backbone)
    cfg.merge_from_dict(dict(model=changes))
    return shrink(cfg, HEADS[head])


def shrink(cfg: Config, head: dict) -> Config:
    cfg.merge_from_dict({f"model.{key}": value for key, value in head.items()})
    if cfg.default_scope != "mmdet":
        cfg.model.data_preprocessor.size = (HEIGHT, WIDTH)
    return cfg


def train_one_step(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    images = annotated_images(detects=cfg.default_scope == "mmdet")
    data = model.data_preprocessor(images, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss)
    before = [parameter.detach().clone() for parameter in model.backbone.parameters()]
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    optimizer.step()
    same = sum(map(torch.equal, before, model.backbone.parameters()))
    assert same < len(before) / 4
    return model


@pytest.mark.parametrize("backbone", sorted(TINY))
@pytest.mark.parametrize("head", HEADS)
def test_one_step_trains_and_fusing_changes_nothing(head: str, backbone: str) -> None:
    model = train_one_step(pair(head, dict(type=backbone, **TINY[backbone])))
    model, x = model.eval().double(), torch.randn(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = (one.extract_feat(x) for one in (fuse(model), model))
        torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-10)


# Of backbones that do not tell them.
CHANNELS = {
    "swin_t_with_dw_shortcut": [96, 192, 384, 768],  # mmdet's does not build without memory
    "van_b2": [64, 128, 320, 512],
    "van_b3": [64, 128, 320, 512],
    "mobilevit_s": [64, 96, 128, 640],
    "timm_nextvit_s": [96, 256, 512, 1024],
}


@functools.cache
def backbone_config(name: str) -> tuple[Config, list[int]]:
    """A base's backbone, and the channels of what it returns."""
    backbone = Config.fromfile(BASES / "backbones" / f"{name}.py").backbone
    if name in CHANNELS:
        return backbone, CHANNELS[name]
    with torch.device("meta"):
        return backbone, list(MODELS.build(backbone).feature_channels)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (BASES / "backbones").glob("*.py")))
def test_bases_of_heads_and_backbones_pair(head: str, name: str) -> None:
    backbone, channels = backbone_config(name)
    changes = mmhybrid.replace_backbone(head_config(head).model, backbone)
    if "decode_head" in changes:
        assert changes["decode_head"]["in_channels"] == channels
        assert changes.get("auxiliary_head", {}).get("in_channels", channels[2]) == channels[2]
    else:
        expected = channels if "mask_rcnn" in head else channels[-3:]
        expected = expected[::-1] if "yolo" in head else expected
        assert changes["neck"]["in_channels"] == expected


# Each model under one head, and each head with some.
TIMM_HEADS = ["retinanet_coco_1x", "mask_rcnn_coco_1x", "upernet_ade20k_160k"]


@pytest.mark.parametrize(("name", "head"), zip(TIMM, itertools.cycle(TIMM_HEADS), strict=False))
def test_one_step_trains_models_of_timm(head: str, name: str, capfd) -> None:
    options, channels = TIMM[name]
    # What is asked for is not downloaded to look at it, and looking is silent.
    backbone = dict(type="mmpretrain.TIMMBackbone", model_name=name, pretrained=True, **options)
    cfg = pair(head, backbone)
    assert capfd.readouterr().out == ""
    assert cfg.model.backbone.pretrained is True
    model = train_one_step(without_pretrained(cfg)).eval()
    with torch.no_grad():
        maps = model.backbone(torch.zeros(1, 3, HEIGHT, 2 * WIDTH))
    levels = 3 if "retinanet" in head else 4
    strides = [4, 8, 16, 32][-levels:]
    sizes = [(HEIGHT // stride, 2 * WIDTH // stride) for stride in strides]
    assert [tuple(one.shape[1:]) for one in maps] == [
        (width, *size) for width, size in zip(channels[-levels:], sizes, strict=True)
    ]


# The examples with pretrained backbones of others, and what makes their backbones small.
EXAMPLES = {
    "semantic_fpn_van_b2_ade20k": dict(
        arch=dict(embed_dims=[64, 128, 320, 512], depths=[1, 1, 1, 1], ffn_ratios=[1, 1, 1, 1])
    ),
    "mask_rcnn_timm_nextvit_s_coco": dict(depths=(1, 1, 5, 1)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_step_trains_the_examples(name: str, read_config) -> None:
    cfg = without_pretrained(read_config(name))
    cfg.model.backbone.update(EXAMPLES[name])
    train_one_step(shrink(cfg, HEADS["mask_rcnn_coco_1x"] if "rcnn" in name else {}))


def test_example_takes_all_of_a_classifier_of_mmpretrain(read_config, tmp_path: Path) -> None:
    """The file as OpenMMLab publishes it: the whole classifier's tensors, under its names."""
    cfg = read_config("semantic_fpn_van_b2_ade20k")
    mmpretrain = Config.fromstring(
        "_base_ = 'mmpretrain::_base_/models/van/van_base.py'", ".py"
    ).model
    init_default_scope("mmpretrain")
    classifier = MODELS.build(mmpretrain)
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / "van.pth")
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / "van.pth")
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    expected = classifier.backbone.state_dict()
    assert list(backbone.state_dict()) == list(expected)
    assert all(map(torch.equal, backbone.state_dict().values(), expected.values()))


def test_a_backbone_that_is_looked_at_silences_no_logger() -> None:
    logger = MMLogger.get_current_instance()
    backbone = dict(type="mmpretrain.TIMMBackbone", model_name="resnet10t")  # looked at here alone
    mmhybrid.replace_backbone(dict(neck=dict(in_channels=[1] * 4)), backbone)
    assert logger.isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    ("levels", "backbone", "message"),
    [
        (
            4,
            dict(type="mmpretrain.TIMMBackbone", model_name="resnet18", out_indices=(0, 1, 2, 3)),
            r"maps \(0, 1, 2, 3\) of resnet18 have strides \[2, 4, 8, 16\], the model takes "
            r"\[4, 8, 16, 32\]: choose others .* as out_indices=\(1, 2, 3, 4\)$",
        ),
        (
            3,
            dict(type="mmpretrain.TIMMBackbone", model_name="vit_tiny_patch16_224"),
            r"vit_tiny_patch16_224 have strides \[16, 16, 16\].* out_indices$",
        ),
        (3, dict(type="mmpretrain.TIMMBackbone", model_name="resnet_18"), "Unknown model"),
        (4, dict(type="mmpretrain.MobileNetV2"), r"MobileNetV2 have strides \[4, 8, 16, 16\]"),
    ],
)
def test_maps_of_other_strides_are_an_error(levels: int, backbone: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        mmhybrid.replace_backbone(dict(neck=dict(in_channels=[1] * levels)), backbone)


@pytest.mark.parametrize(
    ("backbone", "out_indices"),
    [
        (dict(type="mmpretrain.MobileViT"), (1, 2, 3, 4)),  # five levels
        (dict(type="mmdet.CSPDarknet"), (1, 2, 3, 4)),
        (dict(type="mmpretrain.VAN"), (0, 1, 2, 3)),  # whose eval() returns nothing
        (dict(type="mmdet.ResNet", depth=18, strides=(1, 2, 1, 1)), (0, 1, 2, 3)),  # as asked for
    ],
)
def test_stages_up_to_stride_32_are_chosen(backbone: dict, out_indices: tuple) -> None:
    changes = mmhybrid.replace_backbone(dict(neck=dict(in_channels=[1, 2, 3, 4])), backbone)
    assert changes["backbone"]["out_indices"] == out_indices


def test_a_model_that_does_not_tell_its_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match="has an image_encoder in a backbone's place"):
        mmhybrid.replace_backbone(dict(image_encoder={}, decode_head={}), dict(type="XFormer"))
    with pytest.raises(ValueError, match=r"cannot fit a backbone to a DETR.* by hand"):
        mmhybrid.replace_backbone(dict(type="DETR", neck=dict(type="X")), dict(type="XFormer"))
    last = dict(type="XFormer", out_indices=(3,))
    with pytest.raises(ValueError, match="takes 3 maps, the backbone gives 1"):
        mmhybrid.replace_backbone(dict(neck=dict(in_channels=[1, 2, 3])), last)
    head = dict(type="SegformerHead", in_channels=[1, 2], in_index=[0, 1])
    with pytest.raises(ValueError, match="SegformerHead takes more maps than the backbone gives"):
        mmhybrid.replace_backbone(dict(decode_head=head), last)


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        (  # YOLOF's, which takes one map
            dict(neck=dict(type="DilatedEncoder", in_channels=2048)),
            dict(neck=dict(in_channels=160)),
        ),
        (  # two necks, of which the first takes the maps
            dict(neck=[dict(type="FPN", in_channels=[1, 2, 3]), dict(type="DyHead")]),
            dict(neck=[dict(type="FPN", in_channels=[96, 128, 160]), dict(type="DyHead")]),
        ),
        (  # K-Net's heads in a head
            dict(decode_head=dict(kernel_generate_head=dict(in_channels=7, in_index=2), stages=1)),
            dict(decode_head=dict(kernel_generate_head=dict(in_channels=128))),
        ),
        (  # a classifier's head, after a neck that pools
            dict(neck=dict(type="GlobalAveragePooling"), head=dict(in_channels=2048)),
            dict(head=dict(in_channels=160)),
        ),
        (  # SoftTeacher's model in a model
            dict(type="SoftTeacher", detector=dict(neck=dict(in_channels=[1]))),
            dict(detector=dict(neck=dict(in_channels=[160]))),
        ),
    ],
)
def test_every_place_that_takes_maps_is_fitted(model: dict, changed: dict) -> None:
    changes = mmhybrid.replace_backbone(model, dict(type="XFormer"))
    inner = changes.get("detector", changes)
    assert inner.pop("backbone")["out_indices"][-1] == 3
    assert changes == changed


def test_heads_are_fitted_one_by_one() -> None:
    """MMEngine replaces a list as a whole, so that each head comes back with all that it had."""
    model = Config.fromstring("_base_ = 'mmseg::_base_/models/ocrnet_r50-d8.py'", ".py").model
    heads = mmhybrid.replace_backbone(model, dict(type="XFormer"))["decode_head"]
    found = [(head["type"], head["in_channels"]) for head in heads]
    assert found == [("FCNHead", 128), ("OCRHead", 160)]
    assert heads[0] == model.decode_head[0].to_dict() | dict(in_channels=128)
    assert [head.in_channels for head in model.decode_head] == [1024, 2048]
    # A head without in_index takes what mmseg gives it.
    heads = dict(
        decode_head=dict(type="Mask2FormerHead", in_channels=[512, 1024, 2048]),
        auxiliary_head=[dict(in_channels=7), dict(in_channels=7, in_index=-2)],
    )
    changes = mmhybrid.replace_backbone(heads, dict(type="XFormer"))
    assert changes["decode_head"] == dict(in_channels=[96, 128, 160])
    assert [head["in_channels"] for head in changes["auxiliary_head"]] == [160, 128]


# Ending of a name, whether it decays: as in the authors' code.
DECAY = {
    "dw_vit_t_cifar10": {
        "pos_embedding": True, "cls_token": True, "shortcuts.0.convs.0.weight": True,
        "shortcuts.0.convs.0.bias": False, "shortcuts.0.norms.0.weight": False,
        "blocks.0.norm1.weight": False, "blocks.0.mlp.fc1.bias": False,
    },
    "dw_cait_xxs12_imagenet": {
        "pos_embedding": True, "cls_token": True, "attn.mix_heads_pre_attn": True,
        "shortcuts.0.convs.0.weight": True, "shortcuts.0.norms.0.bias": False,
    },
    "dw_swin_t_imagenet": {
        "relative_position_bias_table": False, "shortcuts.0.convs.0.weight": True,
        "shortcuts.0.convs.0.bias": False, "shortcuts.0.norms.0.weight": False,
    },
    "dmformer_s_imagenet": {
        "norm1.weight": False, "layer_scale_1.weight": False, "fc.weight": True, "fc.bias": False,
    },
    "upernet_dmformer_s_ade20k": {
        "norm1.weight": False, "stem.0.bn.weight": False, "conv_seg.weight": True,
    },
}  # fmt: skip


XFORMERS = ("xformer_s_imagenet", "segformer_xformer_s_cityscapes", "yolov3_xformer_s_coco")
# The scale of each form of cross-feature attention.
SCALES = {"cross_covariance": "temperature", "context_score": "attention.scale"}


@pytest.mark.parametrize(
    ("name", "changes", "endings"),
    [
        *((name, {}, endings) for name, endings in DECAY.items()),
        *(
            (name, dict(attention=form), {scale: False, "attention.qkv.weight": True})
            for name in XFORMERS
            for form, scale in SCALES.items()
        ),
    ],
)
def test_weight_decay_of_the_recipe(name: str, changes: dict, endings: dict, read_config) -> None:
    cfg = read_config(name)
    cfg.model.backbone.update(changes)
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for ending, decays in endings.items():
        found = [decay[id(p)] > 0 for n, p in model.named_parameters() if n.endswith(ending)]
        assert set(found) == {decays}, ending
        assert not changes or len(found) == 9
