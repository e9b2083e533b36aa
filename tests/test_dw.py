"""The hosts of the depth-wise shortcut against the published code, and what they add."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmhybrid.backbones import DWCaiT, DWSwinTransformer, DWVisionTransformer
from mmhybrid.layers import attention as attention_module
from mmhybrid.layers.attention import attention
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcut, DepthwiseShortcuts
from mmhybrid.layers.transformer_block import TransformerBlock
from mmhybrid.layers.window_attention import WindowAttention, cut_windows
from mmhybrid.weights import load_weights

VIT = dict(type="mmhybrid.DWVisionTransformer", out_type="cls_token")
CAIT = dict(type="mmhybrid.DWCaiT", out_type="cls_token")
# Name in the reference data: backbone, width of the classifier's input.
PUBLISHED = {
    "vit_tiny": (dict(VIT, arch="tiny"), 192),
    "vit_small": (dict(VIT, arch="small"), 384),
    "cait_xxs12": (dict(CAIT, arch="xxs12"), 192),
    "cait_xxs24": (dict(CAIT, arch="xxs24"), 192),
    "swin_t": (dict(type="mmhybrid.DWSwinTransformer", arch="tiny", out_indices=(3,)), 768),
}
PLAIN = dict(dw_kernel_sizes=())
NO_POSITION = dict(position_embedding=False)
STRIPPED = dict(layer_scale=False, talking_heads=False, position_embedding=False)
TINY_VIT = dict(DWVisionTransformer.test_options, image_size=64)
TINY_CAIT = dict(DWCaiT.test_options, image_size=64)
TINY_SWIN = DWSwinTransformer.test_options


def classifier(backbone: dict, channels: int) -> nn.Module:
    pytest.importorskip("mmpretrain")
    neck = dict(type="GlobalAveragePooling") if "out_indices" in backbone else None
    head = dict(type="LinearClsHead", num_classes=10, in_channels=channels)
    cfg = dict(type="mmpretrain.ImageClassifier", backbone=backbone, neck=neck, head=head)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(cfg).double()


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model.head(model.extract_feat(x))


def published_weights(entries: dict, filled: int, zeroed: bool = False) -> dict[str, Tensor]:
    """Weights under the published names, filled by the rule of the reference values."""
    weights = {k: torch.zeros(shape) for k, (shape, _) in entries.items()}
    names = sorted(k for k, (_, t) in entries.items() if "float" in t and "attn_mask" not in k)
    assert len(names) == filled
    for j, key in enumerate(names):
        shape = entries[key][0]
        value = 0.05 * torch.sin(0.1 * torch.arange(math.prod(shape), dtype=torch.float64) + j)
        if key.endswith("running_var") or (len(shape) == 1 and key.endswith(".weight")):
            value = value + 1
        if "convs." in key:
            value = value * (0 if zeroed else 4 if len(shape) == 4 else 1)
        weights[key] = value.reshape(shape)
    return weights


@pytest.mark.full_size
@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_published_code(published_keys, root, name) -> None:
    expected = json.loads((root / "tests" / "data" / "dw_golden.json").read_text())[name]
    entries, filled = published_keys[f"dw_{name}"], expected.pop("n_float_keys")
    backbone, channels = PUBLISHED[name]
    weights = published_weights(entries, filled)
    model = classifier(backbone, channels)
    report = load_weights(model, weights)
    assert (report.missing_keys, report.unexpected_keys, report.mismatched) == ([], [], {})
    x = torch.sin(0.01 * torch.arange(2 * 3 * 224**2, dtype=torch.float64)).view(2, 3, 224, 224)
    got = {"eval": logits(model.eval(), x), "train": logits(model.train(), x)}
    got["eval1"] = got["eval"][1:]
    load_weights(model, published_weights(entries, filled, zeroed=True))
    got["eval_dw_zeroed"] = logits(model.eval(), x)
    # The plain host is the model without shortcuts.
    plain = classifier(dict(backbone, **PLAIN), channels)
    report = load_weights(plain, weights)
    assert report.missing_keys == []
    assert all(".convs." in key or ".batchnorms." in key for key in report.unexpected_keys)
    got["plain"], expected["plain"] = logits(plain.eval(), x), expected["eval_dw_zeroed"]
    for case, values in expected.items():
        values = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(got[case][0, : len(values)], values, rtol=0, atol=1e-9)


def test_shortcut_is_gelu_then_norm_then_convolution() -> None:
    shortcut = DepthwiseShortcut(8, (3, 5), dict(type="BN")).double().eval()
    for norm in shortcut.norms:
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight)
    tokens = torch.randn(2, 1 + 3 * 4, 8, dtype=torch.float64)
    grid = F.gelu(tokens[:, 1:]).reshape(2, 3, 4, 8).permute(0, 3, 1, 2)
    branches = zip(shortcut.convs, shortcut.norms, strict=True)
    expected = sum(conv(norm(grid)) for conv, norm in branches)
    added = shortcut(tokens, (3, 4), num_class_tokens=1)
    assert torch.equal(added[:, 0], torch.zeros(2, 8, dtype=torch.float64))
    torch.testing.assert_close(added[:, 1:], expected.flatten(2).transpose(1, 2))
    identity = DepthwiseShortcuts(8, 1, kernel_sizes="identity", span=1, norm_cfg=dict(type="BN"))
    assert torch.equal(identity[0](tokens, (3, 4), 1), tokens.index_fill(1, torch.tensor(0), 0))


@pytest.mark.parametrize("span", [1, 2, 4, 9, "stage"])
def test_span_and_its_remainder(span) -> None:
    step = 5 if span == "stage" else span
    groups = [list(range(i, min(i + step, 5))) for i in range(0, 5, step)]
    shortcuts = DepthwiseShortcuts(4, 5, kernel_sizes=(3,), span=span, norm_cfg=dict(type="BN"))
    shortcuts.eval()
    assert [list(indices) for indices, _ in shortcuts.groups()] == groups
    assert [shortcuts.last_bypassed(i) for i in range(len(shortcuts))] == [g[-1] for g in groups]
    blocks = [nn.Linear(4, 4) for _ in range(5)]
    x = expected = torch.randn(2, 6, 4)
    for group, shortcut in zip(groups, shortcuts, strict=True):
        bypassing = expected
        for index in group:
            expected = blocks[index](expected)
        expected = expected + shortcut(bypassing, (2, 3))
    got = shortcuts.run(blocks, x, (2, 3), lambda module, *inputs: module(*inputs))
    torch.testing.assert_close(got, expected)


def test_last_shortcut_of_a_class_token_is_dead_but_has_a_gradient() -> None:
    model = DWVisionTransformer(**TINY_VIT, out_type="cls_token")
    (y,) = model(torch.randn(2, 3, 64, 64))
    assert y.shape == (2, *model.feature_channels)
    y.square().sum().backward()
    assert all(p.grad.count_nonzero() == 0 for p in model.shortcuts[-1].parameters())
    assert all(p.grad.count_nonzero() > 0 for p in model.shortcuts[0].convs.parameters())


@pytest.mark.parametrize("out_type", ["featmap", "cls_token"])
@pytest.mark.parametrize(
    ("host", "options"),
    [
        *((DWVisionTransformer, o) for o in ({}, dict(dw_kernel_sizes=(3, 5), dw_span=2))),
        (DWVisionTransformer, NO_POSITION),
        *((DWCaiT, o) for o in ({}, STRIPPED, dict(layer_dropout=0.5, dw_span="stage"))),
    ],
)
def test_every_parameter_of_a_plain_host_gets_a_gradient(host, options, out_type) -> None:
    model = host(**TINY_VIT, **options, out_type=out_type).train()
    sum(y.square().sum() for y in model(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_a_class_token() -> None:
    model = DWVisionTransformer(**TINY_VIT, class_token=False).eval()
    assert model.pos_embedding.shape == (1, 16, 48)
    assert "cls_token" not in dict(model.named_parameters())
    maps = model(torch.randn(1, 3, 64, 96))
    assert [y.shape[1:] for y in maps] == [(12, 16, 24), (24, 8, 12), (48, 4, 6), (48, 2, 3)]


def test_positions_are_resized_from_one_size_to_another() -> None:
    small, large = (DWVisionTransformer(**TINY_VIT | dict(image_size=side)) for side in (64, 128))
    assert torch.equal(small.positions((4, 4), 1), small.pos_embedding)
    wide = small.positions((4, 6), 1)
    assert wide.shape == (1, 25, 48)
    assert torch.equal(wide[:, :1], small.pos_embedding[:, :1])
    assert load_weights(large, small.state_dict()).adapted == ["pos_embedding"]
    as_loaded = DWVisionTransformer(**TINY_VIT, position_antialias=True)
    as_loaded.load_state_dict(small.state_dict())
    torch.testing.assert_close(large.pos_embedding.data, as_loaded.positions((8, 8), 1).data)
    assert not torch.allclose(as_loaded.positions((8, 8), 1), small.positions((8, 8), 1))
    # And position biases to another window.
    wide = DWSwinTransformer(arch=dict(TINY_SWIN["arch"], window_size=8))
    report = load_weights(wide, DWSwinTransformer(**TINY_SWIN).state_dict())
    assert (len(report.adapted), report.mismatched) == (8, {})


def test_what_lies_outside_the_image_is_cut_off() -> None:
    model = DWVisionTransformer(**TINY_VIT).eval()
    x = torch.randn(1, 3, 45, 50)
    whole = model(F.pad(x, (0, 14, 0, 3)))
    maps = model(x)
    cut = tuple(w[..., : y.shape[-2], : y.shape[-1]] for y, w in zip(maps, whole, strict=True))
    torch.testing.assert_close(maps, cut)


@pytest.mark.parametrize("talking_heads", [False, True])
def test_attention_with_talking_heads_and_context(talking_heads) -> None:
    attn = TransformerBlock(12, 3, talking_heads=talking_heads).double().attn
    x, context = torch.randn(2, 1, 12).double(), torch.randn(2, 5, 12).double()
    q, (k, v) = attn.q(x), attn.kv(torch.cat([x, context], 1)).chunk(2, -1)
    heads = [slice(i, i + 4) for i in (0, 4, 8)]
    scores = torch.stack([q[..., s] @ k[..., s].transpose(1, 2) / 2 for s in heads], -1)
    if talking_heads:
        weights = (scores @ attn.mix_heads_pre_attn).softmax(2) @ attn.mix_heads_post_attn
    else:
        weights = scores.softmax(2)
    out = torch.cat([weights[..., h] @ v[..., s] for h, s in enumerate(heads)], -1)
    torch.testing.assert_close(attn(x, context), attn.proj(out))


@pytest.mark.parametrize("few_keys", [0, 7])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_of_few_keys_in_training(few_keys, autocast, biased, monkeypatch) -> None:
    monkeypatch.setattr(attention_module, "FEW_KEYS", few_keys)
    inputs = [torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7)]
    inputs += [torch.randn(1, 3, 5, 7, dtype=torch.float64)] if biased else []
    grad = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    results = []
    for dtype, function in ((torch.float64, _plain_attention), (None, attention)):
        dtype = dtype or (torch.float32 if autocast else torch.float64)
        given = [x.detach().to(dtype).requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and function is attention):
            y = function(*given)
        results.append([y, *torch.autograd.grad(y, given, grad.to(y.dtype))])
    tolerance = 0.05 if autocast else 1e-12
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v


def test_layer_dropout_leaves_each_shortcut_in_its_place() -> None:
    model = DWCaiT(**TINY_CAIT, layer_dropout=1 - 1e-9, out_indices=(2,)).train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    tokens, size = model.embed_patches(torch.randn(2, 3, 64, 64))
    expected = tokens
    for shortcut in model.shortcuts:  # every block is skipped, no shortcut is
        expected = expected + shortcut(expected, size)
    got = model.shortcuts.run(model.blocks, tokens, size, model.run_block)
    torch.testing.assert_close(got, expected)
    half = TransformerBlock(8, 2, layer_dropout=0.5).train()
    x = torch.randn(400, 3, 8)
    same = (half(x) == x).all(dim=(1, 2))
    assert 140 < same.sum() < 260  # six standard deviations
    assert not (half.eval()(x) == x).all(dim=(1, 2)).any()


@pytest.mark.parametrize("size", [(8, 8), (5, 11), (4, 9), (3, 3), (4, 4), (2, 13)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_is_that_of_neighbours_in_a_window(size, shifted) -> None:
    """Token by token: who shares a (shifted) window of 4 with whom, and nobody else."""
    (height, width), window, heads, dim = size, 4, 2, 3
    attn = WindowAttention(heads * dim, heads, window).double()
    nn.init.normal_(attn.relative_position_bias_table)
    x = torch.randn(2, height * width, heads * dim, dtype=torch.float64)
    sides = [-(-side // window) * window for side in size]
    grid = F.pad(x.unflatten(1, size), (0, 0, 0, sides[1] - width, 0, sides[0] - height))
    mates, offsets = torch.tensor(True), torch.tensor(0)
    for place, side in zip(torch.cartesian_prod(*map(torch.arange, sides)).T, sides, strict=True):
        # Below zero in the part that the shift cuts off.
        cell = (place - (window // 2 if shifted and side > window else 0)).div(window).floor()
        mates = mates & (cell[:, None] == cell)
        offsets = 7 * offsets + place[:, None] - place + 3
    bias = attn.relative_position_bias_table[offsets.where(mates, 0)].permute(2, 0, 1)
    q, k, v = attn.qkv(grid.flatten(1, 2)).unflatten(-1, (3, heads, dim)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, bias.where(mates, -math.inf))
    expected = attn.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, sides)
    expected = expected[:, :height, :width].flatten(1, 2)
    got = attn(x, cut_windows(height, width, window, shifted, x.device))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_shifted_windows_can_be_switched_off() -> None:
    x = torch.randn(1, 3, 64, 64)
    shifted = DWSwinTransformer(**TINY_SWIN).eval()
    regular = DWSwinTransformer(**TINY_SWIN, shifted_windows=False).eval()
    regular.load_state_dict(shifted.state_dict())
    assert not any(block.shifted for layer in regular.layers for block in layer.blocks)
    assert not torch.allclose(shifted(x)[1], regular(x)[1])
    # Stages after the last output are not built.
    assert len(DWSwinTransformer(**TINY_SWIN, out_indices=(0,)).layers) == 1


@pytest.mark.parametrize("host", [DWVisionTransformer, DWCaiT, DWSwinTransformer])
def test_identity_shortcuts_add_the_blocks_inputs_once_more(host) -> None:
    """The paper's ablation: no more parameters than the plain host, another output."""
    identity = host(**host.test_options, dw_kernel_sizes="identity").eval()
    plain = host(**host.test_options, **PLAIN).eval()
    plain.load_state_dict(identity.state_dict())  # strictly: the same parameters
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(identity(x)[-1], plain(x)[-1])
