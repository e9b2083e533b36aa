"""The reconstruction of DMFormer: its counts, and what is known of its attention."""

import copy

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmhybrid.backbones import DMFormer
from mmhybrid.deploy import fuse
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.norm import LayerNorm2d

CLASSIFIER = 512 * 1000 + 1000
SMALL = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 1))
BN = dict(type="BN")


def parameters(**options) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in DMFormer(**options).parameters()) + CLASSIFIER


@pytest.mark.parametrize(
    ("options", "small", "large"),
    [
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
    ],
    ids=str,
)
def test_parameters_with_a_classifier_of_1000(options, small, large) -> None:
    assert parameters(arch="small", **options) == small
    assert parameters(arch="large", **options) == large


@pytest.mark.parametrize(
    ("arch", "size", "giga"),
    [("s", 224, 4.947), ("l", 224, 8.667), ("s", 512, 25.84), ("l", 512, 45.27)],
)
def test_multiply_accumulates(arch, size, giga) -> None:
    with torch.device("meta"):
        model = DMFormer(arch, out_indices=(3,)).eval()
        x = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e9 + 512e-6 == pytest.approx(giga, rel=1e-3)


@pytest.mark.parametrize("merge", ["concat", "sum", "split"])
@pytest.mark.parametrize("expand", [1, 3])
def test_attention_keeps_the_shape(merge, expand) -> None:
    attention = DynamicMultiLevelAttention(16, merge=merge, expand=expand, norm_cfg=BN)
    assert attention(torch.randn(2, 16, 9, 13)).shape == (2, 16, 9, 13)


def test_levels_see_3_9_and_19_pixels() -> None:
    attention = DynamicMultiLevelAttention(8, norm_cfg=BN)
    assert [branch.padding for branch in attention.branches] == [(1, 1), (4, 4), (9, 9)]
    impulse = torch.zeros(1, 8, 41, 41)
    impulse[..., 20, 20] = 1
    for branch, extent, taps in zip(attention.branches, (3, 9, 19), (3, 5, 7), strict=True):
        nn.init.ones_(branch.weight)
        nn.init.zeros_(branch.bias)
        response = branch(impulse)[0, 0]
        reached = response.any(dim=0).nonzero().flatten()
        assert reached[-1] - reached[0] + 1 == extent
        assert response.count_nonzero() == taps**2


def test_merging_is_what_its_name_says() -> None:
    x = torch.randn(2, 6, 5, 5)
    attention = {
        merge: DynamicMultiLevelAttention(6, merge=merge, norm_cfg=BN)
        for merge in ("concat", "sum", "split")
    }
    for other in ("sum", "split"):
        attention[other].expand.load_state_dict(attention["concat"].expand.state_dict())
    attention["sum"].branches.load_state_dict(attention["concat"].branches.state_dict())
    levels = attention["concat"].levels(x).chunk(3, dim=1)
    torch.testing.assert_close(attention["sum"].levels(x), sum(levels))
    for i, branch in enumerate(attention["split"].branches):
        share = attention["split"].expand(x)[:, 2 * i : 2 * i + 2]
        torch.testing.assert_close(
            attention["split"].levels(x)[:, 2 * i : 2 * i + 2], branch(share)
        )
    # Widths that the branches do not divide: the first takes the remainder.
    assert DynamicMultiLevelAttention(64, merge="split", norm_cfg=BN).widths == [22, 21, 21]


def test_gate_is_a_factor_per_channel_that_depends_on_the_input() -> None:
    attention = DynamicMultiLevelAttention(64, norm_cfg=BN)
    x = torch.randn(2, 64, 8, 8)
    gate = attention.gate(x)
    assert gate.shape == (2, 64, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    assert not torch.allclose(gate, attention.gate(x + 1))


def test_without_the_levels_attention_is_gate_times_convolution() -> None:
    attention = DynamicMultiLevelAttention(16, norm_cfg=BN)
    nn.init.zeros_(attention.reduce.weight)
    nn.init.zeros_(attention.reduce.bias)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(attention(x), attention.gate(x) * attention.proj(x))
    attention.gate = None
    torch.testing.assert_close(attention(x), attention.proj(x))


def test_a_block_normalises_as_it_is_told() -> None:
    model = DMFormer(SMALL, block_norm_cfg=dict(type="LN2d"))
    block = model.stages[0][0]
    assert isinstance(block.norm1, LayerNorm2d)
    assert isinstance(block.norm2, LayerNorm2d)
    assert isinstance(block.attention.norm, nn.BatchNorm2d)
    x = torch.randn(2, 8, 5, 6)
    normalised = block.norm1(x)
    torch.testing.assert_close(normalised.mean(dim=1), torch.zeros(2, 5, 6), atol=1e-5, rtol=0)
    model(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("downsample_kernel", [2, 3])
def test_odd_maps_are_rounded_up(downsample_kernel) -> None:
    model = DMFormer(SMALL, downsample_kernel=downsample_kernel).eval()
    outputs = model(torch.randn(1, 3, 75, 101))
    assert [tuple(y.shape[2:]) for y in outputs] == [(19, 26), (10, 13), (5, 7), (3, 4)]
    # The rim of an odd map counts: 33 pixels are 17 after the first convolution.
    x = torch.randn(1, 3, 33, 33)
    other = x.clone()
    other[..., -1, -1] += 1
    assert not torch.equal(model.stem(x)[..., -1, -1], model.stem(other)[..., -1, -1])


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="concat, sum, split"):
        DMFormer(merge="add")
    with pytest.raises(ValueError, match="differ in number"):
        DMFormer(dilations=(1, 2))
    with pytest.raises(ValueError, match="choose 2 or 3"):
        DMFormer(downsample_kernel=4)


def test_weights_load_by_name(tmp_path) -> None:
    trained = DMFormer(SMALL)
    names = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save(dict(state_dict=names), tmp_path / "trained.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "trained.pth"), prefix="backbone.")
    model = DMFormer(SMALL, init_cfg=init_cfg)
    model.init_weights()
    for name, value in trained.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@torch.no_grad()
def test_fusing_changes_nothing_but_rounding() -> None:
    model = DMFormer(SMALL).double()
    model(torch.randn(2, 3, 64, 64).double())  # some running statistics
    model.eval()
    x = torch.randn(2, 3, 75, 64).double()
    fused = fuse(copy.deepcopy(model))
    for a, b in zip(fused(x), model(x), strict=True):
        torch.testing.assert_close(a, b)
