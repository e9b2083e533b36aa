"""Every backbone under every head: the channels fit, one step trains it, and it can be fused."""

import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

import mmhybrid
from mmhybrid.backbones import backbone_classes
from mmhybrid.deploy import fuse

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


@pytest.mark.parametrize("backbone", sorted(TINY))
@pytest.mark.parametrize("head", HEADS)
def test_one_step_trains_and_fusing_changes_nothing(head: str, backbone: str) -> None:
    base = head_config(head)
    init_default_scope(base.default_scope)
    cfg = Config(dict(model=base.model.to_dict()))
    changes = mmhybrid.replace_backbone(cfg.model, dict(type=backbone, **TINY[backbone]))
    cfg.merge_from_dict(dict(model=changes))
    cfg.merge_from_dict({f"model.{key}": value for key, value in HEADS[head].items()})
    detects = base.default_scope == "mmdet"
    if not detects:
        cfg.model.data_preprocessor.size = (HEIGHT, WIDTH)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    optimizer = build_optim_wrapper(model, base.optim_wrapper)

    data = model.data_preprocessor(annotated_images(detects), True)
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

    model, x = model.eval().double(), torch.randn(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = (one.extract_feat(x) for one in (fuse(model), model))
        torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-10)


@functools.cache
def backbone_config(name: str) -> tuple[Config, list[int]]:
    """A base's backbone, and the channels of what it returns."""
    backbone = Config.fromfile(BASES / "backbones" / f"{name}.py").backbone
    if name.startswith("swin"):
        return backbone, [96, 192, 384, 768]  # mmdet's does not build without memory
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


def test_a_model_that_does_not_tell_its_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"cannot fit a backbone to a DETR.* by hand"):
        mmhybrid.replace_backbone(dict(type="DETR", neck=dict(type="X")), dict(type="XFormer"))
    last = dict(type="XFormer", out_indices=(3,))
    with pytest.raises(ValueError, match="takes 3 maps, the backbone gives 1"):
        mmhybrid.replace_backbone(dict(neck=dict(in_channels=[1, 2, 3])), last)
    head = dict(type="SegformerHead", in_channels=[1, 2], in_index=[0, 1])
    with pytest.raises(ValueError, match="SegformerHead takes more maps than the backbone gives"):
        mmhybrid.replace_backbone(dict(decode_head=head), last)


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
    "dmformer_s_imagenet": {"norm1.weight": False, "fc.weight": True, "fc.bias": False},
    "upernet_dmformer_s_ade20k": {"norm1.weight": False, "conv_seg.weight": True},
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
