"""Counts of parameters and operations: against the published tables, PyTorch and a pencil."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_index import read_costs
from mmhybrid.analysis import count
from mmhybrid.apis.models import model_of
from mmhybrid.backbones import DMFormer, DWSwinTransformer, DWVisionTransformer, TransXNet, XFormer
from mmhybrid.deploy import fuse
from mmhybrid.engine.runner.run_config import load_config

# Of the authors' code: parameters, and giga multiply-accumulates as mmcv 1.x counts them, at the
# sizes of the model index: 224x224, 800x1280 and 512x2048.
PUBLISHED = {
    "{}_imagenet": ((12_834_808, 1.762), (26_864_068, 4.537), (48_009_002, 8.264)),
    "retinanet_{}_coco": ((22_439_812, 187.1), (36_601_936, 243.5), (58_006_790, 319.2)),
    "mask_rcnn_{}_coco": ((32_500_704, 205.4), (46_519_500, 262.1), (67_558_810, 337.9)),
    "semantic_fpn_{}_ade20k": ((16_599_942, 122.0), (30_618_738, 180.1), (51_658_048, 257.6)),
}


def test_published_tables(root: Path) -> None:
    """The index has these figures; its own test compares it with what is built and counted."""
    costs = read_costs(root)
    for config, figures in PUBLISHED.items():
        for size, (parameters, giga) in zip("tsb", figures, strict=True):
            cost = costs[config.format(f"transxnet_{size}")]
            assert cost["parameters"] == parameters
            assert cost["flops"] / 1e9 == pytest.approx(giga, rel=0.005)


OTHER_SIZES = [("transxnet_t_imagenet", 384, 5.157), ("transxnet_s_imagenet", 384, 13.269)]
OTHER_SIZES.append(("semantic_fpn_transxnet_t_ade20k", 512, 30.5))


@pytest.mark.full_size
@pytest.mark.parametrize(("name", "side", "giga"), OTHER_SIZES)
def test_published_tables_at_other_sizes(root: Path, name: str, side: int, giga: float) -> None:
    with torch.device("meta"):
        model = model_of(load_config(root / "configs" / f"{name}.py"))
    result = count(model, (side, side))
    assert result.mm_macs / 1e9 == pytest.approx(giga, rel=0.005)
    assert result.macs > result.mm_macs  # attention


def transxnet_block() -> int:
    """The first block of TransXNet-T at 64x96: 16x24 positions, 48 channels, 2x3 keys."""
    positions, c, half, keys = 16 * 24, 48, 24, 2 * 3
    position_embedding = positions * c * 49
    # The gate sees 7x7 pooled values and the mean; its two layers have 6 and 2 x 24 channels.
    dynamic = 50 * (half * 6 + 6 * 2 * half) + positions * half * 49
    attention = positions * half**2 + keys * half * 2 * half + 2 * positions * keys * half
    attention += keys * half * (11 * 11 + 9)  # their reduction
    enhancer = positions * (c * 9 + 2 * c * 16)
    feed_forward = positions * (2 * c * 4 * c + c * (9 + 25 + 49))
    return position_embedding + dynamic + attention + enhancer + feed_forward


# The multiply-accumulates of a part at 64x96.
BY_HAND = [
    (TransXNet, "network.0.0", transxnet_block()),
    # 16x24 positions, 64 channels: attention with three kernels and a gate, then feed forward.
    (
        DMFormer,
        "stages.0.0",
        384 * (5 * 64**2 + 64 * (9 + 25 + 49)) + 2 * 64**2 // 8 + 384 * (6 * 64**2 + 3 * 64 * 9),
    ),
    # 8x12 positions, 144 channels, 4 heads.
    (XFormer, "stages.1.1.layers.0.attention", 96 * 3 * 144**2 + 2 * 96 * 144**2 // 4),
    # 16x24 positions in 3x4 windows of 49, 96 channels.
    (
        DWSwinTransformer,
        "layers.0.blocks.0",
        12 * (49 * 4 * 96**2 + 2 * 49**2 * 96) + 384 * 8 * 96**2,
    ),
    # 4x6 patches and a class token, 192 channels.
    (DWVisionTransformer, "blocks.0", 25 * 4 * 192**2 + 2 * 25**2 * 192 + 25 * 8 * 192**2),
]


@pytest.mark.parametrize(("backbone", "name", "by_hand"), BY_HAND)
def test_three_ways(backbone: type[nn.Module], name: str, by_hand: int) -> None:
    model = backbone().eval()
    ours = count(model, (64, 96))
    with FlopCounterMode(display=False) as torchs, torch.no_grad():
        model(torch.randn(1, 3, 64, 96))  # real values, through the kernels that are used
    assert ours.macs == torchs.get_total_flops() // 2
    assert {row.name: row.macs for row in ours.modules}[name] == by_hand


def test_attention_in_a_fused_kernel_counts_and_mm_style_leaves_it_out() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.conv(x).flatten(2).transpose(1, 2)[:, None].contiguous()
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    result = count(Attends(), (10, 20))
    assert result.macs == 200 * 3 * 8 + 2 * 200 * 200 * 8
    assert result.mm_macs == 200 * 3 * 8 + 200 * 8  # with the bias
    assert result.activations == 200 * 8 + 200 * 8  # and not the 200 x 200 scores
    assert result.parameters == 3 * 8 + 8


def test_mm_style_of_each_type_of_module() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),  # 4 x 4 x 4 values of 27
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.GELU(),  # not counted
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 5),
    )
    parts = [64 * 27, 2 * 64, 64, 0, 64, 16 * 2 * 4 + 2 * 16, 32, 0, 2 * 5 + 5]
    result = count(model, (8, 8))
    assert [row.mm_macs for row in result.modules] == parts
    assert result.mm_macs == sum(parts)


def test_the_model_stays_as_it_is() -> None:
    model = TransXNet("tiny").train()
    model.network[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, (3, 64, 64))
    modes = (model.training, model.network[0].training, model.network[2].training)
    assert modes == (True, False, True)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(
        type(y) is torch.Tensor and y.isfinite().all() for y in model(torch.rand(2, 3, 64, 64))
    )


@torch.no_grad()
def test_a_fused_model_still_runs_after_a_count() -> None:
    model = fuse(TransXNet("tiny").eval())
    x = torch.rand(1, 3, 64, 64)
    before = model(x)
    count(model, (64, 96))
    assert all(type(y) is torch.Tensor for y in model(torch.rand(1, 3, 64, 96)))
    after = model(x)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("shape", [(), (224,), (1, 3, 64, 64), (0, 64)])
def test_a_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \(H, W\) or \(C, H, W\)"):
        count(nn.Identity(), shape)


def test_tool(root: Path, run_tool, capsys, tmp_path: Path) -> None:
    config, out = root / "configs" / "yolov3_xformer_s_coco.py", tmp_path / "new" / "counts.json"
    run_tool("get_flops.py", config, "--depth", "1", "--json", out)
    shown = capsys.readouterr().out
    assert "Input shape: 320 x 320" in shown
    assert "(6,293,825)" in shown
    assert "FLOPs as OpenMMLab's tables count them: 3.796 G" in shown
    parts = [line.split()[1] for line in shown.splitlines() if line.startswith("|")][2:]
    assert parts == ["backbone", "neck", "bbox_head"]
    counts = json.loads(out.read_text())
    assert counts["shape"] == [3, 320, 320]
    assert counts["modules"][0]["name"] == "backbone"

    run_tool("get_flops.py", "mmdet.ResNet(depth=18)", "--shape", "64")
    assert "MACs: 0.1" in capsys.readouterr().out
