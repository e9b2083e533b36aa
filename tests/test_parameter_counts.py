"""Parameters and operations of every family and of its variants: those of papers and authors' code.

Nothing is computed: the models lie on PyTorch's meta device, which knows shapes alone. TransXNet's
are those of its configs and of the model index, which have tests of their own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmhybrid.backbones import DMFormer, DWCaiT, DWSwinTransformer, DWVisionTransformer, XFormer
from mmhybrid.layers.inverted_residual import InvertedResidual

# Backbone, arguments, and channels of the last map of each arch.
VIT = (DWVisionTransformer, dict(out_type="cls_token"), dict(tiny=192, small=384))
CAIT = (DWCaiT, dict(out_type="cls_token"), dict(xxs12=192, xxs24=192))
SWIN = (DWSwinTransformer, dict(out_indices=(3,)), dict(tiny=768))
XF = (XFormer, dict(head_channels=640, out_indices=(3,)), dict(small=640))
DM = (DMFormer, dict(out_indices=(3,)), dict(small=512, large=512))
PLAIN = dict(dw_kernel_sizes=())
NO_POSITION = dict(position_embedding=False)
STRIPPED = dict(layer_scale=False, talking_heads=False, position_embedding=False)
CONTEXT_SCORE = dict(attention="context_score")


def on_meta(backbone: type[nn.Module], **options: Any) -> nn.Module:
    with torch.device("meta"):
        return backbone(**options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cases(host: tuple[type[nn.Module], dict, dict], *rows: Sequence) -> Iterator[tuple]:
    """Each row: options, and a figure for each arch or for the first alone."""
    backbone, defaults, archs = host
    for options, *figures in rows:
        for (arch, channels), figure in zip(archs.items(), figures, strict=False):
            yield backbone, dict(defaults, arch=arch, **options), channels, figure


# Parameters with a linear classifier of ten classes; of a thousand for XFormer and DMFormer.
# fmt: off
PARAMETERS = [
    *cases(
        VIT,
        ({}, 5_547_082, 21_710_986), (PLAIN, 5_519_434, 21_655_690),
        (NO_POSITION, 5_509_258, 21_635_338), (NO_POSITION | PLAIN, 5_481_610, 21_580_042),
        (dict(dw_kernel_sizes="identity"), 5_519_434),
        (dict(NO_POSITION, dw_kernel_sizes=(5,)), 5_546_122),
        (dict(NO_POSITION, dw_kernel_sizes=(7,)), 5_601_418),
        (dict(NO_POSITION, dw_kernel_sizes=(3, 5)), 5_573_770),
        (dict(NO_POSITION, dw_kernel_sizes=(3, 5, 7)), 5_693_578),
    ),
    *cases(
        CAIT,
        ({}, 6_441_290, 11_805_386), (PLAIN, 6_413_642, 11_750_090),
        (STRIPPED, 6_397_834, 11_756_938), (STRIPPED | PLAIN, 6_370_186, 11_701_642),
        (dict(layer_scale=False), 6_435_914, 11_795_402),
        (dict(STRIPPED, dw_span=2), 6_384_010, 11_729_290),
        (dict(STRIPPED, dw_span=3), 6_379_402, 11_720_074),
        (dict(STRIPPED, dw_span=4), 6_377_098, 11_715_466),
    ),
    *cases(
        SWIN,
        ({}, 27_580_036), (PLAIN, 27_527_044), (dict(dw_kernel_sizes=(3, 5)), 27_703_684),
        (dict(dw_span=2), 27_527_044 + 26_496), (dict(dw_span="stage"), 27_527_044 + 17_280),
    ),
    *cases(
        XF,
        ({}, 5_530_828), (CONTEXT_SCORE, 5_532_577), (dict(patch_size=1), 5_530_828),
        (dict(activation="silu", mlp_activation="hard_swish"), 5_530_828),
        # Three D x D matrices with bias become four: + sum of L (D^2 + D).
        (dict(output_projection=True), 5_530_828 + 2 * 20_880 + 4 * 37_056 + 3 * 57_840),
        (dict(fusion_kernel_size=1), 5_530_828 - 8 * 2 * (96**2 + 128**2 + 160**2)),
        (dict(kernel_size=5), 5_530_828 + 16 * 4 * (16 + 32 + 2 * 64 + 64 + 96 + 128)),
    ),
    *cases(
        DM,
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
    ),
]
# Multiply-accumulates of convolutions and matrix products with a classifier of 1000 classes, in
# billions, at a size of image, as far as the papers' digits go.
OPERATIONS = [
    (224, 1e-3, cases(DM, ({}, 4.947, 8.667))),
    (512, 1e-3, cases(DM, ({}, 25.84, 45.27))),
    (256, 1e-3, cases(XF, ({}, 1.778), (CONTEXT_SCORE, 1.733))),
    (224, 5e-3, cases(XF, ({}, 1.38), (CONTEXT_SCORE, 1.35))),
]
# The same with ten classes and, as the paper counts by fvcore, 5 operations an element of layer
# normalisations and 2 of batch normalisations.
OPERATIONS_WITH_NORMS = [
    *cases(VIT, ({}, 1.263000384, 4.617516672), (PLAIN, 1.25803296, 4.607581824)),
    *cases(CAIT, ({}, 1.300563584, 2.542269056), (PLAIN, 1.29559616, 2.532334208)),
    *cases(CAIT, (STRIPPED, 1.285799232, 2.51275296), (STRIPPED | PLAIN, 1.280831808, 2.502818112)),
    *cases(SWIN, ({}, 4.524164352), (PLAIN, 4.508434176)),
]
# fmt: on


@pytest.mark.parametrize(("backbone", "options", "channels", "count"), PARAMETERS)
def test_parameters(backbone, options, channels, count) -> None:
    classes = 1000 if backbone in (XFormer, DMFormer) else 10
    assert parameters(on_meta(backbone, **options)) + (channels + 1) * classes == count


def multiply_accumulates(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("size", "rel", "backbone", "options", "channels", "billions"),
    [(size, rel, *case) for size, rel, rows in OPERATIONS for case in rows],
)
def test_operations(size, rel, backbone, options, channels, billions) -> None:
    counted = multiply_accumulates(on_meta(backbone, **options), size) + channels * 1000
    assert counted / 1e9 == pytest.approx(billions, rel=rel)


@pytest.mark.parametrize(("backbone", "options", "channels", "billions"), OPERATIONS_WITH_NORMS)
def test_operations_with_normalisations(backbone, options, channels, billions) -> None:
    model = on_meta(backbone, **options)
    norms = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            factor = 5 if isinstance(module, nn.LayerNorm) else 2
            module.register_forward_hook(lambda *args, n=factor: norms.append(n * args[2].numel()))
    counted = multiply_accumulates(model, 224) + channels * 10 + sum(norms)
    assert counted == round(billions * 1e9)


def test_parameters_of_the_parts_of_xformer() -> None:
    model = on_meta(XFormer, head_channels=640)
    assert [parameters(part) for part in model.stem] == [464, 6_096]
    assert [parameters(stage) for stage in model.stages] == [161_056, 648_104, 1_698_032, 2_272_396]
    assert parameters(model.head) == 103_680
    layers = [stage[-1].layers[0] for stage in model.stages[1:]]
    assert [parameters(layer) for layer in layers] == [146_596, 259_972, 405_604]
    gates = [m.gate for m in model.modules() if isinstance(m, InvertedResidual)]
    assert [gate[1].out_channels for gate in gates] == [16, 32, 64, 64, 64, 96, 128]


def test_xformer_under_the_all_mlp_decoder(read_config) -> None:
    cfg = read_config("segformer_xformer_s_cityscapes")
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert parameters(model) == pytest.approx(5.17e6, abs=0.005e6)
    dense = nn.Sequential(model.backbone, model.decode_head)
    assert multiply_accumulates(dense, 512) == pytest.approx(23.7e9 / 2, rel=5e-3)
