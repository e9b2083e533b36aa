"""Parameters and operations of every family and of its variants: those of papers and authors' code.

Nothing is computed: the models lie on PyTorch's meta device, which knows shapes alone.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmhybrid.backbones import (
    DMFormer,
    DWCaiT,
    DWSwinTransformer,
    DWVisionTransformer,
    TransXNet,
    XFormer,
)
from mmhybrid.layers.inverted_residual import InvertedResidual

VIT = (DWVisionTransformer, dict(out_type="cls_token"))
CAIT = (DWCaiT, dict(out_type="cls_token"))
SWIN = (DWSwinTransformer, dict(out_indices=(3,)))
XF = (XFormer, dict(head_channels=640))
DM = (DMFormer, {})
PLAIN = dict(dw_kernel_sizes=())
NO_POSITION = dict(position_embedding=False)
STRIPPED = dict(layer_scale=False, talking_heads=False, position_embedding=False)
COVARIANCE = dict(attention="cross_covariance")


def on_meta(host: tuple[type[nn.Module], dict[str, Any]], **options: Any) -> nn.Module:
    backbone, defaults = host
    with torch.device("meta"):
        return backbone(**defaults | options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Parameters of the backbone.
# fmt: off
DENSE = [
    ((TransXNet, {}), dict(arch="tiny"), 12_386_544),
    ((TransXNet, {}), dict(arch="small"), 26_352_092),
    ((TransXNet, {}), dict(arch="base"), 47_337_130),
    ((TransXNet, dict(out_indices=(1, 2, 3))), dict(arch="tiny"), 12_386_448),
    ((TransXNet, dict(out_indices=(1, 2, 3))), dict(arch="small"), 26_351_964),
    ((TransXNet, dict(out_indices=(1, 2, 3))), dict(arch="base"), 47_336_978),
]
# Parameters with a linear classifier: its inputs and classes.
CLASSIFIERS = [
    ((TransXNet, dict(out_indices=(3,))), dict(arch="tiny"), 448, 1000, 12_834_808),
    ((TransXNet, dict(out_indices=(3,))), dict(arch="small"), 512, 1000, 26_864_068),
    ((TransXNet, dict(out_indices=(3,))), dict(arch="base"), 672, 1000, 48_009_002),
    (VIT, dict(arch="t"), 192, 10, 5_547_082),
    (VIT, dict(arch="t"), 192, 100, 5_564_452),
    (VIT, dict(arch="t"), 192, 200, 5_583_752),
    (VIT, dict(arch="t"), 192, 1000, 5_738_152),
    (VIT, dict(arch="t", **PLAIN), 192, 10, 5_519_434),
    (VIT, dict(arch="t", dw_kernel_sizes="identity"), 192, 10, 5_519_434),
    (VIT, dict(arch="t", **NO_POSITION), 192, 10, 5_509_258),
    (VIT, dict(arch="t", **NO_POSITION, **PLAIN), 192, 10, 5_481_610),
    (VIT, dict(arch="t", **NO_POSITION, dw_kernel_sizes=(5,)), 192, 10, 5_546_122),
    (VIT, dict(arch="t", **NO_POSITION, dw_kernel_sizes=(7,)), 192, 10, 5_601_418),
    (VIT, dict(arch="t", **NO_POSITION, dw_kernel_sizes=(3, 5)), 192, 10, 5_573_770),
    (VIT, dict(arch="t", **NO_POSITION, dw_kernel_sizes=(3, 5, 7)), 192, 10, 5_693_578),
    (VIT, dict(arch="s"), 384, 10, 21_710_986),
    (VIT, dict(arch="s", **PLAIN), 384, 10, 21_655_690),
    (VIT, dict(arch="s", **NO_POSITION), 384, 10, 21_635_338),
    (VIT, dict(arch="s", **NO_POSITION, **PLAIN), 384, 10, 21_580_042),
    (CAIT, dict(arch="xxs12"), 192, 10, 6_441_290),
    (CAIT, dict(arch="xxs12", **PLAIN), 192, 10, 6_413_642),
    (CAIT, dict(arch="xxs12", **STRIPPED), 192, 10, 6_397_834),
    (CAIT, dict(arch="xxs12", **STRIPPED, **PLAIN), 192, 10, 6_370_186),
    (CAIT, dict(arch="xxs12", layer_scale=False), 192, 10, 6_435_914),
    (CAIT, dict(arch="xxs12", **STRIPPED, dw_span=2), 192, 10, 6_384_010),
    (CAIT, dict(arch="xxs12", **STRIPPED, dw_span=3), 192, 10, 6_379_402),
    (CAIT, dict(arch="xxs12", **STRIPPED, dw_span=4), 192, 10, 6_377_098),
    (CAIT, dict(arch="xxs24"), 192, 10, 11_805_386),
    (CAIT, dict(arch="xxs24", **PLAIN), 192, 10, 11_750_090),
    (CAIT, dict(arch="xxs24", **STRIPPED), 192, 10, 11_756_938),
    (CAIT, dict(arch="xxs24", **STRIPPED, **PLAIN), 192, 10, 11_701_642),
    (CAIT, dict(arch="xxs24", layer_scale=False), 192, 10, 11_795_402),
    (CAIT, dict(arch="xxs24", **STRIPPED, dw_span=2), 192, 10, 11_729_290),
    (CAIT, dict(arch="xxs24", **STRIPPED, dw_span=3), 192, 10, 11_720_074),
    (CAIT, dict(arch="xxs24", **STRIPPED, dw_span=4), 192, 10, 11_715_466),
    (SWIN, {}, 768, 10, 27_580_036),
    (SWIN, PLAIN, 768, 10, 27_527_044),
    (SWIN, dict(dw_kernel_sizes=(3, 5)), 768, 10, 27_703_684),
    (SWIN, dict(dw_span=2), 768, 10, 27_527_044 + 26_496),
    (SWIN, dict(dw_span="stage"), 768, 10, 27_527_044 + 17_280),
    (XF, COVARIANCE, 640, 1000, 5_530_828),
    (XF, dict(attention="context_score"), 640, 1000, 5_532_577),
    # Three D x D matrices with bias become four: + sum of L (D^2 + D).
    (XF, dict(output_projection=True), 640, 1000,
     5_530_828 + 2 * 20_880 + 4 * 37_056 + 3 * 57_840),
    (XF, dict(patch_size=1), 640, 1000, 5_530_828),
    (XF, dict(activation="silu", mlp_activation="hard_swish"), 640, 1000, 5_530_828),
    (XF, dict(fusion_kernel_size=1), 640, 1000, 5_530_828 - 8 * 2 * (96**2 + 128**2 + 160**2)),
    (XF, dict(kernel_size=5), 640, 1000, 5_530_828 + 16 * 4 * (16 + 32 + 2 * 64 + 64 + 96 + 128)),
    *(
        (DM, dict(options, arch=arch), 512, 1000, count)
        for options, small, large in [
            (dict(), 26_670_736, 45_007_624),
            (dict(gate_reduction=4), 27_190_648, 45_920_360),
            (dict(gate_reduction=16), 26_410_780, 44_551_256),
            (dict(gate_reduction=None), 26_144_872, 44_083_880),
            (dict(depthwise_ffn=False), 26_492_176, 44_677_384),
            (dict(output_conv=False), 24_588_112, 41_351_176),
            (dict(layer_scale_init=None), 26_658_832, 44_985_608),
            (dict(downsample_kernel=2), 25_605_776, 43_942_664),
            (dict(stem_convs=2), 26_707_728, 45_044_616),
            (dict(expand=3, merge="split"), 30_835_984, 52_320_520),
            (dict(merge="sum"), 22_493_584, 37_672_712),
            (dict(merge="split"), 22_151_608, 37_040_224),
            (dict(block_norm_cfg=dict(type="LN2d")), 26_670_736, 45_007_624),
        ]
        for arch, count in (("small", small), ("large", large))
    ),
]
# Multiply-accumulates of convolutions and matrix products with a classifier of 1000 classes, in
# billions, at a size of image, as far as the papers' digits go.
OPERATIONS = [
    (DM, dict(arch="s"), 512, 224, pytest.approx(4.947, rel=1e-3)),
    (DM, dict(arch="l"), 512, 224, pytest.approx(8.667, rel=1e-3)),
    (DM, dict(arch="s"), 512, 512, pytest.approx(25.84, rel=1e-3)),
    (DM, dict(arch="l"), 512, 512, pytest.approx(45.27, rel=1e-3)),
    (XF, COVARIANCE, 640, 256, pytest.approx(1.778, rel=1e-3)),
    (XF, COVARIANCE, 640, 224, pytest.approx(1.38, rel=5e-3)),
    (XF, dict(attention="context_score"), 640, 256, pytest.approx(1.733, rel=1e-3)),
    (XF, dict(attention="context_score"), 640, 224, pytest.approx(1.35, rel=5e-3)),
]
# The same with ten classes and, as the paper counts by fvcore, 5 operations an element of layer
# normalisations and 2 of batch normalisations.
OPERATIONS_WITH_NORMS = [
    (VIT, dict(arch="t"), 192, 1.263000384),
    (VIT, dict(arch="t", **PLAIN), 192, 1.25803296),
    (VIT, dict(arch="s"), 384, 4.617516672),
    (VIT, dict(arch="s", **PLAIN), 384, 4.607581824),
    (CAIT, dict(arch="xxs12"), 192, 1.300563584),
    (CAIT, dict(arch="xxs12", **PLAIN), 192, 1.29559616),
    (CAIT, dict(arch="xxs12", **STRIPPED), 192, 1.285799232),
    (CAIT, dict(arch="xxs12", **STRIPPED, **PLAIN), 192, 1.280831808),
    (CAIT, dict(arch="xxs24"), 192, 2.542269056),
    (CAIT, dict(arch="xxs24", **PLAIN), 192, 2.532334208),
    (CAIT, dict(arch="xxs24", **STRIPPED), 192, 2.51275296),
    (CAIT, dict(arch="xxs24", **STRIPPED, **PLAIN), 192, 2.502818112),
    (SWIN, {}, 768, 4.524164352),
    (SWIN, PLAIN, 768, 4.508434176),
]
# fmt: on


@pytest.mark.parametrize(("host", "options", "count"), DENSE)
def test_parameters_of_a_dense_backbone(host, options, count) -> None:
    assert parameters(on_meta(host, **options)) == count


@pytest.mark.parametrize(("host", "options", "channels", "classes", "count"), CLASSIFIERS)
def test_parameters_of_a_classifier(host, options, channels, classes, count) -> None:
    assert parameters(on_meta(host, **options)) + (channels + 1) * classes == count


def multiply_accumulates(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("host", "options", "channels", "size", "billions"), OPERATIONS)
def test_operations(host, options, channels, size, billions) -> None:
    model = on_meta(host, **options, out_indices=(3,))
    assert (multiply_accumulates(model, size) + channels * 1000) / 1e9 == billions


@pytest.mark.parametrize(("host", "options", "channels", "billions"), OPERATIONS_WITH_NORMS)
def test_operations_with_normalisations(host, options, channels, billions) -> None:
    model = on_meta(host, **options)
    norms = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            factor = 5 if isinstance(module, nn.LayerNorm) else 2
            module.register_forward_hook(
                lambda module, inputs, output, factor=factor: norms.append(factor * output.numel())
            )
    counted = multiply_accumulates(model, 224) + channels * 10 + sum(norms)
    assert counted == round(billions * 1e9)


def test_parameters_of_the_parts_of_xformer() -> None:
    model = on_meta(XF)
    assert [parameters(part) for part in model.stem] == [464, 6_096]
    assert [parameters(stage) for stage in model.stages] == [161_056, 648_104, 1_698_032, 2_272_396]
    assert parameters(model.head) == 103_680
    layers = [stage[-1].layers[0] for stage in model.stages[1:]]
    assert [parameters(layer) for layer in layers] == [146_596, 259_972, 405_604]
    gates = [m.gate for m in model.modules() if isinstance(m, InvertedResidual)]
    assert [gate[1].out_channels for gate in gates] == [16, 32, 64, 64, 64, 96, 128]


def test_xformer_under_yolov3() -> None:
    pytest.importorskip("mmdet")
    from mmdet.models import YOLOV3Head, YOLOV3Neck

    backbone = on_meta((XFormer, {}), out_indices=(1, 2, 3))
    widths = dict(in_channels=[*reversed(backbone.feature_channels)], out_channels=[96, 96, 96])
    with torch.device("meta"):
        neck = YOLOV3Neck(num_scales=3, **widths)
        head = YOLOV3Head(num_classes=80, in_channels=[96, 96, 96], out_channels=[96, 96, 96])
    assert parameters(neck) + parameters(head) == 1_507_677
    model = nn.Sequential(backbone, neck, head)
    assert 6.25e6 < parameters(model) < 6.35e6
    assert 3.75e9 < multiply_accumulates(model, 320) < 3.85e9


def test_xformer_under_the_all_mlp_decoder() -> None:
    pytest.importorskip("mmseg")
    from mmseg.models.decode_heads import SegformerHead

    backbone = on_meta((XFormer, {}))
    with torch.device("meta"):
        head = SegformerHead(
            in_channels=list(backbone.feature_channels),
            in_index=[0, 1, 2, 3],
            channels=256,
            num_classes=19,
            norm_cfg=dict(type="BN"),
        )
    model = nn.Sequential(backbone, head)
    assert parameters(model) == pytest.approx(5.17e6, abs=0.005e6)
    assert multiply_accumulates(model, 512) == pytest.approx(23.7e9 / 2, rel=5e-3)
