"""The reconstruction of DMFormer: what is known of its attention and its blocks."""

import pytest
import torch
from torch import nn

from mmhybrid.backbones import DMFormer
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.norm import LayerNorm2d

TINY = DMFormer.test_options
BN = dict(type="BN")


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
    names = ("concat", "sum", "split")
    concat, added, split = (DynamicMultiLevelAttention(6, merge=n, norm_cfg=BN) for n in names)
    for other in (added, split):
        other.expand.load_state_dict(concat.expand.state_dict())
    added.branches.load_state_dict(concat.branches.state_dict())
    torch.testing.assert_close(added.levels(x), sum(concat.levels(x).chunk(3, dim=1)))
    shares = split.expand(x).chunk(3, dim=1)
    expected = [branch(share) for branch, share in zip(split.branches, shares, strict=True)]
    torch.testing.assert_close(split.levels(x), torch.cat(expected, dim=1))
    # Widths that the branches do not divide: the first takes the remainder.
    assert DynamicMultiLevelAttention(64, merge="split", norm_cfg=BN).widths == [22, 21, 21]


def test_gate_is_a_factor_per_channel_that_depends_on_the_input() -> None:
    attention = DynamicMultiLevelAttention(64, norm_cfg=BN)
    x = torch.randn(2, 64, 8, 8)
    gate = attention.gate(x)
    assert gate.shape == (2, 64, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    assert not torch.allclose(gate, attention.gate(x + 1))
    # Without the levels, attention is gate times convolution.
    nn.init.zeros_(attention.reduce.weight)
    nn.init.zeros_(attention.reduce.bias)
    torch.testing.assert_close(attention(x), gate * attention.proj(x))
    attention.gate = None
    torch.testing.assert_close(attention(x), attention.proj(x))


def test_a_block_normalises_as_it_is_told() -> None:
    model = DMFormer(**TINY, block_norm_cfg=dict(type="LN2d"))
    block = model.stages[0][0]
    assert all(isinstance(norm, LayerNorm2d) for norm in (block.norm1, block.norm2))
    assert isinstance(block.attention.norm, nn.BatchNorm2d)
    x = torch.randn(2, 16, 5, 6)
    normalised = block.norm1(x)
    torch.testing.assert_close(normalised.mean(dim=1), torch.zeros(2, 5, 6), atol=1e-5, rtol=0)
    model(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("downsample_kernel", [2, 3])
def test_odd_maps_are_rounded_up(downsample_kernel) -> None:
    model = DMFormer(**TINY, downsample_kernel=downsample_kernel).eval()
    outputs = model(torch.randn(1, 3, 75, 101))
    assert [tuple(y.shape[2:]) for y in outputs] == [(19, 26), (10, 13), (5, 7), (3, 4)]
    # The rim of an odd map counts: 33 pixels are 17 after the first convolution.
    x = torch.randn(1, 3, 33, 33)
    before = model.stem(x)[..., -1, -1]
    x[..., -1, -1] += 1
    assert not torch.equal(model.stem(x)[..., -1, -1], before)
