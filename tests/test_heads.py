"""Every backbone under every head: the channels fit, and one step trains it."""

import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import mmhybrid
from mmhybrid.backbones import backbone_classes

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
BACKBONE_BASES = sorted(path.stem for path in (BASES / "backbones").glob("*.py"))
# Constructor arguments of tiny models, by class name.
TINY = {backbone.__name__: backbone.test_options for backbone in backbone_classes()}
SWIN = dict(embed_dims=24, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 6))
TINY["DepthwiseShortcutBackbone"] = dict(backbone=dict(type="mmdet.SwinTransformer", **SWIN))
HEIGHT, WIDTH = 64, 96


@functools.cache
def head_config(head: str) -> Config:
    return Config.fromfile(BASES / f"{head}.py")


def detection_sample():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    masks[0, 8:40, 8:40] = 1
    masks[1, 16:60, 40:90] = 1
    boxes = torch.tensor([[8.0, 8, 40, 40], [40, 16, 90, 60]])
    sample = DetDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH)))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([1, 3]),
        masks=BitmapMasks(masks.numpy(), HEIGHT, WIDTH),
    )
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0).long())
    return sample


def segmentation_sample():
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, HEIGHT, WIDTH)))
    return sample


@pytest.mark.parametrize("backbone", sorted(TINY))
@pytest.mark.parametrize("head", HEADS)
def test_one_step_trains(head: str, backbone: str) -> None:
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

    samples = [detection_sample() if detects else segmentation_sample() for _ in range(2)]
    images = list(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8))
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss)
    before = {name: one.detach().clone() for name, one in model.backbone.named_parameters()}
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    optimizer.step()
    same = [
        name for name, one in model.backbone.named_parameters() if torch.equal(one, before[name])
    ]
    assert len(same) < len(before) / 4


@pytest.mark.parametrize("head", HEADS)
def test_bases_of_heads_and_backbones_pair(head: str, tmp_path: Path) -> None:
    for name in BACKBONE_BASES:
        path = tmp_path / f"{name}.py"
        path.write_text(
            f"_base_ = ['{BASES}/mmhybrid.py', '{BASES}/{head}.py',"
            f" '{BASES}/backbones/{name}.py']\n"
            "model = __import__('mmhybrid').replace_backbone(_base_.model, _base_.backbone)\n"
        )
        cfg = Config.fromfile(path)
        assert cfg.model.type == head_config(head).model.type
        if name.startswith("swin"):
            channels = [96, 192, 384, 768]  # mmdet's does not build without memory
        else:
            with torch.device("meta"):
                channels = list(MODELS.build(cfg.model.backbone).feature_channels)
        if "upernet" in head:
            assert cfg.model.decode_head.in_channels == channels
            assert cfg.model.auxiliary_head.in_channels == channels[2]
        elif "segformer" in head:
            assert cfg.model.decode_head.in_channels == channels
        else:
            expected = channels if "mask_rcnn" in head else channels[-3:]
            expected = expected[::-1] if "yolo" in head else expected
            assert cfg.model.neck.in_channels == expected, name
    cfg.dump(tmp_path / "dumped.py")  # the last; nothing of the pairing is left in it
    assert Config.fromfile(tmp_path / "dumped.py").model == cfg.model


def test_a_model_that_does_not_tell_its_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"cannot fit a backbone to a DETR.* by hand"):
        mmhybrid.replace_backbone(dict(type="DETR", neck=dict(type="X")), dict(type="XFormer"))
    neck = dict(in_channels=[1, 2, 3])
    with pytest.raises(ValueError, match="takes 3 maps, the backbone gives 1"):
        mmhybrid.replace_backbone(dict(neck=neck), dict(type="XFormer", out_indices=(3,)))
    head = dict(type="SegformerHead", in_channels=[1, 2], in_index=[0, 1])
    with pytest.raises(ValueError, match="SegformerHead takes more maps than the backbone gives"):
        mmhybrid.replace_backbone(dict(decode_head=head), dict(type="XFormer", out_indices=(3,)))


def test_a_list_of_heads_is_fitted_head_by_head() -> None:
    """MMEngine replaces a list as a whole, so that each head comes back with all that it had."""
    model = Config.fromstring("_base_ = 'mmseg::_base_/models/ocrnet_r50-d8.py'", ".py").model
    changes = mmhybrid.replace_backbone(model, dict(type="XFormer"))
    cfg = Config(dict(model=model.to_dict()))
    cfg.merge_from_dict(dict(model=changes))
    assert [head.in_channels for head in cfg.model.decode_head] == [128, 160]
    assert [head.type for head in cfg.model.decode_head] == ["FCNHead", "OCRHead"]
    assert [head.in_channels for head in model.decode_head] == [1024, 2048]


def test_a_head_without_in_index_takes_what_mmseg_gives_it() -> None:
    heads = dict(
        decode_head=dict(type="Mask2FormerHead", in_channels=[512, 1024, 2048]),
        auxiliary_head=[dict(in_channels=7), dict(in_channels=7, in_index=-2)],
    )
    changes = mmhybrid.replace_backbone(heads, dict(type="XFormer"))
    assert changes["decode_head"] == dict(in_channels=[96, 128, 160])
    assert [head["in_channels"] for head in changes["auxiliary_head"]] == [160, 128]


def weight_decays(cfg: Config) -> dict[str, float]:
    """Of every parameter that a config trains, by its name."""
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    return {name: decay[id(one)] for name, one in model.named_parameters()}


@pytest.mark.parametrize("attention", ["cross_covariance", "context_score"])
@pytest.mark.parametrize(
    "name", ["xformer_s_imagenet", "segformer_xformer_s_cityscapes", "yolov3_xformer_s_coco"]
)
def test_scales_of_cross_feature_attention_do_not_decay(name, attention, read_config) -> None:
    cfg = read_config(name)
    cfg.model.backbone.attention = attention
    names = weight_decays(cfg)
    ending = "temperature" if attention == "cross_covariance" else "attention.scale"
    scales = [name for name in names if name.endswith(ending)]
    assert len(scales) == 9
    assert all(names[name] == 0 for name in scales)
    assert names["backbone.stages.1.1.layers.0.attention.qkv.weight"] > 0


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


@pytest.mark.parametrize("name", DECAY)
def test_weight_decay_of_the_recipe(name: str, read_config) -> None:
    names = weight_decays(read_config(name))
    for ending, decays in DECAY[name].items():
        found = {n: value for n, value in names.items() if n.endswith(ending)}
        assert found, ending
        assert {value > 0 for value in found.values()} == {decays}, found
