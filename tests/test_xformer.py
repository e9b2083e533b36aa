"""The reconstruction of XFormer: what any form of its attention must do."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmhybrid.backbones import XFormer
from mmhybrid.backbones.xformer import XFBlock
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS, unit_length
from mmhybrid.layers.inverted_residual import InvertedResidual

TINY = XFormer.test_options
BN = dict(type="BN")
every_form = pytest.mark.parametrize("form", sorted(CROSS_FEATURE_ATTENTIONS))


def test_head_is_for_the_last_stage() -> None:
    model = XFormer(**TINY, head_channels=64, out_indices=(2, 3))
    assert model.feature_channels == (32, 64)
    assert [y.shape[1] for y in model(torch.randn(2, 3, 64, 64))] == [32, 64]
    # Weights of a classifier serve dense prediction.
    result = XFormer(**TINY).load_state_dict(model.state_dict(), strict=False)
    assert result.missing_keys == []
    assert {key.partition(".")[0] for key in result.unexpected_keys} == {"head"}


@every_form
@pytest.mark.parametrize("output_projection", [False, True])
def test_any_number_of_tokens_in_any_order(form, output_projection) -> None:
    attention = CROSS_FEATURE_ATTENTIONS[form](16, output_projection=output_projection).double()
    for tokens in (1, 7, 64, 1000):
        x, order = torch.randn(2, 4, tokens, 16, dtype=torch.float64), torch.randperm(tokens)
        torch.testing.assert_close(attention(x[:, :, order]), attention(x)[:, :, order])
        assert attention(x).shape == x.shape
        assert torch.isfinite(attention(x)).all()


@every_form
def test_cost_rises_linearly_with_tokens(form) -> None:
    with torch.device("meta"):
        attention = CROSS_FEATURE_ATTENTIONS[form](64)
    cost = []
    for tokens in (1024, 4096, 16384):
        with FlopCounterMode(display=False) as counter:
            attention(torch.empty(1, tokens, 64, device="meta"))
        cost.append(counter.get_total_flops())
    assert cost == [cost[0], 4 * cost[0], 16 * cost[0]]


@every_form
def test_length_of_queries_and_keys_does_not_matter(form) -> None:
    attention = CROSS_FEATURE_ATTENTIONS[form](16).double()
    x = torch.randn(2, 50, 16, dtype=torch.float64)
    before = attention(x)
    for rows in (slice(0, 16), slice(16, 32)):
        attention.qkv.weight.data[rows] *= 10
        attention.qkv.bias.data[rows] *= 10
        torch.testing.assert_close(attention(x), before)


def test_unit_length_in_half_precision() -> None:
    x = torch.full((4, 20_000), 8.0, dtype=torch.float16)  # the sum of squares overflows
    x[0] = 0
    unit = unit_length(x, dim=-1)
    assert unit.dtype == torch.float16
    torch.testing.assert_close(unit[1:], torch.full_like(x[1:], 20_000**-0.5))
    assert torch.equal(unit[0], x[0])


def test_cross_covariance_is_its_formula() -> None:
    attention = CROSS_FEATURE_ATTENTIONS["cross_covariance"](12, num_heads=3)
    nn.init.uniform_(attention.temperature, 0.5, 2)
    x = torch.randn(20, 12)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    expected = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        unit_q, unit_k = (y[:, part] / y[:, part].norm(dim=0) for y in (q, k))
        scores = attention.temperature[head] * unit_k.T @ unit_q  # key channels x query channels
        expected.append(v[:, part] @ scores.softmax(dim=0))
    torch.testing.assert_close(attention(x), torch.cat(expected, dim=-1))


def test_context_score_is_its_formula() -> None:
    attention = CROSS_FEATURE_ATTENTIONS["context_score"](12)
    nn.init.constant_(attention.scale, 3.0)
    x = torch.randn(20, 12)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    q, k = (y / y.norm(dim=-1, keepdim=True) for y in (q, k))
    context = attention.key_score(k).T @ k / 20
    torch.testing.assert_close(attention(x), 3 * q * context * v + v)
    # The same tokens twice: another image size, the same context.
    torch.testing.assert_close(attention(torch.cat([x, x])), attention(x).repeat(2, 1))


def xf_block(patch_size: int, layers: nn.Module | None = None) -> XFBlock:
    options = dict(fusion_kernel_size=3, activation=nn.Hardswish, norm_cfg=BN)
    block = XFBlock(8, [], embed_dims=4, patch_size=patch_size, **options)
    block.layers = layers or block.layers
    return block


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_unfolding_is_undone(patch_size) -> None:
    x = torch.randn(2, 4, 12, 18)
    assert torch.equal(xf_block(patch_size, nn.Identity()).encode(x), x)


def test_pixels_at_one_place_of_their_patches_form_a_group() -> None:
    class GroupMean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=2, keepdim=True).expand_as(x)

    x = torch.randn(2, 4, 6, 8)
    out = xf_block(2, GroupMean()).encode(x)
    for a, b in itertools.product(range(2), range(2)):
        mean = x[:, :, a::2, b::2].mean(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(out[:, :, a::2, b::2], mean.expand(2, 4, 3, 4))


@pytest.mark.parametrize("size", [(5, 8), (6, 7), (5, 7), (1, 1)])
def test_odd_maps_are_resized_to_even_ones_and_back(size) -> None:
    block = xf_block(2)
    x = torch.randn(2, 4, *size)
    even = [side + side % 2 for side in size]
    resized = nn.functional.interpolate(x, even, mode="bilinear")
    back = nn.functional.interpolate(block.encode(resized), size, mode="bilinear")
    torch.testing.assert_close(block.encode(x), back)


@pytest.mark.parametrize(
    ("channels", "stride", "has_residual"), [(16, 1, True), (16, 2, False), (24, 1, False)]
)
def test_mobile_block(channels, stride, has_residual) -> None:
    block = InvertedResidual(16, channels, stride=stride, norm_cfg=BN).eval()
    x = torch.randn(2, 16, 9, 9)
    nn.init.zeros_(block.reduce.bn.weight)
    side = (9 + stride - 1) // stride
    expected = x if has_residual else torch.zeros(2, channels, side, side)
    torch.testing.assert_close(block(x), expected)


@every_form
def test_dropping_paths_and_features_only_in_training(form) -> None:
    model = XFormer(**TINY, attention=form, drop_rate=0.2, drop_path_rate=0.3).train()
    x = torch.randn(4, 3, 64, 64)
    assert not torch.equal(model(x)[-1], model(x)[-1])
    rates = [block.drop_path.rate for stage in model.stages[1:] for block in stage[-1].layers[:-1]]
    assert rates == pytest.approx([0, 0.15, 0.3])
